"""Zero-shot: the pretrained model with its zero-shot head, not trained at all."""

from collections.abc import Iterator
from dataclasses import dataclass

from gmixout.methods.base import Derived, Runs, Variant
from gmixout.methods.style import GREY, Style
from gmixout.weightspace import State


@dataclass(frozen=True)
class zero_shot(Derived):
    """The pretrained model with its zero-shot head, not trained at all."""

    style = Style("zero-shot", GREY, "*", main=True)

    @property
    def trained(self) -> None:
        """There is nothing to train."""
        return None

    def models(self, pretrained: State, runs: Runs) -> Iterator[Variant]:
        """Yields the pretrained model."""
        del runs
        yield Variant(self.options, pretrained, ())
