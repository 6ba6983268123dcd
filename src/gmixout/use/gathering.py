"""Gathering the predictions of an evaluation for the page of a run."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gmixout.data.base import DEV_PREFIX, UNKNOWN_PREFIX
from gmixout.evaluation.metrics import MAX_BATCH_VALUES, predict
from gmixout.plain import printable
from gmixout.reports.thumbnails import thumbnail_in
from gmixout.results.predictions import (
    LARGEST_THUMBNAIL,
    MOST_IMAGES,
    Mistake,
    RunPredictions,
    SetPredictions,
)
from gmixout.tasks import DEFAULT_TASK, LearningTask
from gmixout.use.calibration import fit_temperature

MISTAKES = 12
"""Mistakes of each set that are kept."""
PICTURED_SETS = 16
"""Sets whose mistakes have pictures."""


class Gathering:
    """Keep what a page shows of the predictions that an evaluation makes.

    `see` is handed to `evaluate`. The temperature is fitted to `id_val`, which comes first. Of
    other tasks than one class an image no predictions are kept.

    Args:
        task: What the model says of an image.
    """

    def __init__(self, task: LearningTask = DEFAULT_TASK) -> None:
        self.temperature, self._task = 1.0, task
        self._sets: dict[str, SetPredictions] = {}
        self._data: dict[str, Dataset[Any]] = {}
        self._count = 0

    def see(self, name: str, dataset: Dataset[Any], logits: Tensor, labels: Tensor) -> None:
        """Take the predictions on a set."""
        if name == "id_val" and self._task.has_classes:
            self.temperature = fit_temperature(logits, labels, self._task)
        if self._task != DEFAULT_TASK:
            return
        if self._count + len(labels) > MOST_IMAGES or name.startswith(DEV_PREFIX):
            return
        self._count += len(labels)
        space = getattr(dataset, "space", None)
        # in parts, for the memory of probabilities
        rows = max(1, MAX_BATCH_VALUES // logits.shape[1])
        parts = torch.split(logits, rows)
        self._sets[name] = SetPredictions(
            labels=labels.int(),
            predicted=logits.argmax(1).int(),
            confidence=torch.cat([_confidence(part) for part in parts]),
            calibrated=torch.cat([_confidence(part / self.temperature) for part in parts]),
            classes=() if space is None else space.classes,
        )
        self._data[name] = dataset

    def finish(
        self,
        digest: str,
        classes: tuple[str, ...],
        start: tuple[nn.Module, str] | None,
        root: Path | None = None,
        num_workers: int | None = None,
    ) -> RunPredictions:
        """Return everything, with the mistakes and the predictions of the start.

        Args:
            digest: The digest in the metadata of the model file.
            classes: Class names of the model.
            start: The pretrained model, on its device, and the origin of its head; None if its
                predictions say nothing.
            root: Folder of the data, which names of images leave out.
            num_workers: Processes that load images.

        Raises:
            DataError: As `evaluation.metrics.predict`.
            TrainingError: As `evaluation.metrics.predict`.
        """
        found, pictured = {}, 0
        for name, each in self._sets.items():
            dataset = self._data[name]
            unknown = name.startswith(UNKNOWN_PREFIX)
            if start is not None and not unknown:
                logits, _ = predict(start[0], dataset, num_workers=num_workers)
                each = replace(each, start=logits.argmax(1).int())
            chosen = worst_mistakes(each, unknown)
            pictured += 1 if chosen else 0
            mistakes = _mistakes(dataset, chosen, root, pictured <= PICTURED_SETS)
            found[name] = replace(each, mistakes=mistakes)
        made = "" if start is None else start[1]
        return RunPredictions(digest, self.temperature, classes, made, found)


def worst_mistakes(found: SetPredictions, unknown: bool = False) -> list[int]:
    """Return the positions of the mistakes that a model was most sure of.

    Args:
        found: Predictions on a set.
        unknown: The classes are unknown to the model: every prediction is a mistake.
    """
    wrong = torch.ones_like(found.right) if unknown else ~found.right
    places = wrong.nonzero().flatten()
    order = found.calibrated[places].argsort(descending=True, stable=True)
    return [int(place) for place in places[order[:MISTAKES]]]


def _confidence(logits: Tensor) -> Tensor:
    return logits.softmax(1).amax(1).clamp(0, 1)


def _mistakes(
    dataset: Any, chosen: list[int], root: Path | None, pictured: bool
) -> tuple[Mistake, ...]:
    def mistake(index: int) -> Mistake:
        jpeg = thumbnail_in(dataset, index) if pictured else b""
        jpeg = jpeg if len(jpeg) <= LARGEST_THUMBNAIL else b""
        return Mistake(index, _name(dataset, index, root), jpeg)

    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(mistake, chosen))


def _name(dataset: Any, index: int, root: Path | None) -> str:
    """Return the name of an image, without the folders of this machine."""
    if not hasattr(dataset, "name"):
        return f"image {index}"
    name = str(dataset.name(index))
    folder = None if root is None else root if root.is_dir() else root.parent
    if folder is not None and name.startswith(f"{folder}/"):
        name = name.removeprefix(f"{folder}/")
    elif name.startswith("/"):
        name = "/".join(name.split("/")[-2:])
    return printable(name)[:500]
