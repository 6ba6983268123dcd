"""CutMix: a rectangle of another image, and the target by area."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from gmixout.data.batch import Batch
from gmixout.regularizers.blending import Blending, beta, blend, next_one
from gmixout.tasks import TASKS

CLASSES_ALONE = tuple(name for name, task in TASKS.items() if task.has_classes)
"""Tasks for which the area of a part of an image is a share of its target."""


@dataclass(frozen=True)
class cutmix(Blending):
    """CutMix (Yun et al., ICCV 2019, arXiv 1905.04899).

    In torchvision's form: one rectangle for the whole batch, which is cut out of it moved on by one
    image.

    Args:
        concentration: The paper's alpha: the share of the own image is drawn from
            Beta(alpha, alpha) before the rectangle is cut at the image's border.
    """

    concentration: float = 1.0

    tasks: ClassVar[tuple[str, ...]] = CLASSES_ALONE

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
