"""Full finetuning: every parameter is trained."""

from dataclasses import dataclass

from gmixout.methods.base import DenseFinetuning, Finetuning, Method
from gmixout.methods.style import BLUE, Style
from gmixout.models.pretrained import Pretrained


@dataclass(frozen=True)
class full(Method):
    """Full finetuning: every parameter is trained."""

    style = Style("full finetuning", BLUE, "o", main=True)

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Trains the model as it is."""
        del seed
        return DenseFinetuning(pretrained)
