"""Finetuning methods: one file each, and a table of all."""

import inspect
from collections import ChainMap
from typing import Any

from gmixout.errors import ConfigError
from gmixout.methods import (
    adapters,
    average,
    beside,
    bitfit,
    full,
    l2_sp,
    masking,
    probing,
    soups,
    wise_ft,
    zero_shot,
)
from gmixout.methods.base import (
    DenseFinetuning,
    Derived,
    Finetuning,
    Method,
    Runs,
    Variant,
    preset,
)
from gmixout.methods.style import Style
from gmixout.named import from_spec, specs_of

__all__ = [
    "BASELINES",
    "DEFAULT_METHOD",
    "METHODS",
    "REFERENCE",
    "DenseFinetuning",
    "Derived",
    "Finetuning",
    "Method",
    "Runs",
    "Style",
    "Variant",
    "get_method",
    "preset",
]

METHODS: dict[str, type[Method]] = {
    method.__name__: method
    for method in (
        zero_shot.zero_shot,
        probing.linear_probe,
        probing.lp_ft,
        full.full,
        average.ema,
        average.swa,
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

Method._table = ChainMap(METHODS, {beside.beside.__name__: beside.beside})

REFERENCE = full.full.__name__
"""The default reference method of reports."""
BASELINES = (zero_shot.zero_shot.__name__, probing.linear_probe.__name__, REFERENCE)
"""Methods whose models say what OOD accuracy to expect at an ID accuracy."""
DEFAULT_METHOD = masking.gmixout.__name__
"""The default method of commands."""


def get_method(name: str, **options: Any) -> Method:
    """Return a method of the table, or one with regularizers beside it.

    Args:
        name: Its key in `METHODS`, alone or with regularizers, `gmixout+regmixup+sam`. Options may
            follow each name in parentheses, as `str` of a method writes them.
        **options: Its options; the others keep their defaults.

    Raises:
        ConfigError: The name or an option is not known, or a value is not allowed.

    Example:
        >>> get_method("wise_ft", alphas=(0.5,))
        wise_ft(of=full(), alphas=(0.5,))
        >>> print(get_method("gmixout(mask_rate=0.8)+sam(rho=0.1)"))
        gmixout(mask_rate=0.8)+sam(rho=0.1)
    """
    if name not in METHODS and any(mark in name for mark in "+("):
        first, *others = specs_of(name)
        first["init_args"].update(options)
        return Method.plus(from_spec(first, Method), others)  # type: ignore[type-abstract, no-any-return]
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; known methods: {', '.join(METHODS)}")
    known = list(inspect.signature(METHODS[name]).parameters)
    if unknown := sorted(options.keys() - known):
        raise ConfigError(
            f"method {name} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(known) or 'none'}"
        )
    return METHODS[name](**options)
