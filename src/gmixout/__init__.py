"""Robust finetuning of vision foundation models.

Train a small random part of the weights at a time, hold the rest at an anchor that follows the
training as a moving average, and end in a plain model. See `attach` for the two-line use.
"""

import os
import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"] and re.search(r" -m ?gmixout\b", " ".join(sys.orig_argv)):
    # `python -m gmixout` puts the working directory, which may hold anything, before all packages
    sys.path[:1] = [] if sys.path[0] in ("", os.getcwd()) else sys.path[:1]

if TYPE_CHECKING:
    from gmixout.core.attach import attach
    from gmixout.core.config import (
        GMixout,
        dropconnect,
        high_rate_mixout,
        lookahead,
        mixout,
        random_mask,
    )
    from gmixout.core.handle import Masked
    from gmixout.errors import GmixoutError
    from gmixout.use.loaded import load
    from gmixout.weightspace import greedy_soup, interpolate, uniform_soup

__version__ = "0.1.0"

_HOMES = {
    "core.attach": ("attach",),
    "core.config": (
        *("GMixout", "dropconnect", "high_rate_mixout", "lookahead", "mixout", "random_mask"),
    ),
    "core.handle": ("Masked",),
    "errors": ("GmixoutError",),
    "use.loaded": ("load",),
    "weightspace": ("greedy_soup", "interpolate", "uniform_soup"),
}

__all__ = [
    "GMixout",
    "GmixoutError",
    "Masked",
    "attach",
    "dropconnect",
    "greedy_soup",
    "high_rate_mixout",
    "interpolate",
    "load",
    "lookahead",
    "mixout",
    "random_mask",
    "uniform_soup",
]


def __getattr__(name: str) -> Any:
    """Return a public name; torch, the most of a command's start, is imported with the first."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
