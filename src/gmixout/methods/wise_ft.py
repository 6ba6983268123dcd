"""WiSE-FT: the line in weight space from the zero-shot to the finetuned model."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from gmixout.methods.base import Derived, Method, Runs, Variant, preset
from gmixout.methods.full import full
from gmixout.methods.masking import gmixout
from gmixout.methods.style import SALMON, SKY, Style
from gmixout.settings import require
from gmixout.weightspace import State, interpolate


@dataclass(frozen=True)
class wise_ft(Derived):
    """WiSE-FT (arXiv 2109.01903): interpolates from the zero-shot to the finetuned model.

    Finetuning starts from the zero-shot head, which stays in the path: the pretrained end of the
    line is the zero-shot classifier, never a random head.

    Args:
        of: The method that finetunes; its runs are shared with it.
        alphas: Shares of the finetuned weights, one model for each; 0 is zero-shot, 1 finetuned.
    """

    style = Style("WiSE-FT", SKY, "o", "dash", main=True)

    of: Method = field(default_factory=full)
    alphas: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)

    def __post_init__(self) -> None:
        """Refuses shares outside [0, 1]."""
        super().__post_init__()
        inside = all(0 <= alpha <= 1 for alpha in self.alphas)
        require(self, "alphas", bool(self.alphas) and inside, "one or more numbers from 0 to 1")

    def models(self, pretrained: State, runs: Runs) -> Iterator[Variant]:
        """Yields one model for each alpha."""
        (finetuned,) = runs.states
        for alpha in self.alphas:
            options = {"alpha": alpha, **self.of_option}
            yield Variant(options, interpolate(pretrained, finetuned, alpha), (0,))


gmixout_wise_ft = preset(
    wise_ft,
    "gmixout_wise_ft",
    "WiSE-FT of GMixout: interpolates from the zero-shot model to the one GMixout made.",
    Style("GMixout + WiSE-FT", SALMON, "d", "dash", main=True),
    of=gmixout(),
)
