"""Mixup: interpolate images and targets."""

from dataclasses import dataclass
from typing import ClassVar

from gmixout.data.batch import Batch
from gmixout.regularizers.base import Regularizer, Step
from gmixout.regularizers.blending import beta, blend, next_one
from gmixout.settings import require

LEAST, MOST = 1e-6, 1e6
"""Range of the Beta distribution's parameter; draws are in float32."""


@dataclass(frozen=True)
class mixup(Regularizer):
    """Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412).

    As in torchvision, a batch is mixed with itself shifted by one image, with one share for all
    images.

    Args:
        concentration: The paper's alpha: shares are drawn from Beta(alpha, alpha).
    """

    concentration: float = 0.2

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
        """Return the batch mixed by a draw of torch's CPU generator."""
        return blend(batch, next_one(batch), beta(self.concentration))


def require_concentration(options: Regularizer) -> None:
    """Refuse an option `concentration` that a Beta distribution cannot be drawn with.

    Raises:
        ConfigError: It is out of range.
    """
    fine = LEAST <= vars(options)["concentration"] <= MOST
    require(options, "concentration", fine, "from 1e-6 to 1e6")
