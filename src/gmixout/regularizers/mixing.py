"""Mixup or CutMix, one of them at random for each batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from gmixout.data.batch import Batch
from gmixout.regularizers.base import Regularizer, Step
from gmixout.regularizers.blending import LEAST, MOST
from gmixout.regularizers.cutmix import CLASSES_ALONE, cutmix
from gmixout.regularizers.mixup import mixup
from gmixout.settings import require


@dataclass(frozen=True)
class mixing(Regularizer):
    """Mixup and CutMix, one of them at random for each batch (torchvision's `RandomChoice`).

    Args:
        mixup: Concentration of Mixup; 0 leaves it out.
        cutmix: Concentration of CutMix; 0 leaves it out.
    """

    mixup: float = 0.2
    cutmix: float = 1.0

    soft: ClassVar[bool] = True

    @property
    def tasks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Tasks that it is for: CutMix is for classes."""
        return CLASSES_ALONE if self.cutmix else ()

    def __post_init__(self) -> None:
        """Refuse concentrations out of range, and none at all."""
        super().__post_init__()
        for name, value in vars(self).items():
            require(self, name, value == 0 or LEAST <= value <= MOST, "0, or from 1e-6 to 1e6")
        require(self, "cutmix", self.mixup + self.cutmix > 0, "above 0, or mixup must be")

    def batch(self, batch: Batch, step: Step) -> Batch:
        """Mix the batch in one of the ways."""
        ways: list[Callable[[Batch], Batch]] = []
        if self.mixup:
            ways.append(mixup(self.mixup).mixed)
        if self.cutmix:
            ways.append(cutmix(self.cutmix).mixed)
        with step.draws("batch"):
            chosen = int(torch.multinomial(torch.ones(len(ways)) / len(ways), 1))
            return ways[chosen](batch)
