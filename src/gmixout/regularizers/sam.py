"""Sharpness-aware minimization: the gradient at the worst point nearby."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from gmixout.regularizers.base import Regularizer, StepLoss, Weights
from gmixout.settings import require


@dataclass(frozen=True)
class sam(Regularizer):
    """SAM (Foret et al., ICLR 2021, arXiv 2010.01412): the gradient at `w + rho g / ||g||`.

    `g` is the gradient at `w`, over everything that is trained (equation 2 of the paper, p = 2). In
    a masked model only trained entries move: anchor values stay bit-identical. It makes two
    passes, so a step takes twice as long. The second pass repeats the first one's dropout.

    Args:
        rho: Size of the step away, in the L2 norm over all trained values.
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        """Refuse a negative size."""
        super().__post_init__()
        require(self, "rho", self.rho >= 0, "0 or more")

    def gradients(self, loss: StepLoss, weights: Weights) -> Tensor:
        """Leave the gradients at the perturbed weights; return the loss at the weights."""
        here = loss()
        if not self.rho:
            return here
        moved, slopes = [], []
        for each in weights.parameters:
            if each.grad is not None:
                moved.append(each)
                slopes.append(each.grad)
                each.grad = None
        with torch.no_grad():
            before = [each.clone() for each in moved]
            scale = self.rho / (get_total_norm(slopes) + 1e-12)
            for each, slope in zip(moved, slopes, strict=True):
                each.add_(slope * scale.to(each))
            weights.write()
        try:
            loss()
        finally:
            with torch.no_grad():
                for each, value in zip(moved, before, strict=True):
                    each.copy_(value)
                weights.write()
        return here
