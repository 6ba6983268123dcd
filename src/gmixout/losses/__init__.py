"""Losses per example: one file each, and a table of all."""

from gmixout.losses.base import Loss
from gmixout.losses.binary_cross_entropy import binary_cross_entropy
from gmixout.losses.cross_entropy import cross_entropy
from gmixout.losses.huber import huber
from gmixout.losses.l1 import l1
from gmixout.losses.mse import mse

__all__ = ["LOSSES", "Loss", "cross_entropy"]

LOSSES: dict[str, type[Loss]] = {
    loss.__name__: loss for loss in (cross_entropy, binary_cross_entropy, mse, l1, huber)
}

Loss._table = LOSSES
