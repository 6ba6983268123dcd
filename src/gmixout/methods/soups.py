"""Model soups: the mean, in weight space, of several finetuned models."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from gmixout.methods.base import Derived, Method, Runs, Variant
from gmixout.methods.full import full
from gmixout.methods.style import VIOLET, Style
from gmixout.weightspace import State, greedy_members
from gmixout.weightspace import uniform_soup as mean


@dataclass(frozen=True)
class _Soup(Derived):
    of: Method = field(default_factory=full)

    several_runs: ClassVar[bool] = True

    def models(self, pretrained: State, runs: Runs) -> Iterator[Variant]:
        """Yields the mean of the chosen runs."""
        del pretrained
        members = self.choose(runs)
        state = mean([runs.states[member] for member in members])
        yield Variant(self.of_option, state, tuple(members))

    @abstractmethod
    def choose(self, runs: Runs) -> list[int]:
        """Returns the positions of the runs that are averaged."""


@dataclass(frozen=True)
class uniform_soup(_Soup):
    """Uniform soup (Wortsman et al., ICML 2022, arXiv 2203.05482): the mean of several runs.

    The runs are those of one method from one pretrained start, with different learning rates.

    Args:
        of: The method whose runs are averaged; they are shared with it.
    """

    style = Style("uniform soup", VIOLET, "h", main=True)

    def choose(self, runs: Runs) -> list[int]:
        """Chooses all runs."""
        return list(range(len(runs.states)))


@dataclass(frozen=True)
class greedy_soup(_Soup):
    """Greedy soup (Wortsman et al., ICML 2022, arXiv 2203.05482): the mean of runs that help.

    From the best run on, a run joins if the mean with it is no worse on in-domain validation data.

    Args:
        of: The method whose runs are averaged; they are shared with it.
    """

    style = Style("greedy soup", VIOLET, "p", main=True)

    def choose(self, runs: Runs) -> list[int]:
        """Chooses the runs that do not lower the score of the mean."""
        return greedy_members(runs.states, runs.score)
