"""The form of a process's saved state."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gmixout.core.config import GMixout
from gmixout.core.moments import MomentPolicy
from gmixout.core.process import MaskedWeight
from gmixout.errors import ConfigError, StateError

STATE_VERSION = 2


def check_state(
    state: Any,
    config: GMixout,
    weights: Mapping[str, MaskedWeight],
    moments: MomentPolicy | None,
) -> None:
    """Check all of a state before any of it is loaded; it may come from a file of anybody.

    Args:
        state: Should be what `Masked.state_dict` returned.
        config: Of the process that is to take it up.
        weights: Its weights by name.
        moments: Its policy; None: no optimizer is bound.

    Raises:
        StateError: It is of another version, config or model, or damaged.
    """
    keys = {"version", "config", "steps", "weights", "moments"}
    if (
        not isinstance(state, Mapping)
        or set(state) != keys
        or type(state["version"]) is not int
        or state["version"] != STATE_VERSION
    ):
        raise StateError(
            f"This is no state of a masking process of version {STATE_VERSION}; expected what "
            "masked.state_dict() returned."
        )
    steps, saved = state["steps"], state["weights"]
    if type(steps) is not int or not 0 <= steps < 2**63:
        raise StateError(f"The saved count of steps, {steps!s:.40}, must be a number >= 0.")
    try:
        theirs = asdict(GMixout(**state["config"]))
    except (TypeError, ConfigError) as error:
        raise StateError(f"The saved config is none: {error}") from error
    ours = asdict(config)
    differing = [key for key in ours if ours[key] != theirs[key]]
    if differing:
        raise StateError(
            "The saved process has another config: "
            + ", ".join(f"{k}={theirs[k]!r} (here {ours[k]!r})" for k in differing)
            + ". Attach with the saved config, GMixout(**state['config'])."
        )
    names = set(saved) if isinstance(saved, Mapping) else set()
    if names != set(weights):
        odd = sorted(map(str, names ^ set(weights)))
        raise StateError(
            f"The saved process masks other weights: {odd[0]!r} is only on one side "
            f"({len(odd)} such). Load it into the model it was saved from, with its select=."
        )
    for name, masked in weights.items():
        masked.check_state(saved[name])
    if moments is not None:
        moments.check_state(state["moments"])
    elif state["moments"] != {}:
        raise StateError("Bind the optimizer before loading a state that carries moments.")
