"""Squared error of small differences, absolute error of large ones."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import huber_loss

from gmixout.losses.standardized import Distance
from gmixout.settings import require


@dataclass(frozen=True)
class huber(Distance):
    """Huber's loss of standardized numbers (Huber, Annals of Mathematical Statistics, 1964).

    Args:
        delta: Difference, in standard deviations, from which it grows linearly.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require(self, "delta", self.delta > 0, "above 0")

    def of(self, outputs: Tensor, goal: Tensor) -> Tensor:
        """Return the loss of each entry, `[B, numbers]`."""
        return huber_loss(outputs, goal, reduction="none", delta=self.delta)
