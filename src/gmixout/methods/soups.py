"""Model soups: the mean, in weight space, of several finetuned models."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gmixout import weightspace
from gmixout.methods.base import State
from gmixout.methods.built import Built


@dataclass(frozen=True)
class _Soup(Built):
    pools: ClassVar[bool] = True

    def variants(
        self, pretrained: State, finetuned: State
    ) -> Iterator[tuple[dict[str, Any], State]]:
        """Yields what `pool` returned."""
        del pretrained
        yield self.told, finetuned

    @abstractmethod
    def pool(self, states: Sequence[State], score: Callable[[State], float]) -> State:
        """Makes one model of the runs."""


@dataclass(frozen=True)
class uniform_soup(_Soup):
    """Uniform soup (Wortsman et al., ICML 2022, arXiv 2203.05482): the mean of several runs.

    The runs are those of one method from one pretrained start, with different learning rates.

    Args:
        of: The method whose runs are averaged; they are shared with it.
    """

    def pool(self, states: Sequence[State], score: Callable[[State], float]) -> State:
        """Returns the mean of the runs."""
        del score
        return weightspace.uniform_soup(states)


@dataclass(frozen=True)
class greedy_soup(_Soup):
    """Greedy soup (Wortsman et al., ICML 2022, arXiv 2203.05482): the mean of runs that help.

    From the best run on, a run joins if the mean with it is no worse on in-domain validation data.

    Args:
        of: The method whose runs are averaged; they are shared with it.
    """

    def pool(self, states: Sequence[State], score: Callable[[State], float]) -> State:
        """Returns the mean of the runs that do not lower its score."""
        return weightspace.greedy_soup(states, score)
