"""Squared error."""

from dataclasses import dataclass

from torch import Tensor

from gmixout.losses.standardized import Distance


@dataclass(frozen=True)
class mse(Distance):
    """Squared error of standardized numbers."""

    def of(self, outputs: Tensor, goal: Tensor) -> Tensor:
        """Return the loss of each entry, `[B, numbers]`."""
        return (outputs - goal).square()
