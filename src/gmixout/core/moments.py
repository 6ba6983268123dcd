"""Policies for the optimizer's moments when the mask is redrawn, by name.

Works on the state of any `torch.optim` optimizer, which holds, for each parameter, tensors of the
parameter's shape (moments) and scalars (step counts).
"""

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gmixout.core.config import GMixout
from gmixout.core.process import MaskedWeight
from gmixout.core.saved import check_numbers
from gmixout.errors import AttachError, StateError

_Optimizer = torch.optim.Optimizer


class MomentPolicy(Protocol):
    """Called around each redraw of each masked weight's mask."""

    def before(self, masked: MaskedWeight) -> None:
        """Act before a redraw, while the old mask is in force."""

    def after(self, masked: MaskedWeight, updates: int) -> None:
        """Act after a redraw, with the new mask in force, after `updates` optimizer steps."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, by the weights' names."""

    def check_state(self, state: Any) -> None:
        """Raise a StateError unless `load_state` can take up the state."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""


class ResetMoments:
    """Moments and step counts of the masked values start anew with every mask.

    All per-value state goes, also that of wrapping optimizers: Lookahead's slow weights, for
    example, belong to the old entries.
    """

    def __init__(self, weights: Mapping[str, MaskedWeight], optimizers: Sequence[_Optimizer]):
        # Some optimizers (Adagrad) make their state when they are made, most at their first step.
        self._initial = [
            (each, {n: deepcopy(each.state.get(m.values, {})) for n, m in weights.items()})
            for each in optimizers
            if hasattr(each, "state")  # accelerate's wrapper and others hand on the inner one's
        ]

    def before(self, masked: MaskedWeight) -> None:
        """See `MomentPolicy.before`."""
        del masked

    def after(self, masked: MaskedWeight, updates: int) -> None:
        """See `MomentPolicy.after`."""
        del updates
        for optimizer, initial in self._initial:
            if initial[masked.name]:
                optimizer.state[masked.values] = deepcopy(initial[masked.name])
            else:
                optimizer.state.pop(masked.values, None)

    def state(self) -> dict[str, Any]:
        """See `MomentPolicy.state`: nothing."""
        return {}

    def check_state(self, state: Any) -> None:
        """See `MomentPolicy.check_state`."""
        if not isinstance(state, Mapping) or state:
            raise StateError(f"The saved moments must be empty, {{}}, and are {state!s:.80}.")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `MomentPolicy.load_state`."""
        del state


