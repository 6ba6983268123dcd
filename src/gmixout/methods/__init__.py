"""Finetuning methods: a file each, and one table of them."""

import inspect
from typing import Any

from gmixout.errors import ConfigError
from gmixout.methods import (
    adapters,
    bitfit,
    ema,
    full,
    l2_sp,
    masking,
    probing,
    soups,
    swa,
    wise_ft,
    zero_shot,
)
from gmixout.methods.base import DenseFinetuning, Finetuning, Method
from gmixout.methods.style import Style

__all__ = [
    "BASELINES",
    "DEFAULT_METHOD",
    "METHODS",
    "REFERENCE",
    "DenseFinetuning",
    "Finetuning",
    "Method",
    "Style",
    "get_method",
]

METHODS: dict[str, type[Method]] = {
    method.__name__: method
    for method in (
        zero_shot.zero_shot,
        probing.linear_probe,
        probing.lp_ft,
        full.full,
        ema.ema,
        swa.swa,
        l2_sp.l2_sp,
        wise_ft.wise_ft,
        soups.uniform_soup,
        soups.greedy_soup,
        adapters.lora,
        adapters.dora,
        adapters.shira,
        bitfit.bitfit,
        masking.random_mask,
        masking.dropconnect,
        masking.mixout,
        masking.high_rate_mixout,
        masking.gmixout,
        wise_ft.gmixout_wise_ft,
    )
}

Method._table = METHODS

REFERENCE = full.full.__name__
"""What reports compare the others with when nobody says."""
BASELINES = (zero_shot.zero_shot.__name__, probing.linear_probe.__name__, REFERENCE)
"""Methods whose models say what OOD accuracy to expect at an ID accuracy."""
DEFAULT_METHOD = masking.gmixout.__name__
"""What a command trains when nobody says."""


def get_method(name: str, **options: Any) -> Method:
    """Returns a method of the table.

    Args:
        name: Its key in `METHODS`.
        **options: Its options; the others keep their defaults.

    Raises:
        ConfigError: The name or an option is not known, or a value is not allowed.

    Example:
        >>> get_method("wise_ft", alphas=(0.5,))
        wise_ft(of=full(), alphas=(0.5,))
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; known methods: {', '.join(METHODS)}")
    known = list(inspect.signature(METHODS[name]).parameters)
    if unknown := sorted(options.keys() - known):
        raise ConfigError(
            f"method {name} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(known) or 'none'}"
        )
    return METHODS[name](**options)
