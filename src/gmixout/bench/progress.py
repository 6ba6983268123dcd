"""What a person sees of work that takes more than a few seconds."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gmixout.data import Benchmark


def tell(benchmark: Benchmark) -> None:
    """Says what a reader of a benchmark's results has to know."""
    console = Console(stderr=True, highlight=False, markup=False)
    for note in benchmark.notes:
        console.print(f"{benchmark.name}: {note}", soft_wrap=True)


def bars() -> Progress:
    """Progress bars on the standard error stream; a context manager."""
    return Progress(
        TextColumn("{task.description}"),
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
        self._progress, self._title = progress, title
        self._task = progress.add_task(title, total=steps)

    def advance(self, step: int, loss: float) -> None:
        """Shows how far the run is."""
        text = f"{self._title} loss={loss:.3f}"
        self._progress.update(self._task, completed=step, description=text)

    def remove(self) -> None:
        """Takes the bar away."""
        self._progress.remove_task(self._task)
