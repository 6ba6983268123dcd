"""Schedules of the learning rate by name, or any scheduler class of torch, with their options.

A schedule is the share of the peak learning rate at each step after the warm-up, a function of the
number of steps alone: a resumed run, and a group with a learning rate of its own, need no more.
"""

import inspect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from gmixout.errors import ConfigError
from gmixout.named import Named
from gmixout.settings import check_settings, require
from gmixout.training.adopted import Adopted, adopt

_LENGTHS = ("total_steps", "T_max")
"""Parameters of torch's schedulers that are, by default, the number of steps."""
_RUNS_OWN = (
    "optimizer", "last_epoch", "verbose", "epochs", "steps_per_epoch",
    # the peak is the run's, and momentum stays as it is
    "max_lr", "cycle_momentum", "base_momentum", "max_momentum",
)  # fmt: skip
"""Parameters of torch's schedulers that are not options."""


class LrSchedule(Named, ABC):
    """A schedule of the learning rate and its options.

    A schedule of your own is a frozen dataclass with `shares`, or a class of torch's
    `lr_scheduler`.

    Example:
        >>> SCHEDULES["linear"]().shares(4)
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    @property
    def has_warmup(self) -> bool:
        """True if it begins with a warm-up of its own, below half of the peak."""
        return self.shares(10)[0] < 0.5

    def __post_init__(self) -> None:
        """Check the options against their types; subclasses add their ranges."""
        check_settings(self)

    @classmethod
    def kind_word(cls) -> str:
        """Return the word for schedules in messages."""
        return "schedule"

    @classmethod
    def adopted(cls, found: Any) -> Any:
        """Return the wrapper of a scheduler class of torch; anything else unchanged."""
        if isinstance(found, type) and issubclass(found, lr_scheduler.LRScheduler):
            return adopt(_OfTorch, found, _RUNS_OWN, "", **_lengths_of(found))
        return found

    @abstractmethod
    def shares(self, steps: int) -> list[float]:
        """Return the share of the peak at each step, `steps + 1` numbers, the last one unused.

        Args:
            steps: Steps after the warm-up.
        """


@dataclass(frozen=True)
class _Falling(LrSchedule):
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "final", 0 <= self.final <= 1, "in [0, 1]")

    def shares(self, steps: int) -> list[float]:
        """See `LrSchedule.shares`."""
        return [self.final + (1 - self.final) * self._left(k / steps) for k in range(steps + 1)]

    @abstractmethod
    def _left(self, done: float) -> float:
        """Return the share that is left of the fall, from 1 to 0, after a share of the steps."""


@dataclass(frozen=True)
class cosine(_Falling):
    """Half a cosine (Loshchilov & Hutter, ICLR 2017, arXiv 1608.03983).

    Args:
        final: Share of the peak learning rate at the end.
    """

    def _left(self, done: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class linear(_Falling):
    """A straight line.

    Args:
        final: Share of the peak learning rate at the end.
    """

    def _left(self, done: float) -> float:
        return 1.0 - done


@dataclass(frozen=True)
class wsd(_Falling):
    """Constant, then a straight line (warmup-stable-decay, arXiv 2404.06395; also: trapezoid).

    Args:
        final: Share of the peak learning rate at the end.
        decay: Share of the steps in which it falls (0.2: arXiv 2405.18392).
    """

    decay: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "decay", 0 < self.decay <= 1, "in (0, 1]")

    def _left(self, done: float) -> float:
        return min(1.0, (1.0 - done) / self.decay)


@dataclass(frozen=True)
class constant(LrSchedule):
    """The peak learning rate all the time."""

    def shares(self, steps: int) -> list[float]:
        """See `LrSchedule.shares`."""
        return [1.0] * (steps + 1)


@dataclass(frozen=True)
class step(LrSchedule):
    """Falls at some places (by 0.1 at a half and three quarters: He et al., arXiv 1512.03385).

    Args:
        at: Places, as shares of the steps.
        factor: Factor at each of them.
    """

    at: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "at", all(0 < each < 1 for each in self.at), "a list of numbers in (0, 1)")
        require(self, "factor", 0 <= self.factor <= 1, "in [0, 1]")

    def shares(self, steps: int) -> list[float]:
        """See `LrSchedule.shares`."""
        return [self.factor ** sum(k >= each * steps for each in self.at) for k in range(steps + 1)]


class _OfTorch(Adopted, LrSchedule):
    """A scheduler of torch, asked for the learning rates of a run beforehand."""

    family = LrSchedule

    def shares(self, steps: int) -> list[float]:
        """See `LrSchedule.shares`; momentum is not scheduled.

        Raises:
            ConfigError: The scheduler cannot be made, or follows more than the number of steps.
        """
        options = {n: v for n, v in vars(self).items() if n not in _LENGTHS or v is not None}
        lengths = {"total_steps": steps + 1, "T_max": steps}
        options = {n: lengths[n] for n in _lengths_of(self.kind)} | options
        fixed = {"max_lr": 1.0, "cycle_momentum": False}
        options |= {n: v for n, v in fixed.items() if n in _parameters(self.kind)}
        try:
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
            scheduler = self.kind(optimizer, **options)
            found = [float(optimizer.param_groups[0]["lr"])]
            for _ in range(steps):
                optimizer.step()
                scheduler.step()
                found.append(float(optimizer.param_groups[0]["lr"]))
        except Exception as error:  # whatever a scheduler does with the options
            raise ConfigError(
                f"schedule {self} gives no learning rates by the number of steps alone: {error}"
            ) from error
        return found


def _parameters(kind: type[Any]) -> frozenset[str]:
    return frozenset(inspect.signature(kind).parameters)


def _lengths_of(kind: type[Any]) -> dict[str, None]:
    """Return the parameters of a scheduler that are the number of steps, unless given."""
    return {name: None for name in _LENGTHS if name in _parameters(kind)}


SCHEDULES: dict[str, type[LrSchedule]] = {
    **{kind.__name__: kind for kind in (cosine, linear, constant, step, wsd)},
    "one_cycle": adopt(_OfTorch, lr_scheduler.OneCycleLR, (*_RUNS_OWN, *_LENGTHS), "one_cycle"),
}
"""Schedules by the names that users type."""

LrSchedule._table = SCHEDULES
