"""Predictions for the page of a run: gathered while evaluating, or by evaluating again."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from gmixout.bench.task import LoadedTask, Task
from gmixout.data import Source
from gmixout.evaluation.detection import Detecting
from gmixout.evaluation.metrics import evaluate
from gmixout.results import RunFolder
from gmixout.results.predictions import save_predictions
from gmixout.tasks import DEFAULT_TASK
from gmixout.use.gathering import Gathering


def gather(model: nn.Module, loaded: LoadedTask, num_workers: int | None = None) -> Gathering:
    """Evaluate a model on every test set, and keep what a page shows of it.

    Args:
        model: The model, on its device.
        loaded: Its task.
        num_workers: Processes that load images.

    Raises:
        DataError: As `evaluation.metrics.evaluate`.
        TrainingError: As `evaluation.metrics.evaluate`.
    """
    benchmark = loaded.benchmark
    found = Gathering(benchmark.task)
    detecting = Detecting(found.see)
    evaluate(model, benchmark, num_workers=num_workers, seen=detecting.see)
    detecting.measure(model, benchmark.unknown, num_workers)
    return found


def keep_predictions(
    folder: Path, digest: str, task: Task, gathered: Gathering, num_workers: int | None = None
) -> None:
    """Write the predictions of a model, and those of its start, into the folder of its run.

    The start is evaluated here, unless its head is random or the task is another than one class an
    image, of which no predictions are kept.

    Args:
        folder: The folder of the run.
        digest: The digest in the metadata of the model file.
        task: Its task.
        gathered: Its predictions.
        num_workers: Processes that load images.

    Raises:
        GmixoutError: The start cannot be evaluated, or the file cannot be written.
    """
    loaded = task.load()
    start: Any = None
    if loaded.pretrained.head_from != "random" and loaded.benchmark.task == DEFAULT_TASK:
        model = loaded.pretrained.copy().model.to(PartialState().device)
        start = model, loaded.pretrained.head_from
    root = task.benchmark.root if isinstance(task.benchmark, Source) else None
    classes = tuple(loaded.benchmark.classes)
    found = gathered.finish(digest, classes, start, root, num_workers)
    save_predictions(RunFolder(folder).predictions, found)
