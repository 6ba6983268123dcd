"""Progress bars and messages for long work."""

import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gmixout.bench.task import LoadedTask
from gmixout.plain import printable
from gmixout.results import Record

SECONDS_BEFORE_A_BAR = 2.0
"""Shorter work shows no bar."""
SECONDS_A_LINE = 30.0
"""Without a visible bar, for example in a log file, progress is printed this often."""


def say(text: str) -> None:
    """Print one line on stderr, escaped."""
    console = Console(stderr=True, highlight=False, markup=False)
    console.print(printable(text), soft_wrap=True)


def print_notes(task: LoadedTask) -> None:
    """Print what was understood of a task's data, and its notes."""
    if task.inventory is None:
        for note in task.notes:
            say(f"{task.name}: {note}")
        return
    say(f"{task.name}, data at {task.inventory.root}")
    for line in task.inventory.table(grouped=True):
        say(line)
    for note in task.inventory.notes:
        say(f"  note: {note}")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stderr."""
    for line in lines:
        say(line)


def print_outcome(title: str, record: Record) -> None:
    """Print the step whose model a run kept, and that it ended below its start."""
    for note in (record.training.selection if record.training else "", record.below_start):
        if note:
            say(f"{title} {note}")


def bars() -> Progress:
    """Return progress bars on stderr, as a context manager."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


class RunBar:
    """The bar of one training run.

    Args:
        progress: The display.
        title: Title of the run.
        steps: Its number of optimizer steps.
    """

    def __init__(self, progress: Progress, title: str, steps: int) -> None:
        self._progress, self._title, self._steps = progress, title, steps
        self._told = time.monotonic()
        self._task = progress.add_task(title, total=steps)

    def advance(self, step: int, loss: float) -> None:
        """Show the progress of the run."""
        text = f"{self._title} loss={loss:.3f}"
        self._progress.update(self._task, completed=step, description=text)
        now, console = time.monotonic(), self._progress.console
        if not console.is_terminal and now - self._told >= SECONDS_A_LINE:
            console.print(f"{text} step {step} of {self._steps}", soft_wrap=True)
            self._told = now

    def remove(self) -> None:
        """Remove the bar."""
        self._progress.remove_task(self._task)


class FilesBar:
    """The bar of work on many files, as a context manager; short work shows none.

    Args:
        title: What is done.
        total: Number of files.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._began = self._told = time.monotonic()
        self._progress = bars()
        self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> "FilesBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def advance(self, files: int) -> None:
        """Show that some more files are done."""
        self._done += files
        now, console = time.monotonic(), self._progress.console
        if now - self._began < SECONDS_BEFORE_A_BAR:
            return
        if console.is_terminal:
            self._progress.start()
            self._progress.update(self._task, completed=self._done)
        elif now - self._told >= SECONDS_A_LINE:
            say(f"{self._title}: {self._done:,} of {self._total:,}")
            self._told = now
