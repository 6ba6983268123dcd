"""What a person sees of work that takes more than a few seconds."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gmixout.bench.task import LoadedTask
from gmixout.plain import printable

SECONDS_A_LINE = 30.0
"""Where no bar can be seen, a log file say, a run says this often how far it is."""


def say(text: str) -> None:
    """Prints one line on the standard error stream, whatever is in it."""
    console = Console(stderr=True, highlight=False, markup=False)
    console.print(printable(text), soft_wrap=True)


def tell(task: LoadedTask) -> None:
    """Says what a reader of a task's results has to know."""
    for note in task.notes:
        say(f"{task.name}: {note}")


def bars() -> Progress:
    """Progress bars on the standard error stream; a context manager."""
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
        progress: What it is shown in.
        title: What the run is.
        steps: Its number of optimizer steps.
    """

    def __init__(self, progress: Progress, title: str, steps: int) -> None:
        self._progress, self._title, self._steps = progress, title, steps
        self._told = time.monotonic()
        self._task = progress.add_task(title, total=steps)

    def advance(self, step: int, loss: float) -> None:
        """Shows how far the run is."""
        text = f"{self._title} loss={loss:.3f}"
        self._progress.update(self._task, completed=step, description=text)
        now, console = time.monotonic(), self._progress.console
        if not console.is_terminal and now - self._told >= SECONDS_A_LINE:
            console.print(f"{text} step {step} of {self._steps}", soft_wrap=True)
            self._told = now

    def remove(self) -> None:
        """Takes the bar away."""
        self._progress.remove_task(self._task)
