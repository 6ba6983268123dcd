"""RegMixup: the loss of mixed images in addition to that of the images."""

from dataclasses import dataclass

from torch import Tensor

from gmixout.regularizers.base import Regularizer, Seen, Step
from gmixout.regularizers.blending import anyone, beta, blend, require_concentration
from gmixout.settings import require


@dataclass(frozen=True)
class regmixup(Regularizer):
    """RegMixup (Pinto et al., NeurIPS 2022, arXiv 2206.14502): `CE(x, y) + weight CE(mix)`.

    Images are mixed with a random permutation of the batch. The authors' code averages over both
    halves, which is half of this loss at weight 1. A second pass
    doubles the time of a step.

    Args:
        concentration: Parameter of the Beta distribution of the share: 20 in the paper, 10 for
            CIFAR-100.
        weight: Weight of the mixed images' loss, the paper's eta.
    """

    concentration: float = 20.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require_concentration(self)
        require(self, "weight", self.weight >= 0, "0 or more")

    def term(self, seen: Seen, step: Step) -> Tensor | None:
        """Return the weighted loss of the mixed batch."""
        if not self.weight:
            return None
        with step.draws(self.name):
            mixed = blend(seen.batch, anyone(seen.batch), beta(self.concentration))
        return self.weight * step.forward(mixed).mean()
