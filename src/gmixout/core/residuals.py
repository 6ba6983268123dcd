"""Strategies for the residual D at the end of a period, one for each value of `residual`."""

import torch
from torch import Tensor

from gmixout.core.config import GMixout
from gmixout.core.masks import uniform
from gmixout.core.process import MaskedWeight
from gmixout.errors import AttachError
from gmixout.kernels.reference import round_randomly


class Reset:
    """D starts from zero in every period; nothing the size of the weight is kept.

    With `anchor_pull` a copy of the pretrained weights is kept, "pretrained".
    """

    def __init__(self, config: GMixout) -> None:
        self.config = config
        self.dense: dict[str, Tensor] = {}

    def start(self, masked: MaskedWeight) -> None:
        """See `Residual.start`: remember the pretrained weight if the anchor is pulled to it."""
        if self.config.anchor_pull > 0:
            _copy_into(self.dense, "pretrained", masked, masked.weight.dtype)

    def begin(self, masked: MaskedWeight) -> Tensor:
        """See `Residual.begin`: A."""
        return masked.held

    @torch.no_grad()
    def end(self, masked: MaskedWeight, period: int) -> None:
        """See `Residual.end`.

        A <- A + (1-lambda) * c * M * D, then, when it is pulled, A <- A + rho * M * (A_0 - A). Both
        touch the masked entries alone.
        """
        share = (1 - self.config.anchor_decay) * masked.scale
        anchor = torch.lerp(masked.held, masked.values, share)
        if "pretrained" in self.dense:
            start = masked.gather(self.dense["pretrained"])
            anchor = torch.lerp(anchor, start, self.config.anchor_pull)
        dtype, device = masked.weight.dtype, masked.weight.device
        if dtype != anchor.dtype:
            # A period's change is often below half a step of the narrower dtype: rounded to the
            # nearest, it would be lost every time.
            seed, shape = self.config.seed, anchor.shape
            chance = uniform(shape, seed=seed, name=masked.name, period=period, device=device)
            anchor = round_randomly(anchor, dtype, chance)
        masked.put_(anchor)

    def plain(self, masked: MaskedWeight) -> Tensor:
        """See `Residual.plain`: Phi, in the layer's own memory."""
        return masked.weight

    def outside(self, masked: MaskedWeight) -> Tensor:
        """See `Residual.outside`: zero."""
        return torch.zeros_like(masked.weight, dtype=masked.values.dtype)


class Persist:
    """Every entry keeps its D while it is masked out: a dense tensor, "residual".

    Its entries of the mask in force are stale; `MaskedWeight.values` has them.
    """

    def __init__(self, config: GMixout) -> None:
        self.config = config
        self.dense: dict[str, Tensor] = {}

    def start(self, masked: MaskedWeight) -> None:
        """See `Residual.start`: D is zero, or with a zero anchor all of the weight."""
        weight = masked.weight
        dtype = getattr(torch, self.config.residual_dtype or "", None) or masked.values.dtype
        residual = _copy_into(self.dense, "residual", masked, dtype)
        if self.config.anchor == "zero":
            weight.zero_()
        else:
            residual.zero_()

    def begin(self, masked: MaskedWeight) -> Tensor:
        """See `Residual.begin`."""
        return masked.held + masked.gather(self.dense["residual"])

    @torch.no_grad()
    def end(self, masked: MaskedWeight, period: int) -> None:
        """See `Residual.end`: A <- A + (1-lambda) * D, and D such that W = A + D stays the same."""
        del period
        residual, weight, decay = self.dense["residual"], masked.weight, self.config.anchor_decay
        masked.put_(masked.values - masked.held, residual)
        masked.put_(masked.held)
        if decay < 1:
            anchor = weight.to(masked.values.dtype)
            whole = anchor + residual.to(anchor)
            weight.copy_(torch.lerp(whole, anchor, decay))
            residual.copy_(whole - weight)

    def plain(self, masked: MaskedWeight) -> Tensor:
        """See `Residual.plain`: the mean of Phi over masks."""
        weight, share = masked.weight.clone(), 1.0 if self.config.rescale else masked.share
        # Outside the mask Phi is A. On it the stored residual is stale: those entries come last.
        wide = weight.to(masked.values.dtype)
        weight.copy_(wide + share * self.dense["residual"].to(wide))
        masked.put_(torch.lerp(masked.held, masked.values, share), weight)
        return weight

    def outside(self, masked: MaskedWeight) -> Tensor:
        """See `Residual.outside`."""
        return self.dense["residual"].to(masked.values, copy=True)


RESIDUALS: dict[str, type[Reset] | type[Persist]] = {"reset": Reset, "persist": Persist}


def _copy_into(
    copies: dict[str, Tensor], key: str, masked: MaskedWeight, dtype: torch.dtype
) -> Tensor:
    """Copy the weight to where `residual_device` says, in place if the copy is there already.

    Raises:
        AttachError: The device cannot hold it.
    """
    if key in copies:
        return copies[key].copy_(masked.weight)
    device = masked.config.residual_device or masked.weight.device
    try:
        copies[key] = masked.weight.to(device, dtype, copy=True)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise AttachError(
            f"A dense copy of {masked.name!r} cannot be made on residual_device={device!s}: {error}"
        ) from error
    return copies[key]
