"""EMA: full finetuning that ends in the moving average of its weights."""

from dataclasses import dataclass

from torch import nn

from gmixout.methods.averaged import Averaged
from gmixout.methods.base import DenseFinetuning, Finetuning, Method
from gmixout.methods.style import BLUE, Style
from gmixout.settings import require


@dataclass(frozen=True)
class ema(Method):
    """Full finetuning that ends in the exponential moving average of its weights.

    Source: Polyak and Juditsky (SIAM J. Control Optim. 1992) for the average over the steps; here
    with exponential weights that start at the pretrained model.

    Args:
        decay: Share of the average that a step keeps, in [0, 1): it spans the last `1/(1-decay)`
            steps or so, so let that be a fraction of the run.
    """

    style = Style("EMA", BLUE, "p", "dash")

    decay: float = 0.99

    def __post_init__(self) -> None:
        """Refuses a decay out of range."""
        super().__post_init__()
        require(self, "decay", 0 <= self.decay < 1, "in [0, 1)")

    def start(self, model: nn.Module, seed: int) -> Finetuning:
        """Starts full finetuning and the average beside it."""
        del seed
        return Averaged(DenseFinetuning(model), self.decay)
