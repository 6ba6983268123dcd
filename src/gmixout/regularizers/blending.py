"""Mixing of batches: how examples are paired and blended, images and targets."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gmixout.data.batch import Batch
from gmixout.regularizers.base import Regularizer, Step
from gmixout.settings import require

LEAST, MOST = 1e-6, 1e6
"""Range of the Beta distribution's parameter; draws are in float32."""


@dataclass(frozen=True)
class Blending(Regularizer):
    """A regularizer that trains on blended images in place of the batch.

    Args:
        concentration: Shares are drawn from Beta(concentration, concentration).
    """

    concentration: float = 1.0

    soft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a concentration out of range."""
        super().__post_init__()
        require_concentration(self)

    def batch(self, batch: Batch, step: Step) -> Batch:
        """Mix the batch."""
        with step.draws(self.name):
            return self.mixed(batch)

    @abstractmethod
    def mixed(self, batch: Batch) -> Batch:
        """Return the batch mixed by draws of torch's CPU generator."""


def require_concentration(options: Regularizer) -> None:
    """Refuse an option `concentration` that a Beta distribution cannot be drawn with.

    Raises:
        ConfigError: It is out of range.
    """
    fine = LEAST <= vars(options)["concentration"] <= MOST
    require(options, "concentration", fine, "from 1e-6 to 1e6")


def blend(
    batch: Batch, partners: Tensor, share: float | Tensor, of: float | Tensor | None = None
) -> Batch:
    """Blend each image, by a share, with its partner in the batch.

    Args:
        batch: May be blended already.
        partners: `[B]`, positions in the batch.
        share: Of the own image: a number, `[B]`, or a mask of ones and zeros that goes with the
            images, `[1 or B, 1, H, W]`.
        of: Of the own target, a number or `[B]`, where it is not `share`: a mask's mean.

    Returns:
        The batch with its images and `shares`.
    """
    own = share
    if isinstance(share, Tensor) and share.dim() == 1:
        own = share.view(-1, *[1] * (batch.images.dim() - 1))
    images = batch.images[partners] * (1 - own) + batch.images * own
    weight = share if of is None else of
    if isinstance(weight, Tensor):
        weight = weight.to(images)[:, None]
    each = torch.eye(len(batch), dtype=images.dtype, device=images.device)
    shares = each[partners] * (1 - weight) + each * weight
    if batch.shares is not None:
        shares = shares @ batch.shares
    return replace(batch, images=images, shares=shares)


def next_one(batch: Batch) -> Tensor:
    """Return the pairing of torchvision, `[B]`: each with the one before it, the first the last."""
    return torch.arange(len(batch), device=batch.labels.device).roll(1)


def anyone(batch: Batch) -> Tensor:
    """Return a random permutation, `[B]`, of torch's CPU generator."""
    return torch.randperm(len(batch)).to(batch.labels.device)


def beta(concentration: float) -> float:
    """Draw a share from Beta(concentration, concentration), from torch's CPU generator."""
    parameter = torch.tensor([concentration])
    return float(torch.distributions.Beta(parameter, parameter).sample())
