"""Mixup: interpolate images and targets."""

from dataclasses import dataclass

from gmixout.data.batch import Batch
from gmixout.regularizers.blending import Blending, beta, blend, next_one


@dataclass(frozen=True)
class mixup(Blending):
    """Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412).

    As in torchvision, a batch is mixed with itself shifted by one image, with one share for all
    images.

    Args:
        concentration: The paper's alpha: shares are drawn from Beta(alpha, alpha).
    """

    concentration: float = 0.2

    def mixed(self, batch: Batch) -> Batch:
        """Return the batch mixed by a draw of torch's CPU generator."""
        return blend(batch, next_one(batch), beta(self.concentration))
