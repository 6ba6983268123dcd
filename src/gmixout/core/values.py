"""Parameters that detect when others may have moved them, and a watch over optimizers."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from gmixout.errors import AttachError


class _Watched(nn.Parameter):
    """A parameter that knows whether it may have been moved where its version does not tell.

    Two ways leave no trace in `_version`: what is done to `.data`, and fused optimizers.

    Attributes:
        moved: Whether one of them was taken since it was last cleared.
        process: Returns how many steps a bound optimizer has made with these values, None where
            none needs to be; itself None in a copy, which belongs to no process.
    """

    moved: bool = False
    process: Callable[[], int | None] | None = None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle as one of no process."""
        del protocol
        return type(self), (self.detach(), self.requires_grad)

    def _get_data(self) -> Tensor:
        self.moved = True
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]

    def _set_data(self, value: Tensor) -> None:
        self.moved = True
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]

    data = property(_get_data, _set_data)


class Values(_Watched):
    """The trainable leaf of a masked weight."""


class Phi(_Watched):
    """The model's own parameter while it is masked: an optimizer has nothing to move in it."""


BOUND: "WeakSet[torch.optim.Optimizer]" = WeakSet()
"""Optimizers that a process follows."""
_STEPS: "WeakKeyDictionary[torch.optim.Optimizer, dict[Callable[[], int | None], int | None]]"
_STEPS = WeakKeyDictionary()
_hooks: list[Any] = []


def watch_optimizers() -> None:
    """Look, from now on, at every optimizer's steps: one that nobody bound may hold `Values`."""
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before))
        _hooks.append(register_optimizer_step_post_hook(_after))


def _watched_in(optimizer: torch.optim.Optimizer) -> list[_Watched]:
    return [p for g in optimizer.param_groups for p in g["params"] if isinstance(p, _Watched)]


def _before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if optimizer in BOUND or not (found := _watched_in(optimizer)):
        return
    steps = {v.process: v.process() for v in found if v.process is not None}
    if steps and not any(isinstance(each, Values) for each in found):
        raise AttachError(
            f"This {type(optimizer).__name__} was made before attach(): it holds the weights that "
            "are now masked, not the values that are trained in their place. Make it after "
            "attach(), from masked.param_groups(lr=...), and bind it."
        )
    _STEPS[optimizer] = steps


def _after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Raise unless a bound optimizer, which this one is built around, has made the step."""
    if optimizer in BOUND:
        return
    for each in _watched_in(optimizer):
        if isinstance(each, Values):  # weights have no gradient, and stay where they are
            each.moved = True
    for process, steps in _STEPS.pop(optimizer, {}).items():
        if steps is not None and process() == steps:
            raise AttachError(
                f"This {type(optimizer).__name__} has stepped masked values, and no process "
                "follows it, so that their masks would never advance. Call masked.bind(optimizer) "
                "before training; a trainer that makes its own optimizer takes one that is bound."
            )
