"""Selection rules: which of a method's models one would have taken, and on what grounds.

A comparison of methods is a comparison of choices, so the rule is part of the result: it has a
name, and every table that shows a selected model says which rule selected it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gmixout.errors import StateError


class Candidate(Protocol):
    """What a rule may look at: a record, or a setting over its seeds (then means)."""

    @property
    def id_val(self) -> float:
        """The official figure of in-domain validation."""

    @property
    def ood(self) -> Any:
        """Mean figure over the reported shifts: for the oracle's eyes alone."""

    @property
    def lr(self) -> float | None:
        """Learning rate."""

    @property
    def alpha(self) -> float | None:
        """Place on an interpolation path."""

    @property
    def step(self) -> int:
        """Optimizer steps that led to the model."""


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True)
class Rule:
    """A selection rule.

    Of candidates that are equal by it, the one that moved least is chosen: lower learning rate,
    then lower alpha, then fewer steps.
    """

    name: str
    note: str
    """What is looked at, in words for the reader of a table."""
    _worth: Callable[[Any], float]
    _admits: Callable[[Any, list[Any]], bool] = lambda candidate, every: True

    def choose(self, candidates: Iterable[C]) -> C:
        """Returns the candidate that the rule selects.

        Raises:
            StateError: There are no candidates.
        """
        every = list(candidates)
        if not every:
            raise StateError("nothing to select from: there are no records")
        admitted = [each for each in every if self._admits(each, every)]
        return min(
            admitted,
            key=lambda each: (-self._worth(each), each.lr or 0.0, each.alpha or 0.0, each.step),
        )


def _is_of_the_end(candidate: Candidate, every: list[Candidate]) -> bool:
    return candidate.step == max(each.step for each in every)


id_validation = Rule(
    "id_validation",
    "best on in-domain validation data; no test set and no shift had a say",
    lambda candidate: candidate.id_val,
)
last = Rule(
    "last",
    "the end of training, whatever was better on the way; the rate by in-domain validation",
    lambda candidate: candidate.id_val,
    _is_of_the_end,
)
oracle = Rule(
    "oracle",
    "ORACLE: best on the shifted test sets themselves, which nobody can know",
    lambda candidate: candidate.ood,
)

RULES: dict[str, Rule] = {rule.name: rule for rule in (id_validation, last, oracle)}