class CarryMoments:
    """Moments stay with their entry: dense, the size of the weight, one for each moment.

    torch's optimizers keep one step count a tensor. Entries are trained in a random share of the
    steps, so the count that corrects the moments' bias is set to the mean over entries, that share
    times all steps. In a weight that is trained completely no entry changes, and nothing moves.

    Raises:
        AttachError: The optimizer keeps state of a parameter that is not a moment: it does not
            begin at zero (copies of the weights, step sizes), or is not of the parameter's shape.
    """

    def __init__(self, weights: Mapping[str, MaskedWeight], optimizers: Sequence[_Optimizer]):
        self._weights = weights
        self._optimizer = optimizers[-1]  # the innermost makes the steps
        self._dense: dict[str, dict[str, Tensor]] = {name: {} for name in weights}
        part = [masked for masked in weights.values() if not masked.whole]
        # Muon has others of vectors than of matrices
        like = {masked.values.dim(): masked.values for masked in part[::-1]}
        self._by_dim = {dim: _moments_of(self._optimizer, each) for dim, each in like.items()}

    def _kept(self, masked: MaskedWeight) -> set[str]:
        """Return the names of the moments of a weight's values."""
        return self._by_dim.get(masked.values.dim(), set())

    @torch.no_grad()
    def before(self, masked: MaskedWeight) -> None:
        """See `MomentPolicy.before`."""
        dense, state = self._dense[masked.name], self._optimizer.state.get(masked.values, {})
        for key in self._kept(masked) & state.keys():
            if key not in dense:
                dense[key] = torch.zeros_like(masked.weight, dtype=state[key].dtype)
            masked.structure.scatter_(dense[key], masked.index, state[key])

    @torch.no_grad()
    def after(self, masked: MaskedWeight, updates: int) -> None:
        """See `MomentPolicy.after`."""
        if masked.whole:
            return  # the same entries again
        state = self._optimizer.state.get(masked.values, {})
        for key in [k for k, v in state.items() if k not in self._kept(masked) and _is_moment(v)]:
            del state[key]  # of an optimizer around this one, and of other entries
        for key, dense in self._dense[masked.name].items():
            state[key].copy_(masked.structure.gather(dense, masked.index))
        if isinstance(state.get("step"), Tensor):
            state["step"].fill_(updates * masked.share)

    def state(self) -> dict[str, Any]:
        """See `MomentPolicy.state`: the dense moments."""
        return {name: dict(dense) for name, dense in self._dense.items()}

    def check_state(self, state: Any) -> None:
        """See `MomentPolicy.check_state`."""
        if not isinstance(state, Mapping) or state.keys() - self._weights.keys():
            raise StateError(f"The saved moments are of other weights: {state!s:.80}.")
        for name, moments in state.items():
            if not isinstance(moments, Mapping):
                raise StateError(f"The saved moments of {name!r} are not moments: {moments!s:.80}.")
            for key, moment in moments.items():
                what = f"The saved moment {key!r} of {name!r}"
                kept = self._kept(self._weights[name])
                if key not in kept:
                    raise StateError(
                        f"{what} is not one of {type(self._optimizer).__name__}, which has "
                        f"{', '.join(sorted(kept)) or 'none'}. Bind the optimizer it is from."
                    )
                shape = self._weights[name].weight.shape
                if not isinstance(moment, Tensor) or moment.shape != shape:
                    raise StateError(f"{what} must be a tensor of the shape {tuple(shape)}.")
                check_numbers(moment, what)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `MomentPolicy.load_state`."""
        for name, dense in self._dense.items():
            dense.clear()
            device = self._weights[name].weight.device  # a checkpoint may be read onto another
            for key, moment in state.get(name, {}).items():
                dense[key] = moment.to(device, copy=True)


def _is_moment(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 1


def _moments_of(optimizer: _Optimizer, like: nn.Parameter) -> set[str]:
    """Return the names of an optimizer's moments, found by a step without a gradient.

    What is of the parameter's shape and zero after it, but for an epsilon, is a moment: it belongs
    to single entries and begins at zero, so that it can be carried from one mask to another.
    """
    device = "cpu" if like.is_meta else like.device
    trial = nn.Parameter(torch.ones_like(like, device=device))
    trial.grad = torch.zeros_like(trial)
    group = next(g for g in optimizer.param_groups if any(p is like for p in g["params"]))
    probe = object.__new__(type(optimizer))
    vars(probe).update(
        vars(optimizer),
        state=defaultdict(dict),
        param_groups=[{**group, "params": [trial], "weight_decay": 0.0}],
        _optimizer_step_pre_hooks=OrderedDict(),
        _optimizer_step_post_hooks=OrderedDict(),
    )
    kind = type(optimizer).__name__
    try:
        type(optimizer).step(probe)
    except Exception as error:  # whatever an optimizer needs beside a gradient
        raise AttachError(
            f"{kind} cannot be tried without a closure or a graph ({error!s:.100}), so it is not "
            "known which of its state are moments. Use moments='reset'."
        ) from error
    state = probe.state[trial]
    for key, value in state.items():
        if _is_moment(value) and (value.shape != trial.shape or float(value.abs().max()) > 1e-6):
            raise AttachError(
                f"{kind} keeps {key!r} of each parameter, which is not a moment of single entries, "
                "so it cannot be carried from one mask to the next. Use moments='reset', or "
                "another optimizer, AdamW or SGD for example."
            )
    return {key for key, value in state.items() if _is_moment(value)}


POLICIES: dict[str, type[ResetMoments] | type[CarryMoments]] = {
    "reset": ResetMoments,
    "carry": CarryMoments,
}


def make_policy(
    config: GMixout, weights: Mapping[str, MaskedWeight], optimizers: Sequence[_Optimizer]
) -> MomentPolicy:
    """Return the policy that `config.moments` names, for an optimizer and those inside it."""
    return POLICIES[config.moments](weights, optimizers)
