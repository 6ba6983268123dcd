"""Full finetuning: every parameter is trained."""

from dataclasses import dataclass

from gmixout.methods.base import DenseFinetuning, Finetuning, Method
from gmixout.models.pretrained import Pretrained


@dataclass(frozen=True)
class full(Method):
    """Full finetuning: every parameter is trained."""

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Train the model as it is."""
        del seed
        return DenseFinetuning(pretrained)
