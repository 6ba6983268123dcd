"""One class for each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as nats

from gmixout.plain import whole_number
from gmixout.tasks.base import Basics, Cells, LearningTask, Top, rank_columns, ranks, rounded


@dataclass(frozen=True)
class single_label(LearningTask):
    """One class for each image: labels `[N]` int64, softmax, accuracy."""

    title: ClassVar[str] = "one class an image"
    usual_columns: ClassVar[Cells] = ("label", "class", "class_name", "target", "category")
    least_outputs: ClassVar[int] = 2
    keeps_all: ClassVar[bool] = False

    @classmethod
    def outputs_of(cls, rows: Sequence[Cells]) -> tuple[str, ...]:
        """Return the labels, sorted: as numbers, if they are."""
        return tuple(sorted({cells[0] for cells in rows}, key=place_of_label))

    @classmethod
    def encoder(cls, classes: Sequence[str], by_column: bool) -> Callable[[Cells], Any]:
        """Return the function from a cell to its class's place."""
        del by_column
        places = {name: place for place, name in enumerate(classes)}
        return lambda cells: places[cells[0]]

    def table(self, labels: Tensor, classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        """Return the name of each image's class."""
        return [self.usual_columns[0]], [[classes[label]] for label in labels.tolist()]

    def problem(self, labels: Tensor, classes: Sequence[str]) -> str:
        """Return what is wrong with labels `[N]`."""
        wrong = labels[(labels < 0) | (labels >= len(classes))]
        if not len(wrong):
            return ""
        return (
            f"{len(wrong)} labels are out of range, {int(wrong[0])} among them; with "
            f"{len(classes)} classes labels go from 0 to {len(classes) - 1}"
        )

    def counts(self, labels: Tensor, outputs: int) -> Tensor:
        """Return the number of images of each class."""
        return labels.clamp(0).bincount(minlength=outputs)

    def strata(self, labels: Tensor) -> Tensor:
        """Return the classes."""
        return labels

    def in_order(self, labels: Tensor, places: Sequence[int], outputs: int) -> Tensor:
        """Return the labels `[N]` for another order of the classes."""
        del outputs
        return torch.tensor(places, dtype=torch.int64)[labels]

    def fit_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return nats(outputs, labels, reduction="sum")

    def basics(self, outputs: Tensor, labels: Tensor, rows: int) -> Basics:
        """Return accuracy, negative log-likelihood and calibration error."""
        # Takes seconds to import, which --help should not pay.
        from torchmetrics.classification import MulticlassCalibrationError

        # of these predictions alone: by default it adds those of other processes
        calibration = MulticlassCalibrationError(
            outputs.shape[1], n_bins=15, norm="l1", sync_on_compute=False
        )
        nll = 0.0
        # in parts: the probabilities of 50,000 images and 10,000 classes are 2 GB
        for part, own in zip(torch.split(outputs, rows), torch.split(labels, rows), strict=True):
            calibration.update(part.softmax(1), own)
            nll += float(nats(part.double(), own, reduction="sum"))
        right = float((outputs.argmax(1) == labels).sum())
        ece = float(calibration.compute().clamp(0, 1))
        return Basics(right / len(labels), nll / len(labels), ece)

    def scores(self, outputs: Tensor, temperature: float) -> Tensor:
        """Return the probabilities of the classes, which sum to 1."""
        return (outputs / temperature).softmax(1)

    def are_right(self, outputs: Tensor, labels: Tensor) -> bool:
        """Return whether every image is classified right."""
        return bool((outputs.argmax(1) == labels).all())

    def status(self, top: Top, threshold: float) -> str:
        """Return `abstain` where the best class is below the threshold."""
        return "abstain" if top[0][1] < threshold else "ok"

    def label(self, top: Top, threshold: float) -> str:
        """Return the best class; empty if the model abstains."""
        return top[0][0] if self.status(top, threshold) == "ok" else ""

    def columns(self, classes: Sequence[str], top_k: int) -> list[str]:
        """Return label, confidence, and the best classes with their probabilities."""
        return ["label", "confidence", *rank_columns(top_k)]

    def cells(self, top: Top, threshold: float, top_k: int) -> list[Any]:
        """Return the values of these columns."""
        return [self.label(top, threshold) or None, rounded(top[0][1]), *ranks(top, top_k)]

    def reading(self) -> str:
        """Return how logits become probabilities."""
        return "softmax of the logits"


def place_of_label(label: str) -> tuple[bool, int, str]:
    """Return the sort key of a label: numbers in order, then text."""
    number = whole_number(label)
    return number is None, number or 0, label
