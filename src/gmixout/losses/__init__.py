"""Losses per example: one file each, and a table of all."""

from gmixout.losses.base import Loss
from gmixout.losses.cross_entropy import cross_entropy

__all__ = ["LOSSES", "Loss", "cross_entropy"]

LOSSES: dict[str, type[Loss]] = {loss.__name__: loss for loss in (cross_entropy,)}

Loss._table = LOSSES
