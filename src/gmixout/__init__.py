"""Robust finetuning of vision foundation models.

Train a small random part of the weights at a time, hold the rest at an anchor that follows the
training as a moving average, and end in a plain model. See `attach` for the two-line use.
"""

import os
import re
import sys

if sys.argv[:1] == ["-m"] and re.search(r" -m ?gmixout\b", " ".join(sys.orig_argv)):
    # `python -m gmixout` puts the working directory, which may hold anything, before all packages
    sys.path[:1] = [] if sys.path[0] in ("", os.getcwd()) else sys.path[:1]

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
from gmixout.weightspace import greedy_soup, interpolate, uniform_soup

__version__ = "0.1.0"

__all__ = [
    "GMixout",
    "GmixoutError",
    "Masked",
    "attach",
    "dropconnect",
    "greedy_soup",
    "high_rate_mixout",
    "interpolate",
    "lookahead",
    "mixout",
    "random_mask",
    "uniform_soup",
]
