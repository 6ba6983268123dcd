"""Any number of classes for each image."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gmixout.tasks.base import Basics, Cells, LearningTask, Top, rank_columns, ranks
from gmixout.tasks.single_label import place_of_label

_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}


@dataclass(frozen=True)
class multi_label(LearningTask):
    """Any number of classes for each image: labels `[N, classes]` of 0 and 1, a sigmoid each."""

    title: ClassVar[str] = "any number of classes an image"
    usual_columns: ClassVar[Cells] = ("labels", "tags")
    columns_option: ClassVar[str] = "label_columns"
    loss: ClassVar[str] = "binary_cross_entropy"
    problem_type: ClassVar[str] = "multi_label_classification"
    threshold: ClassVar[float | None] = 0.5

    @property
    def metric(self) -> str:
        """Mean average precision, which needs no threshold."""
        return "mean_average_precision"

    @property
    def extra_metrics(self) -> tuple[str, ...]:
        """F1 scores at a probability of 0.5."""
        return "multi_label_macro_f1", "multi_label_micro_f1"

    @classmethod
    def wrong(cls, cell: str, by_column: bool) -> str:
        """Refuse anything but 0 and 1 in columns of one class each; an image may have no class."""
        fine = not by_column or cell.lower() in _YES | _NO
        return "" if fine else f"is {cell!r:.40}, neither 0 nor 1" if cell else "is empty"

    @classmethod
    def hint(cls, labels: Sequence[str]) -> str:
        """Return a hint where labels look like several."""
        several = [name for name in labels if len(labels_in(name)) > 1]
        if not several:
            return ""
        return (
            f"{len(several)} of {len(labels)} classes have a name like {several[0]!r:.60}: if this "
            f"is several labels, --task {cls.__name__}"
        )

    @classmethod
    def outputs_of(cls, rows: Sequence[Cells]) -> tuple[str, ...]:
        """Return the classes in cells such as `cat|dog`, sorted: as numbers, if they are."""
        return tuple(sorted({n for cells in rows for n in labels_in(cells[0])}, key=place_of_label))

    @classmethod
    def encoder(cls, classes: Sequence[str], by_column: bool) -> Callable[[Cells], Any]:
        """Return the function from cells to 0 or 1 for each class."""
        if by_column:
            return lambda cells: [float(cell.lower() in _YES) for cell in cells]
        places = {name: place for place, name in enumerate(classes)}

        def encoded(cells: Cells) -> list[float]:
            found = [0.0] * len(places)
            for name in labels_in(cells[0]):
                found[places[name]] = 1.0
            return found

        return encoded

    def table(self, labels: Tensor, classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        """Return `cat|dog` of each image; a column for each class if a name could not be read."""
        if any(labels_in(name) != [name] for name in classes):
            return [*classes], [[f"{value:g}" for value in row] for row in labels.tolist()]
        held = (label.nonzero().flatten().tolist() for label in labels)
        return [self.usual_columns[0]], [["|".join(classes[n] for n in own)] for own in held]

    def problem(self, labels: Tensor, classes: Sequence[str]) -> str:
        """Return what is wrong with labels `[N, classes]`."""
        if labels.dim() != 2 or labels.shape[1] != len(classes):
            return f"labels must have shape [images, {len(classes)}], not {list(labels.shape)}"
        wrong = labels[(labels != 0) & (labels != 1)]
        return f"a label is {float(wrong[0]):g}, neither 0 nor 1" if len(wrong) else ""

    def unmeasured(self, labels: Tensor) -> str:
        """Return why average precision is not defined, if it is not."""
        return "" if labels.any() else "no image of it has a label, so that it has no mAP"

    def counts(self, labels: Tensor, outputs: int) -> Tensor:
        """Return the number of images that have each class."""
        return labels.sum(0).long() if len(labels) else torch.zeros(outputs, dtype=torch.int64)

    def strata(self, labels: Tensor) -> Tensor:
        """Return the rarest class of each image; those without a class are a group of their own.

        Rare classes, which a random split would miss, are thereby shared out in proportion; the
        frequent ones follow by their number.
        """
        counts = labels.sum(0)
        rarity = torch.where(labels > 0, counts, counts.new_tensor(float("inf")))
        rarest = rarity.argmin(1)
        rarest[labels.sum(1) == 0] = labels.shape[1]
        return rarest

    def fit_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the binary cross-entropy, mean over the classes."""
        own = labels.to(outputs.dtype)
        total = binary_cross_entropy_with_logits(outputs, own, reduction="sum")
        return total / outputs.shape[1]

    def basics(self, outputs: Tensor, labels: Tensor, rows: int) -> Basics:
        """Return negative log-likelihood and calibration error of single decisions.

        Both are means over all pairs of an image and a class.
        """
        from torchmetrics.classification import BinaryCalibrationError

        # of these predictions alone: by default it adds those of other processes
        calibration = BinaryCalibrationError(n_bins=15, norm="l1", sync_on_compute=False)
        nll = 0.0
        for part, own in zip(torch.split(outputs, rows), torch.split(labels, rows), strict=True):
            calibration.update(part.sigmoid().flatten(), own.flatten().long())
            nll += float(self.fit_loss(part.double(), own))
        return Basics(None, nll / len(labels), float(calibration.compute().clamp(0, 1)))

    def scores(self, outputs: Tensor, temperature: float) -> Tensor:
        """Return the probability of each class by itself."""
        return (outputs / temperature).sigmoid()

    def are_right(self, outputs: Tensor, labels: Tensor) -> bool:
        """Return whether every class of every image is right at a probability of 0.5."""
        return bool(((outputs > 0) == (labels > 0)).all())

    def label(self, top: Top, threshold: float) -> str:
        """Return the classes that reach the threshold, the most probable first, `cat|dog`."""
        return "|".join(name for name, share in top if share >= threshold)

    def columns(self, classes: Sequence[str], top_k: int) -> list[str]:
        """Return labels, and the most probable classes with their probabilities."""
        return ["labels", *rank_columns(top_k)]

    def cells(self, top: Top, threshold: float, top_k: int) -> list[Any]:
        """Return the values of these columns."""
        return [self.label(top, threshold), *ranks(top, top_k)]

    def fields(self, top: Top, threshold: float, top_k: int) -> dict[str, Any]:
        """Return the prediction as named values, the labels as a list."""
        labels = [name for name, share in top if share >= threshold]
        return {**super().fields(top, threshold, top_k), "labels": labels}

    def limits(self) -> list[str]:
        """Return sentences for a model card."""
        return [
            "It judges each class by itself, at a probability of 0.5 if nothing else is said; "
            "for rare classes another threshold may be better.",
            "Probabilities are calibrated on in-domain images at most; elsewhere it is too sure.",
        ]

    def reading(self) -> str:
        """Return how logits become probabilities."""
        return "sigmoid of the logits, for each class by itself"


def labels_in(cell: str) -> list[str]:
    """Return the labels in a cell, which `|` or `;` separate: `cat|dog`."""
    return [name for part in re.split(r"[|;]", cell) if (name := part.strip())]
