"""Model soups: the mean, in weight space, of several finetuned models."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gmixout.methods.built import Built
from gmixout.methods.style import VIOLET, Style
from gmixout.weightspace import State, greedy_members


@dataclass(frozen=True)
class _Soup(Built):
    pools: ClassVar[bool] = True

    def variants(
        self, pretrained: State, finetuned: State
    ) -> Iterator[tuple[dict[str, Any], State]]:
        """Yields the mean of what `pool` chose."""
        del pretrained
        yield self.told, finetuned

    @abstractmethod
    def pool(self, states: Sequence[State], score: Callable[[State], float]) -> list[int]:
        """Chooses the runs."""


@dataclass(frozen=True)
class uniform_soup(_Soup):
    """Uniform soup (Wortsman et al., ICML 2022, arXiv 2203.05482): the mean of several runs.

    The runs are those of one method from one pretrained start, with different learning rates.

    Args:
        of: The method whose runs are averaged; they are shared with it.
    """

    style = Style("uniform soup", VIOLET, "h", main=True)

    def pool(self, states: Sequence[State], score: Callable[[State], float]) -> list[int]:
        """Chooses all runs."""
        del score
        return list(range(len(states)))


@dataclass(frozen=True)
class greedy_soup(_Soup):
    """Greedy soup (Wortsman et al., ICML 2022, arXiv 2203.05482): the mean of runs that help.

    From the best run on, a run joins if the mean with it is no worse on in-domain validation data.

    Args:
        of: The method whose runs are averaged; they are shared with it.
    """

    style = Style("greedy soup", VIOLET, "p", main=True)

    def pool(self, states: Sequence[State], score: Callable[[State], float]) -> list[int]:
        """Chooses the runs that do not lower the score of the mean."""
        return greedy_members(states, score)
