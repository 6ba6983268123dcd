"""Predictions for image files, one batch after another, in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gmixout.data.images import ImageFiles
from gmixout.errors import ConfigError, DataError
from gmixout.evaluation.detection import DETECTORS
from gmixout.evaluation.metrics import MAX_BATCH_VALUES, evaluating
from gmixout.loading import make_loader
from gmixout.plain import printable
from gmixout.tasks import DEFAULT_TASK, LearningTask
from gmixout.use.classifier import Classifier

LARGEST_BATCH = 128
"""Most images in a batch by default: what is lost if a process is killed."""
Loaded: TypeAlias = Tensor | str
"""An image `[C, H, W]`, or why there is none."""


@dataclass(frozen=True)
class FilePrediction:
    """What the model says of one file."""

    file: str
    """The file, printable."""
    top: tuple[tuple[str, float], ...] = ()
    """The most probable classes and their probabilities, the best first; of several labels all
    classes; or the numbers by name; empty on an error."""
    error: str = ""
    """Why there is no prediction."""
    threshold: float = 0.0
    """Probability below which the model abstains; of several labels, from which a class is one."""
    task: LearningTask = DEFAULT_TASK
    """What the model says of an image."""
    ood_score: float | None = None
    """Score of its class being a known one, higher is more known; None: not asked for."""
    unknown: bool | None = None
    """True if the score is below the threshold of known images; None: not asked for."""

    @property
    def status(self) -> str:
        """Ok, abstain or error."""
        return self.task.status(self.top, self.threshold) if self.top else "error"

    @property
    def label(self) -> str:
        """The prediction in words; empty on an error, or if the model abstains."""
        return self.task.label(self.top, self.threshold) if self.top else ""


def predictions(
    classifier: Classifier,
    files: Sequence[str],
    top_k: int = 5,
    threshold: float | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    ood_score: str | None = None,
    ood_threshold: float = 0.0,
) -> Iterator[list[FilePrediction]]:
    """Return an iterator over the predictions of one batch after another, in the files' order.

    Files are decoded as in training, rotated by their EXIF data. One that cannot be read, or on
    which the model overflows, has an error in its place.

    Args:
        classifier: The model, on its device.
        files: Paths.
        top_k: Number of classes for each file.
        threshold: The model abstains below this probability of its best class; of several labels
            the classes from it on are predicted. By default 0, and 0.5 for several labels.
        batch_size: Images in a forward pass; by default what fits 64 MiB, at most `LARGEST_BATCH`.
        num_workers: Processes that decode images; by default see `loading_processes`.
        ood_score: Name in `evaluation.detection.DETECTORS` of the score of known classes; None: no
            score.
        ood_threshold: An image with a lower score is of an unknown class.

    Raises:
        ConfigError: A setting is out of its range.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} must be 1 or more")
    task = classifier.task
    check_ood_score(ood_score, task)
    if threshold is not None and task.threshold is None:
        raise ConfigError(
            f"threshold={threshold} is a probability, and this model predicts {task.title}"
        )
    if threshold is None:
        threshold = task.threshold or 0.0
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold} is a probability: it must be from 0 to 1")
    top_k = len(classifier.classes) if task.keeps_all else top_k
    row = FilePrediction("", threshold=threshold, task=task)
    size = batch_size or _batch_size(classifier)
    # checked at the call, not when the first batch is asked for
    return _batches(classifier, files, row, top_k, size, num_workers, ood_score, ood_threshold)


def _batches(
    classifier: Classifier,
    files: Sequence[str],
    empty: FilePrediction,
    top_k: int,
    batch_size: int,
    num_workers: int | None,
    ood_score: str | None,
    ood_threshold: float,
) -> Iterator[list[FilePrediction]]:
    device = next(classifier.parameters(), torch.empty(0)).device
    loader = make_loader(
        _Pictures(files, classifier),
        device,
        num_workers,
        batch_size=batch_size,
        collate_fn=_as_they_are,
    )
    done = 0
    with evaluating(classifier):
        for batch in loader:
            tops = _tops(classifier, batch, top_k, ood_score)
            names = files[done : done + len(batch)]
            done += len(batch)
            rows = []
            for name, found in zip(names, tops, strict=True):
                row = replace(empty, file=printable(name))
                if isinstance(found, str):
                    rows.append(replace(row, error=printable(found)))
                    continue
                top, score = found
                unknown = None if score is None else score < ood_threshold
                rows.append(replace(row, top=tuple(top), ood_score=score, unknown=unknown))
            yield rows


def check_ood_score(name: str | None, task: LearningTask) -> None:
    """Check that a model has a score of known classes.

    Args:
        name: Name in `evaluation.detection.DETECTORS`; None: it is not asked for.
        task: What the model says of an image.

    Raises:
        ConfigError: There is no such score, or none for the task.
    """
    if name is None:
        return
    if name not in DETECTORS:
        raise ConfigError(f"ood_score={name!r:.80} must be one of: {', '.join(DETECTORS)}")
    if task != DEFAULT_TASK:
        raise ConfigError(
            f"ood_score={name} is for models of {DEFAULT_TASK.title}, and this one is {task.name} "
            f"({task.title}): leave it out"
        )


class _Pictures(Dataset[Loaded]):
    """Image files as the model sees them."""

    def __init__(self, files: Sequence[str], classifier: Classifier) -> None:
        self._images = ImageFiles(Path(), files, torch.zeros(len(files)), upright=True)
        self._transform = classifier.transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Loaded:
        try:
            return self._transform(self._images.picture(index))
        except DataError as error:
            return str(error.__cause__ or error)
        except Exception as error:  # a transform of any library, on an image of any shape
            return f"cannot be preprocessed: {error}"


def _as_they_are(items: list[Any]) -> list[Any]:
    return items


_Answer: TypeAlias = tuple[list[tuple[str, float]], float | None]
"""The most probable classes with their probabilities, and the score of known classes."""


def _tops(
    classifier: Classifier, batch: Sequence[Loaded], top_k: int, ood_score: str | None
) -> list[_Answer | str]:
    """Return the answer for each image, or why there is none."""
    found: list[Any] = list(batch)
    shapes: dict[torch.Size, list[int]] = {}  # some preprocessing keeps the aspect ratio
    for place, each in enumerate(batch):
        if isinstance(each, Tensor):
            shapes.setdefault(each.shape, []).append(place)
    for places in shapes.values():
        logits = classifier.logits(torch.stack([found[place] for place in places]))
        probabilities = classifier.task.scores(logits, classifier.temperature)
        finite = probabilities.isfinite().all(1).tolist()
        named = classifier.named(probabilities, top_k)
        score = DETECTORS.get(ood_score or "")
        scores = [None] * len(places) if score is None else score(logits).tolist()
        for place, is_finite, *answer in zip(places, finite, named, scores, strict=True):
            found[place] = tuple(answer) if is_finite else "the model's scores of it are not finite"
    return found


def _batch_size(classifier: Classifier) -> int:
    height, width = classifier.size or (224, 224)
    return max(1, min(LARGEST_BATCH, MAX_BATCH_VALUES // (3 * height * width)))
