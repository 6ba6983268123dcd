"""The moving average of the weights of any finetuning."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from gmixout.errors import ConfigError
from gmixout.methods.base import Finetuning
from gmixout.weightspace import State


class Averaged:
    """Ends any finetuning in the exponential moving average of its weights.

    The average starts at the pretrained weights and becomes, after each optimizer step,
    `decay * average + (1 - decay) * snapshot`. Floating-point buffers (running statistics) are
    averaged with the weights; the others are those of the model. Sums are in float32 or wider.

    Args:
        finetuning: What is averaged; it goes on as it would alone.
        decay: Coefficient of the average, in [0, 1).

    Raises:
        ConfigError: `decay` is out of range.
    """

    def __init__(self, finetuning: Finetuning, decay: float) -> None:
        check_decay(decay)
        self.finetuning = finetuning
        self._update: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._hook: Any = None
        self._average = {key: _wide(value, copy=True) for key, value in self._floating().items()}

    def param_groups(self, lr: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """Returns the finetuning's own groups."""
        return self.finetuning.param_groups(lr, head_lr)

    def bind(self, optimizer: Optimizer) -> Optimizer:
        """Lets the finetuning, and after it the average, follow the optimizer's steps."""
        optimizer = self.finetuning.bind(optimizer)
        self._hook = optimizer.register_step_post_hook(self._after_step)
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        """Returns the finetuning's state and the average."""
        return {"finetuning": self.finetuning.state_dict(), "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.finetuning.load_state_dict(state["finetuning"])
        for key, value in state["average"].items():
            self._average[key].copy_(value)

    def snapshot(self) -> State:
        """Returns the averaged weights."""
        current = self.finetuning.snapshot()
        averaged = {key: value.to(current[key].dtype) for key, value in self._average.items()}
        return {**current, **averaged}

    def detach(self) -> nn.Module:
        """Returns the plain model with the averaged weights."""
        if self._hook is not None:
            self._hook.remove()
        averaged = self.snapshot()
        model = self.finetuning.detach()
        model.load_state_dict(averaged)
        return model

    def _after_step(self, *_: Any) -> None:
        current = [_wide(value) for value in self._floating().values()]
        self._update(list(self._average.values()), current, 0)

    def _floating(self) -> dict[str, Tensor]:
        state = self.finetuning.snapshot()
        return {key: value.detach() for key, value in state.items() if value.is_floating_point()}


def check_decay(decay: float, name: str = "decay") -> None:
    """Raises a `ConfigError` if a moving average cannot have this coefficient."""
    if not 0.0 <= decay < 1.0:
        raise ConfigError(f"{name}={decay} is not allowed: it must be in [0, 1)")


def _wide(value: Tensor, copy: bool = False) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32), copy=copy)
