"""The average of the weights of any finetuning: moving (EMA), or uniform (SWA)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from gmixout.methods.base import TRAINED, DenseFinetuning, Derived, Finetuning, Method
from gmixout.methods.masking import gmixout
from gmixout.methods.style import BLUE, RED, Style
from gmixout.models.pretrained import Pretrained
from gmixout.settings import require
from gmixout.weightspace import State


class Averaged:
    """End any finetuning in the average of its weights.

    The average starts at the pretrained weights and adds the weights after every `every`
    optimizer steps: exponentially, `decay * average + (1 - decay) * snapshot`, or uniformly, so
    that the pretrained weights and all snapshots have the same share. Floating-point buffers
    (running statistics) are averaged with the weights; the others are those of the model. Sums are
    in float32 or wider.

    Args:
        finetuning: The finetuning to average, which itself is unchanged.
        decay: Coefficient of the moving average, in [0, 1); None: the uniform average.
        every: Optimizer steps between two snapshots.
    """

    def __init__(self, finetuning: Finetuning, decay: float | None, every: int = 1) -> None:
        self.finetuning, self._every, self._steps = finetuning, every, 0
        self._update: Any
        if decay is None:
            self._update = get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
        else:
            self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._hook: Any = None
        self._average = {key: _wide(value, copy=True) for key, value in self._floating().items()}

    @property
    def skips_layers(self) -> bool:
        """True if, in some steps, some trained values get no gradient."""
        return self.finetuning.skips_layers

    def param_groups(self, lr: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """Return the finetuning's own groups."""
        return self.finetuning.param_groups(lr, head_lr)

    def bind(self, optimizer: Optimizer) -> Optimizer:
        """Let the finetuning, and after it the average, follow the optimizer's steps."""
        optimizer = self.finetuning.bind(optimizer)
        self._hook = optimizer.register_step_post_hook(self._after_step)
        return optimizer

    def write(self) -> None:
        """Let the finetuning's model see values that were changed by hand."""
        self.finetuning.write()

    def state_dict(self) -> dict[str, Any]:
        """Return the finetuning's state and the average."""
        return {
            "finetuning": self.finetuning.state_dict(),
            "average": self._average,
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.finetuning.load_state_dict(state["finetuning"])
        self._steps = state["steps"]
        for key, value in state["average"].items():
            self._average[key].copy_(value)

    def snapshot(self) -> State:
        """Return the averaged weights, including those of the current step."""
        current, average = self.finetuning.snapshot(), self._average
        if self._steps % self._every:
            average = {key: value.clone() for key, value in average.items()}
            self._take_in(average, self._steps // self._every + 1)
        averaged = {key: value.to(current[key].dtype) for key, value in average.items()}
        return {**current, **averaged}

    def detach(self) -> nn.Module:
        """Return the plain model with the averaged weights."""
        if self._hook is not None:
            self._hook.remove()
        averaged = self.snapshot()
        model = self.finetuning.detach()
        model.load_state_dict(averaged)
        return model

    def _after_step(self, *_: Any) -> None:
        self._steps += 1
        if self._steps % self._every == 0:
            self._take_in(self._average, self._steps // self._every)

    def _take_in(self, average: dict[str, Tensor], members: int) -> None:
        """Add the current weights to an average of some members."""
        current = [_wide(value) for value in self._floating().values()]
        self._update(list(average.values()), current, members)

    def _floating(self) -> dict[str, Tensor]:
        state = self.finetuning.snapshot()
        return {key: value.detach() for key, value in state.items() if value.is_floating_point()}


@dataclass(frozen=True)
class ema(Method):
    """Full finetuning that ends in the exponential moving average of its weights.

    Source: Polyak and Juditsky (SIAM J. Control Optim. 1992) for the average over the steps; here
    with exponential weights that start at the pretrained model.

    Args:
        decay: Coefficient of the moving average, in [0, 1): it spans about the last
            `1/(1-decay)` steps, which should be a fraction of the run.
    """

    style = Style("EMA", BLUE, "p", "dash")

    decay: float = 0.99

    def __post_init__(self) -> None:
        """Refuse a decay out of range."""
        super().__post_init__()
        require(self, "decay", 0 <= self.decay < 1, "in [0, 1)")

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Start full finetuning and the average beside it."""
        del seed
        return Averaged(DenseFinetuning(pretrained), self.decay)


@dataclass(frozen=True)
class swa(Method):
    """Stochastic weight averaging: a method that ends in a uniform soup of its own snapshots.

    The pretrained and the final weights are included, and the learning rate is unchanged. For
    GMixout with its own period as `every`, the snapshots are its anchors at the end of periods.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
        UAI 2018, algorithm 1, from the first step on.

    Args:
        of: The method that finetunes.
        every: Optimizer steps between two snapshots.
    """

    style = Style("SWA", RED, "p", "dot")

    of: Method = field(default_factory=gmixout)
    every: int = 10

    def __post_init__(self) -> None:
        """Refuse methods without a run of their own to average, and a number of steps below 1."""
        super().__post_init__()
        require(self, "of", not isinstance(self.of, Derived), TRAINED)
        require(self, "every", self.every >= 1, "at least 1")

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Start the method and the average beside it."""
        return Averaged(self.of.start(pretrained, seed), decay=None, every=self.every)


def _wide(value: Tensor, copy: bool = False) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32), copy=copy)
