"""Absolute error."""

from dataclasses import dataclass

from torch import Tensor

from gmixout.losses.standardized import Distance


@dataclass(frozen=True)
class l1(Distance):
    """Absolute error of standardized numbers: outliers count less than in mse."""

    def of(self, outputs: Tensor, goal: Tensor) -> Tensor:
        """Return the loss of each entry, `[B, numbers]`."""
        return (outputs - goal).abs()
