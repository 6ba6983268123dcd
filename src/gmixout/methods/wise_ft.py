"""WiSE-FT: the line in weight space from the zero-shot to the fully finetuned model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from gmixout.errors import ConfigError
from gmixout.methods.base import Finetuning, Method, State
from gmixout.methods.full import full
from gmixout.weightspace import interpolate


@dataclass(frozen=True)
class wise_ft(Method):
    """WiSE-FT (arXiv 2109.01903): interpolates from the zero-shot to the fully finetuned model.

    Finetuning starts from the zero-shot head, which stays in the path: the pretrained end of the
    line is the zero-shot classifier, never a random head.

    Args:
        alphas: Shares of the finetuned weights, one model for each; 0 is zero-shot, 1 finetuned.
    """

    alphas: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)

    def __post_init__(self) -> None:
        """Refuses shares outside [0, 1]."""
        if not self.alphas or not all(0.0 <= alpha <= 1.0 for alpha in self.alphas):
            raise ConfigError(
                f"wise_ft(alphas={list(self.alphas)}): give one or more numbers from 0 to 1"
            )

    @property
    def trained(self) -> Method:
        """Full finetuning: its runs are shared."""
        return full()

    def start(self, model: nn.Module, seed: int) -> Finetuning:
        """Starts full finetuning."""
        return self.trained.start(model, seed)

    def variants(
        self, pretrained: State, finetuned: State
    ) -> Iterator[tuple[dict[str, Any], State]]:
        """Yields one model for each alpha."""
        for alpha in self.alphas:
            yield {"alpha": alpha}, interpolate(pretrained, finetuned, alpha)
