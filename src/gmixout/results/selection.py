"""Selection rules: which of a method's models is chosen, and by which criterion.

A comparison of methods is a comparison of choices, so the rule is part of the result: it has a
name, and every table that shows a selected model says which rule selected it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gmixout.errors import StateError


class Candidate(Protocol):
    """A candidate of a rule: a record, or a setting over its seeds (then means)."""

    @property
    def id_val(self) -> float:
        """The official metric on in-domain validation data."""

    def worth(self, value: float) -> float:
        """Return a value of the official metric such that higher is better."""

    @property
    def ood(self) -> Any:
        """Mean over the reported shifts, for the oracle only."""

    @property
    def lr(self) -> float | None:
        """Learning rate."""

    @property
    def alpha(self) -> float | None:
        """Position on an interpolation path."""

    @property
    def step(self) -> int:
        """Optimizer steps done when it was evaluated."""

    @property
    def at_the_end(self) -> bool:
        """True unless its run kept an earlier model than the last one, or a mean of several."""


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True)
class Rule:
    """A selection rule.

    Ties go to the candidate that moved least: lower learning rate, then lower alpha, then fewer
    steps.
    """

    name: str
    note: str
    """The criterion, for readers of a table."""
    _worth: Callable[[Any], float]
    _admits: Callable[[Any, list[Any]], bool] = lambda candidate, every: True

    def admitted(self, candidates: Iterable[C]) -> list[C]:
        """Return the candidates that the rule may select."""
        every = list(candidates)
        return [each for each in every if self._admits(each, every)]

    def choose(self, candidates: Iterable[C]) -> C:
        """Return the candidate that the rule selects.

        Raises:
            StateError: There are no candidates, or none that the rule may select.
        """
        every = list(candidates)
        if not every:
            raise StateError("nothing to select from: there are no records")
        if not (admitted := self.admitted(every)):
            raise StateError(
                f"rule {self.name}: no candidate is the model of the last step, as the runs kept "
                "their best on in-domain validation, or a soup of several"
            )
        return min(
            admitted,
            key=lambda each: (-self._worth(each), each.lr or 0.0, each.alpha or 0.0, each.step),
        )


def _is_of_the_end(candidate: Candidate, every: list[Candidate]) -> bool:
    return candidate.at_the_end and candidate.step == max(each.step for each in every)


def _id_worth(candidate: Candidate) -> float:
    return candidate.worth(candidate.id_val)


id_validation = Rule(
    "id_validation",
    "best on in-domain validation data; no test set and no shift is used",
    _id_worth,
)
last = Rule(
    "last",
    "the end of training, even if an earlier model was better; the learning rate by in-domain "
    "validation",
    _id_worth,
    _is_of_the_end,
)
oracle = Rule(
    "oracle",
    "ORACLE: best on the shifted test sets themselves, which are unknown in practice",
    lambda candidate: candidate.worth(candidate.ood),
)

RULES: dict[str, Rule] = {rule.name: rule for rule in (id_validation, last, oracle)}
