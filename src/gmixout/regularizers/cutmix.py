"""CutMix: a rectangle of another image, and the target by area."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from gmixout.data.batch import Batch
from gmixout.regularizers.base import Regularizer, Step
from gmixout.regularizers.blending import beta, blend, next_one
from gmixout.regularizers.mixup import require_concentration


@dataclass(frozen=True)
class cutmix(Regularizer):
    """CutMix (Yun et al., ICCV 2019, arXiv 1905.04899).

    In torchvision's form: one rectangle for the whole batch, which is cut out of it moved on by one
    image.

    Args:
        concentration: The paper's alpha: the share of the own image is drawn from
            Beta(alpha, alpha) before the rectangle is cut at the image's border.
    """

    concentration: float = 1.0

    soft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a concentration out of range."""
        super().__post_init__()
        require_concentration(self)

    def batch(self, batch: Batch, step: Step) -> Batch:
        """Mix the batch."""
        with step.draws(self.name):
            return self.mixed(batch)

    def mixed(self, batch: Batch) -> Batch:
        """Return the batch mixed by draws of torch's CPU generator."""
        height, width = batch.images.shape[-2:]
        share = beta(self.concentration)
        x, y = int(torch.randint(width, size=(1,))), int(torch.randint(height, size=(1,)))
        half = 0.5 * (1 - share) ** 0.5
        left, right = max(0, x - int(half * width)), min(width, x + int(half * width))
        top, bottom = max(0, y - int(half * height)), min(height, y + int(half * height))
        mask = batch.images.new_ones(1, 1, height, width)
        mask[..., top:bottom, left:right] = 0
        kept = 1 - (right - left) * (bottom - top) / (height * width)
        return blend(batch, next_one(batch), mask, of=kept)
