"""Finetuning methods: a file each, and one table of them."""

import inspect
from typing import Any

from gmixout.errors import ConfigError
from gmixout.methods import full, masking, wise_ft, zero_shot
from gmixout.methods.base import DenseFinetuning, Finetuning, Method

__all__ = ["METHODS", "DenseFinetuning", "Finetuning", "Method", "get_method"]

METHODS: dict[str, type[Method]] = {
    method.__name__: method
    for method in (
        zero_shot.zero_shot,
        full.full,
        wise_ft.wise_ft,
        masking.random_mask,
        masking.mixout,
        masking.high_rate_mixout,
        masking.dropconnect,
        masking.gmixout,
    )
}


def get_method(name: str, **options: Any) -> Method:
    """Returns a method of the table.

    Args:
        name: Its key in `METHODS`.
        **options: Its options; the others keep their defaults.

    Raises:
        ConfigError: The name or an option is not known, or a value is not allowed.

    Example:
        >>> get_method("wise_ft", alphas=(0.5,))
        wise_ft(alphas=(0.5,))
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
