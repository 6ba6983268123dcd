"""Losses of single examples: a file each, and one table of them."""

from gmixout.losses.base import Loss
from gmixout.losses.cross_entropy import cross_entropy

__all__ = ["LOSSES", "Loss", "cross_entropy"]

LOSSES: dict[str, type[Loss]] = {loss.__name__: loss for loss in (cross_entropy,)}

Loss._table = LOSSES
