"""Numbers for each image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from gmixout.errors import DataError
from gmixout.settings import require
from gmixout.tasks.base import Cells, LearningTask, Top, rounded

_FINEST = 1e-5
"""Smallest standard deviation, as a share of the mean."""
_BINS = 10
"""Groups of equal size that a split has in proportion."""


@dataclass(frozen=True)
class regression(LearningTask):
    """Numbers for each image: labels `[N, numbers]`, which the model gives standardized.

    Args:
        mean: Mean of each number over the training set.
        std: Its standard deviation.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    title: ClassVar[str] = "numbers of an image"
    usual_columns: ClassVar[Cells] = ("value", "values")
    columns_option: ClassVar[str] = "target_columns"
    has_classes: ClassVar[bool] = False
    loss: ClassVar[str] = "mse"
    answers: ClassVar[tuple[str, str]] = ("standardized", "values")
    problem_type: ClassVar[str] = "regression"
    threshold: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        """Refuse standard deviations that cannot be."""
        super().__post_init__()
        fine = len(self.mean) == len(self.std) and all(each > 0 for each in self.std)
        require(self, "std", fine, "above 0, as many as means")

    def check_outputs(self, outputs: int) -> None:
        """Check that there is a mean for each output.

        Raises:
            ConfigError: There is not.
        """
        require(self, "mean", len(self.mean) == outputs, f"{outputs} numbers, one for each output")

    @property
    def metric(self) -> str:
        """Mean absolute error; of several numbers, whose units may differ, R2."""
        return "mae" if len(self.mean) == 1 else "r2"

    @property
    def extra_metrics(self) -> tuple[str, ...]:
        """The others of mean absolute error, root mean squared error and R2."""
        return tuple(name for name in ("mae", "rmse", "r2") if name != self.metric)

    @classmethod
    def wrong(cls, cell: str, by_column: bool) -> str:
        """Refuse what is not a finite number."""
        if not cell:
            return "is empty"
        return f"is {cell!r:.40}, not a number" if _number_in(cell) is None else ""

    @classmethod
    def hint(cls, labels: Sequence[str]) -> str:
        """Return a hint where all labels are numbers, and some of them no whole ones."""
        numbers = [_number_in(name) for name in labels]
        if None in numbers or all(each is None or each.is_integer() for each in numbers):
            return ""
        return f"all {len(labels)} classes are numbers: to predict these, --task {cls.__name__}"

    @classmethod
    def outputs_of(cls, rows: Sequence[Cells]) -> tuple[str, ...]:
        """Return the name of the only number."""
        del rows
        return ("value",)

    @classmethod
    def encoder(cls, classes: Sequence[str], by_column: bool) -> Callable[[Cells], Any]:
        """Return the function from cells to numbers."""
        return lambda cells: [_number_in(cell) for cell in cells]

    @classmethod
    def fitted(cls, labels: Tensor) -> "regression":
        """Return the task with mean and standard deviation of labels `[N, numbers]`.

        Raises:
            DataError: All images have one value, or differ by less than float32 can hold.
        """
        if not len(labels) or not bool((labels != labels[0]).any(0).all()):
            raise DataError(
                "every training image has the same value: there is nothing to learn; "
                f"values are {labels[:1].tolist()}"
            )
        found = cls.of(labels)
        for mean, std in zip(found.mean, found.std, strict=True):
            if std < _FINEST * abs(mean):
                raise DataError(
                    f"the numbers of the training images differ by {std:.3g} around {mean:.9g}, "
                    "and are kept with 7 digits: subtract what they have in common"
                )
        return found

    @classmethod
    def of(cls, labels: Tensor) -> "regression":
        """Return the task of any labels `[N, numbers]`; a number that is constant has scale 1."""
        wide = labels.double()
        std = wide.std(0, correction=0)
        std = torch.where(std > 0, std, 1.0)
        return cls(tuple(wide.mean(0).tolist()), tuple(std.tolist()))

    def table(self, labels: Tensor, classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        """Return a column for each number, with all digits that float32 has."""
        return [*classes], [[f"{value:.9g}" for value in row] for row in labels.tolist()]

    def problem(self, labels: Tensor, classes: Sequence[str]) -> str:
        """Return what is wrong with labels `[N, numbers]`."""
        if labels.dim() != 2 or labels.shape[1] != len(classes):
            return f"values must have shape [images, {len(classes)}], not {list(labels.shape)}"
        return "" if bool(labels.isfinite().all()) else "a value is not finite"

    def counts(self, labels: Tensor, outputs: int) -> None:
        """Return None: there are no classes."""

    def strata(self, labels: Tensor) -> Tensor:
        """Return the tenth of the range of ranks that each image's first value is in."""
        order = np.argsort(labels[:, 0].numpy(), kind="stable")
        found = np.empty(len(order), np.int64)
        found[order] = np.arange(len(order)) * _BINS // max(1, len(order))
        return torch.from_numpy(found)

    def in_order(self, labels: Tensor, places: Sequence[int], outputs: int) -> Tensor:
        """Return labels for another order of the numbers.

        Raises:
            DataError: One of the model's numbers is not there.
        """
        if len(places) < outputs:
            raise DataError(f"the data has {len(places)} of the {outputs} numbers of the model")
        return super().in_order(labels, places, outputs)

    def fit_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return half the squared error of standardized values, mean over the numbers."""
        goal = self.encoded(labels.to(outputs.dtype))
        return mse_loss(outputs, goal, reduction="sum") / (2 * outputs.shape[1])

    def encoded(self, labels: Tensor) -> Tensor:
        """Return labels `[N, numbers]` standardized, as the model gives them."""
        return (labels - labels.new_tensor(self.mean)) / labels.new_tensor(self.std)

    def decoded(self, outputs: Tensor) -> Tensor:
        """Return outputs `[N, numbers]` in the units of the labels, float64."""
        wide = outputs.double()
        return wide * wide.new_tensor(self.std) + wide.new_tensor(self.mean)

    def scores(self, outputs: Tensor, temperature: float) -> Tensor:
        """Return the numbers in their units, float32."""
        del temperature
        return self.decoded(outputs).float()

    def label(self, top: Top, threshold: float) -> str:
        """Return the numbers as text."""
        return ", ".join(f"{rounded(value):g}" for _, value in top)

    def columns(self, classes: Sequence[str], top_k: int) -> list[str]:
        """Return a column for each number."""
        return [f"predicted_{name}" for name in classes]

    def cells(self, top: Top, threshold: float, top_k: int) -> list[Any]:
        """Return the numbers."""
        return [rounded(value) for _, value in top]

    def fields(self, top: Top, threshold: float, top_k: int) -> dict[str, Any]:
        """Return the numbers by name."""
        return {f"predicted_{name}": rounded(value) for name, value in top}

    def told(self, top: Top, top_k: int) -> str:
        """Return the numbers with their names."""
        return ", ".join(f"{name} {rounded(value):g}" for name, value in top)

    def limits(self) -> list[str]:
        """Return sentences for a model card."""
        return [
            "It gives every image a number, also an image of something else, and no interval.",
            "Numbers beyond those of the training images are extrapolated, mostly badly.",
        ]

    def reading(self) -> str:
        """Return how outputs become numbers."""
        held = zip(self.mean, self.std, strict=True)
        units = "; ".join(f"output x {std:.9g} + {mean:.9g}" for mean, std in held)
        return f"{units}, in the order of the outputs"


def _number_in(cell: str) -> float | None:
    """Return the finite number in a cell, within float32; None: there is none."""
    try:
        found = float(cell)
    except ValueError:
        return None
    return found if math.isfinite(found) and abs(found) < 1e30 else None
