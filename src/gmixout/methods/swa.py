"""SWA: any method, ending in the mean of the weights along its way."""

from dataclasses import dataclass, field

from torch import nn

from gmixout.methods.averaged import Averaged
from gmixout.methods.base import Finetuning, Method
from gmixout.methods.built import TRAINED
from gmixout.methods.masking import gmixout
from gmixout.methods.style import RED, Style
from gmixout.settings import require


@dataclass(frozen=True)
class swa(Method):
    """Stochastic weight averaging: a method that ends in a uniform soup of its own snapshots.

    The pretrained and the final weights are among them, and the learning rate stays what it is. Of
    GMixout with its own period as `every`, the snapshots are its anchors at the periods' ends.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
        UAI 2018, algorithm 1, from the first step on.

    Args:
        of: The method that finetunes.
        every: Optimizer steps between two snapshots.
    """

    style = Style("SWA", RED, "p", "dot")

    of: Method = field(default_factory=gmixout)
    every: int = 10

    def __post_init__(self) -> None:
        """Refuses what has no run of its own to average, and a number of steps below 1."""
        super().__post_init__()
        require(self, "of", self.of.trained == self.of, TRAINED)
        require(self, "every", self.every >= 1, "at least 1")

    def start(self, model: nn.Module, seed: int) -> Finetuning:
        """Starts the method and the average beside it."""
        return Averaged(self.of.start(model, seed), decay=None, every=self.every)
