"""Full finetuning: every parameter is trained."""

from dataclasses import dataclass

from torch import nn

from gmixout.methods.base import DenseFinetuning, Finetuning, Method


@dataclass(frozen=True)
class full(Method):
    """Full finetuning: every parameter is trained."""

    def start(self, model: nn.Module, seed: int) -> Finetuning:
        """Trains the model as it is."""
        del seed
        return DenseFinetuning(model)
