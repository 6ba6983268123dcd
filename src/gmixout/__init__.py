"""Robust finetuning of vision foundation models.

Train a small random part of the weights at a time, hold the rest at an anchor that follows the
training as a moving average, and end in a plain model. See `attach` for the two-line use.
"""

from gmixout.core.attach import Masked, attach
from gmixout.core.config import GMixout, dropconnect, high_rate_mixout, mixout, random_mask
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
    "mixout",
    "random_mask",
    "uniform_soup",
]
