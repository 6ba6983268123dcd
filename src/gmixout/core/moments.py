"""What becomes of the optimizer's moments when the mask is redrawn: one policy, by its name.

Works on the state of any `torch.optim` optimizer, which holds, for each parameter, tensors of the
parameter's shape (moments) and scalars (step counts).
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import Tensor

from gmixout.core.config import GMixout
from gmixout.core.process import MaskedWeight
from gmixout.errors import AttachError


class MomentPolicy(Protocol):
    """Called around each redraw of each masked weight's mask."""

    def before(self, masked: MaskedWeight, optimizer: torch.optim.Optimizer) -> None:
        """The old mask is still in force."""

    def after(self, masked: MaskedWeight, optimizer: torch.optim.Optimizer, updates: int) -> None:
        """The new mask is in force; `updates` is the count of optimizer steps so far."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, by the weights' names."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` returned."""


class Reset:
    """Moments and step counts of the masked values start anew with every mask."""

    def __init__(self, weights: Mapping[str, MaskedWeight], optimizer: torch.optim.Optimizer):
        # Some optimizers (Adagrad) make their state when they are made, most at their first step.
        self._initial = {}
        for name, masked in weights.items():
            state = optimizer.state.get(masked.values, {})
            # Made with the optimizer means a step count of 0; anything else has seen a step.
            if state and float(state.get("step", 1)) > 0:
                raise AttachError(
                    f"The optimizer has already stepped the values of {name!r}. Bind it right "
                    "after making it, and load saved states afterwards."
                )
            self._initial[name] = deepcopy(state)

    def before(self, masked: MaskedWeight, optimizer: torch.optim.Optimizer) -> None:
        """See `MomentPolicy.before`."""
        del masked, optimizer

    def after(self, masked: MaskedWeight, optimizer: torch.optim.Optimizer, updates: int) -> None:
        """See `MomentPolicy.after`."""
        del updates
        if self._initial[masked.name]:
            optimizer.state[masked.values] = deepcopy(self._initial[masked.name])
        else:
            optimizer.state.pop(masked.values, None)

    def state(self) -> dict[str, Any]:
        """See `MomentPolicy.state`: nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `MomentPolicy.load_state`."""
        del state


class Carry:
    """Moments stay with their entry: dense, the size of the weight, one for each moment.

    torch's optimizers keep one step count a tensor. Entries are trained in a random share of the
    steps, so the count that corrects the moments' bias is set to the mean over entries, density
    times all steps.
    """

    def __init__(self, weights: Mapping[str, MaskedWeight], optimizer: torch.optim.Optimizer):
        del optimizer
        self._weights = weights
        self._dense: dict[str, dict[str, Tensor]] = {name: {} for name in weights}

    @torch.no_grad()
    def before(self, masked: MaskedWeight, optimizer: torch.optim.Optimizer) -> None:
        """See `MomentPolicy.before`."""
        dense = self._dense[masked.name]
        for key, moment in optimizer.state.get(masked.values, {}).items():
            if isinstance(moment, Tensor) and moment.shape == masked.values.shape:
                if key not in dense:
                    dense[key] = torch.zeros_like(masked.weight, dtype=moment.dtype)
                masked.structure.scatter_(dense[key], masked.index, moment)

    @torch.no_grad()
    def after(self, masked: MaskedWeight, optimizer: torch.optim.Optimizer, updates: int) -> None:
        """See `MomentPolicy.after`."""
        state = optimizer.state.get(masked.values, {})
        for key, dense in self._dense[masked.name].items():
            state[key].copy_(masked.structure.gather(dense, masked.index))
        if isinstance(state.get("step"), Tensor):
            state["step"].fill_(updates * masked.config.density)

    def state(self) -> dict[str, Any]:
        """See `MomentPolicy.state`: the dense moments."""
        return {name: dict(dense) for name, dense in self._dense.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `MomentPolicy.load_state`."""
        for name, dense in self._dense.items():
            dense.clear()
            device = self._weights[name].weight.device  # a checkpoint may be read onto another
            for key, moment in state.get(name, {}).items():
                dense[key] = moment.to(device, copy=True)


POLICIES: dict[str, type[Reset] | type[Carry]] = {"reset": Reset, "carry": Carry}


def make_policy(
    config: GMixout, weights: Mapping[str, MaskedWeight], optimizer: torch.optim.Optimizer
) -> MomentPolicy:
    """The policy that `config.moments` names, for one optimizer."""
    return POLICIES[config.moments](weights, optimizer)
