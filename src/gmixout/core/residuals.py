"""Strategies for the residual D at the end of a period, one for each value of `residual`."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from gmixout.core.config import GMixout
from gmixout.core.masks import in_batches, uniform_each
from gmixout.core.process import MaskedWeight
from gmixout.errors import AttachError
from gmixout.kernels.rounding import round_randomly

KeyT = TypeVar("KeyT", bound=Hashable)


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

    @classmethod
    @torch.no_grad()
    def end(cls, weights: Sequence[MaskedWeight], period: int) -> None:
        """See `Residual.end`.

        A <- A + (1-lambda) * c * M * D, then, when it is pulled, A <- A + rho * M * (A_0 - A). Both
        touch the masked entries alone.
        """
        config = weights[0].config
        for scale, group in _grouped(weights, lambda masked: masked.scale).items():
            held: list[Tensor] = [masked.held for masked in group]
            values: list[Tensor] = [masked.values for masked in group]
            anchors = torch._foreach_lerp(held, values, (1 - config.anchor_decay) * scale)
            if config.anchor_pull > 0:
                starts = [m.gather(m.residual.dense["pretrained"]) for m in group]
                anchors = torch._foreach_lerp(anchors, starts, config.anchor_pull)
            for masked, anchor in zip(group, _rounded(group, anchors, period), strict=True):
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

    @classmethod
    @torch.no_grad()
    def end(cls, weights: Sequence[MaskedWeight], period: int) -> None:
        """See `Residual.end`: A <- A + (1-lambda) * D, and D such that W = A + D stays the same."""
        del period
        decay = weights[0].config.anchor_decay
        changes = torch._foreach_sub([m.values for m in weights], [m.held for m in weights])
        for masked, change in zip(weights, changes, strict=True):
            residual, weight = masked.residual.dense["residual"], masked.weight
            masked.put_(change, residual)
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


def _rounded(
    weights: Sequence[MaskedWeight], anchors: Sequence[Tensor], period: int
) -> list[Tensor]:
    """Return anchors in their weights' dtype, rounded at random where it is narrower.

    A period's change is often below half a step of the narrower dtype: rounded to the nearest, it
    would be lost every time.
    """
    rounded = {m.name: anchor for m, anchor in zip(weights, anchors, strict=True)}
    wide = [m for m in weights if rounded[m.name].dtype != m.weight.dtype]
    for (dtype, shape), group in _grouped(wide, lambda m: (m.weight.dtype, m.held.shape)).items():
        seed, device = group[0].config.seed, group[0].held.device
        for names in in_batches([m.name for m in group], shape.numel(), device):
            chance = uniform_each(names, shape, seed=seed, period=period, device=device)
            stack = torch.stack([rounded[name] for name in names])
            rounded.update(zip(names, round_randomly(stack, dtype, chance).unbind(), strict=True))
    return [rounded[masked.name] for masked in weights]


def _grouped(
    weights: Sequence[MaskedWeight], key: Callable[[MaskedWeight], KeyT]
) -> dict[KeyT, list[MaskedWeight]]:
    groups: dict[KeyT, list[MaskedWeight]] = {}
    for masked in weights:
        groups.setdefault(key(masked), []).append(masked)
    return groups


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
