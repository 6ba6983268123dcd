"""The form of a process's saved state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gmixout.core.config import GMixout
from gmixout.core.process import MaskedWeight
from gmixout.errors import ConfigError, StateError

STATE_VERSION = 3


def check_state(
    state: Any,
    config: GMixout,
    weights: Mapping[str, MaskedWeight],
    layers_of: Callable[[int], Sequence[str] | None],
    check_moments: Callable[[Any], None],
) -> None:
    """Check all of a state before any of it is loaded; it may come from an untrusted file.

    Args:
        state: Should be what `Masked.state_dict` returned.
        config: Of the process that is to take it up.
        weights: Its weights by name.
        layers_of: Returns the layers that the process trains after so many steps; None: all.
        check_moments: Raises a StateError where the moments cannot be taken up.

    Raises:
        StateError: It is of another version, config or model, or damaged.
    """
    keys = {"version", "config", "steps", "layers", "periods", "weights", "moments"}
    if (
        not isinstance(state, Mapping)
        or set(state) != keys
        or type(state["version"]) is not int
        or state["version"] != STATE_VERSION
    ):
        raise StateError(
            f"This is not a state of a masking process of version {STATE_VERSION}; expected what "
            "masked.state_dict() returned."
        )
    steps, saved = state["steps"], state["weights"]
    if type(steps) is not int or not 0 <= steps < 2**63:
        raise StateError(f"The saved count of steps, {steps!s:.40}, must be a number >= 0.")
    try:
        theirs = asdict(GMixout(**state["config"]))
    except (TypeError, ConfigError) as error:
        raise StateError(f"The saved config is not valid: {error}") from error
    ours = asdict(config)
    differing = [key for key in ours if ours[key] != theirs[key]]
    if differing:
        raise StateError(
            "The saved process has another config: "
            + ", ".join(f"{k}={theirs[k]!r} (here {ours[k]!r})" for k in differing)
            + ". Attach with the saved config, GMixout(**state['config'])."
        )
    _check_layers(state["layers"], layers_of(steps))
    names = set(saved) if isinstance(saved, Mapping) else set()
    if names != set(weights):
        odd = sorted(map(str, names ^ set(weights)))
        raise StateError(
            f"The saved process masks other weights: {odd[0]!r} is only on one side "
            f"({len(odd)} such weights). Load it into the model it is from, with its select=."
        )
    for name, masked in weights.items():
        _check_weight(masked, saved[name])
    _check_periods(state["periods"], weights)
    check_moments(state["moments"])


def _check_periods(saved: Any, weights: Mapping[str, MaskedWeight]) -> None:
    """Raise unless these are periods of some of the weights."""
    fine = isinstance(saved, Mapping) and saved.keys() <= weights.keys()
    if not fine or not all(type(each) is int and 0 <= each < 2**63 for each in saved.values()):
        raise StateError(
            f"The saved periods of masks that were kept, {saved!s:.200}, must be "
            "numbers >= 0 by the names of masked weights."
        )


def _check_layers(saved: Any, ours: Sequence[str] | None) -> None:
    """Raise unless both schedules train the same layers in the period of the saved state."""
    if saved != (None if ours is None else list(ours)):
        raise StateError(
            f"The saved process was training the layers {saved!s:.200}, and this one would train "
            f"{ours!s:.200}. Attach with the schedule that it was saved with."
        )


def _check_weight(masked: MaskedWeight, state: Any) -> None:
    """Raise unless a state is one of this weight and config."""
    expected = _form(masked.export_state())
    given = _form(state) if isinstance(state, Mapping) else state
    if not isinstance(given, Mapping) or repr(given) != repr(expected):
        raise StateError(
            f"The saved state of {masked.name!r} holds {given!s:.200}, but this model and config "
            f"need {expected}. Load it into the model and config that it was saved from."
        )
    for key, value in state.items():
        check_numbers(value, f"The saved state of {masked.name!r}, {key},")


def _form(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a state with shapes in place of tensors."""
    return {k: tuple(v.shape) if torch.is_tensor(v) else v for k, v in state.items()}


def check_numbers(value: Tensor, what: str) -> None:
    """Check that a tensor from a file holds finite floating-point numbers.

    Raises:
        StateError: It does not; `what` names it.
    """
    if not value.is_floating_point():
        raise StateError(f"{what} must be floating-point numbers, and is {value.dtype}.")
    if not value.is_meta and not bool(torch.isfinite(value).all()):
        raise StateError(f"{what} is not finite: the run had diverged when it was saved.")
