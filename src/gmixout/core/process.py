"""The masking process: what is trained, what stays at the anchor, and how masks change.

In a period the weight of a layer is

    Phi = A + c * M * D

with the anchor A, the mask M (1 where an entry is being trained), the residual D (what training
has added to the anchor) and c, which is the weight's units over its trained units when rescaling,
else 1. The layer's own weight tensor holds Phi, so the forward pass is the dense one. The trainable
leaf holds the masked entries of W = A + D:

    values = A[M] + D[M],        d loss / d values = c * (d loss / d Phi)[M]

and everything outside M is bit-unchanged by an optimizer step. After every k optimizer steps the
period ends: the anchor takes up the share 1-lambda of what was learned, may be pulled back by a
share rho towards the pretrained weights (ours; no paper has it), and a new mask is drawn. What
becomes of D then is up to a `Residual` (residuals.py has both).

Values that anybody else moves (half a step of SAM, averages swapped in for validation, a manual
edit) are written into the weight when it is next used: `Agreement.settle`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gmixout.core.agreement import Agreement
from gmixout.core.config import GMixout
from gmixout.core.masks import STRUCTURES, count_units, draw_each, in_groups
from gmixout.core.values import Phi, Values
from gmixout.kernels.products import Index, positions
from gmixout.kernels.structures import Structure

WeightState = dict[str, Any]


class Residual(Protocol):
    """The residual D of one weight outside the mask in force, and what a period's end makes of it.

    Attributes:
        dense: Its copies of the weight's size by name; they are part of the process's state.
    """

    dense: dict[str, Tensor]

    def start(self, masked: "MaskedWeight") -> None:
        """Take the current weight as the pretrained one."""

    def begin(self, masked: "MaskedWeight") -> Tensor:
        """Return the values that a period begins with, W = A + D of the mask's entries.

        It is `masked.held` itself where D is zero.
        """

    @classmethod
    def end(cls, weights: Sequence["MaskedWeight"], period: int) -> None:
        """End the period of several weights: move their anchors.

        The weights hold A everywhere afterwards.
        """

    def plain(self, masked: "MaskedWeight") -> Tensor:
        """Return the weight of the final model; it may be the layer's own."""

    def outside(self, masked: "MaskedWeight") -> Tensor:
        """Return D outside the mask in force, in the values' dtype: a copy."""


class MaskedWeight(nn.Module):
    """The masking process on one weight.

    A child of the module that owns the weight, so that it moves with the model and its trainable
    `values` are among the model's parameters (for DDP, `parameters()`, gradient clipping); it adds
    nothing to the model's state dict, which keeps its keys and holds Phi.

    Attributes:
        values: The trainable leaf W[M], float32 or wider, in the structure's layout.
        held: The anchor's masked entries A[M], same shape and dtype.
        index: The units of the mask, int64 `[K]`.
        band: The same as a slice, where they are one stretch of the weight.
        follows: Whether the masks are another parameter's: those of the weight beside it.
        period: The period whose mask is in force.
        share: The share of its units that is trained: 1-p, but for the rounding of their count.
        scale: c, the factor of D in Phi: 1 / share when rescaling, so that the mean of Phi over
            masks is A + D whatever the rounding; else 1.
        residual: What has D of the entries outside the mask.
    """

    values: Values
    held: Tensor
    index: Tensor
    band: slice | None

    def __init__(
        self,
        name: str,
        owner: nn.Module,
        attribute: str,
        config: GMixout,
        residual: Residual,
        structure: Structure | None = None,
        drawn_as: str | None = None,
    ) -> None:
        """Start the process.

        Args:
            name: The parameter's name in the model.
            owner: The module that owns it.
            attribute: The owner's name of it.
            config: The settings.
            residual: What has D of the entries outside the mask.
            structure: How the parameter is cut; None: as the config says.
            drawn_as: Name of another parameter, cut into as many units, whose masks it shares.
        """
        super().__init__()
        self.name = name
        self.config = config
        self.drawn_as = drawn_as or name
        self.follows = drawn_as is not None
        # In a tuple, so that the owner does not become a child of its child.
        self._home = (owner, attribute)
        weight, rate = self.weight, config.mask_rate
        if structure is None:
            structure = STRUCTURES[config.structure](weight.shape, config.block_size)
            structure = in_groups(structure, weight.shape, rate, config.group_size)
        self.structure = structure
        self.count = count_units(structure, weight.shape, rate)
        units = structure.choices(weight.shape)
        # The weight is too small to mask: p is 0 for it.
        self.whole = self.count == units
        one = self.whole or (self.count == 1 and structure.parts == 1)
        self.is_band = one and structure.has_bands and weight.dim() > 0
        self.share = self.count / units
        self.scale = units / self.count if config.rescale else 1.0
        self.residual = residual
        self.period = 0
        (chosen,) = _draw([self], 0)
        self.band = chosen if isinstance(chosen, slice) else None
        index = positions(chosen, weight.device)
        held = self._wide(self.structure.gather(weight, index))
        self.values = Values(held.clone())
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("held", held, persistent=False)
        self.agreement = Agreement(self)
        self.start()
        self._plain_class: type[nn.Parameter] = type(self.parameter)
        if self._plain_class is nn.Parameter:  # one of the user's own keeps what it can do
            self.parameter.__class__ = Phi

    def forward(self, input: Any) -> Any:
        """Return the input: a container that owns a masked weight may run all its children."""
        return input

    @property
    def owner(self) -> nn.Module:
        """The module that owns the weight."""
        return self._home[0]

    @property
    def parameter(self) -> nn.Parameter:
        """The model's own parameter that is masked."""
        owner, attribute = self._home
        parameter = owner._parameters[attribute]
        assert parameter is not None  # attach() only selects parameters that are there
        return parameter

    @property
    def weight(self) -> Tensor:
        """The layer's weight, which holds Phi; no gradient flows into it."""
        return self.parameter.detach()

    @property
    def redraws(self) -> bool:
        """False where a new mask changes nothing: all is trained, and D outlives the period."""
        return not (self.whole and self.config.residual == "persist")

    @torch.no_grad()
    def start(self) -> None:
        """Take the current weight as the pretrained one, with the mask in force."""
        self.residual.start(self)
        _take_up_entries([self])
        self.agreement.fresh = True

    @torch.no_grad()
    def write_(self) -> None:
        """Write Phi[M] = A + c * D: make the values effective in the layer."""
        self.put_(self.phi())
        self.agreement.fresh = False
        self.agreement.note()

    @torch.no_grad()
    def plain(self) -> Tensor:
        """Return the final model's weight, perhaps the layer's own; the process goes on.

        Phi for residual="reset"; for "persist" the mean of Phi over masks: A + D when rescaling,
        A + share * D when not.
        """
        return self.residual.plain(self)

    @torch.no_grad()
    def anchor(self) -> Tensor:
        """Return a copy of A, in the layer's shape and dtype."""
        weight = self.weight.clone()
        self.put_(self.held, weight)
        return weight

    @torch.no_grad()
    def subnetwork(self, period: int) -> Tensor:
        """Return a copy, A + c * M' * D with a period's mask M', in the layer's shape and dtype.

        For residual="reset" there is no D outside the mask M in force: A + c * (M' and M) * D.
        """
        weight = self.anchor()
        residual = self.residual.outside(self)
        self.put_(self.values - self.held, residual)
        (drawn,) = _draw([self], period)
        index = positions(drawn, weight.device)
        anchor = self._wide(self.structure.gather(weight, index))
        entries = anchor + self.scale * self.structure.gather(residual, index)
        self.structure.scatter_(weight, index, entries)
        return weight

    def export_state(self) -> WeightState:
        """Return all that the model's state dict does not hold; tensors are shared, not copied."""
        return {"values": self.values.detach(), "held": self.held, **self.residual.dense}

    @torch.no_grad()
    def import_state(self, state: WeightState, period: int) -> None:
        """Take up a checked state; the weight itself comes with the model's own state dict."""
        _set_masks([self], period)
        for key, tensor in self.export_state().items():
            tensor.copy_(state[key])
        self.write_()

    def train(self, mode: bool = True) -> "MaskedWeight":
        """Switch between training and evaluation, for which values may have been swapped."""
        if mode == self.training:
            self.agreement.settle()
        else:
            self.agreement.look()
        return super().train(mode)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Add nothing: the model's state dict holds Phi, `export_state` the rest."""
        self.agreement.settle()

    @torch.no_grad()
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Follow the owner, whose weight was just loaded: different weights are a new anchor."""
        if not self.agreement.is_written():
            self.start()
        self.agreement.note()

    def release(self) -> None:
        """Give the model's parameter its class back, and let go of the process."""
        self.values.process = None
        parameter = self.parameter
        if isinstance(parameter, Phi):
            parameter.__class__ = self._plain_class  # type: ignore[assignment]
            for name in ("moved", "process"):
                vars(parameter).pop(name, None)

    @torch.no_grad()
    def restart(self) -> None:
        """Take the current weight as the pretrained one, with the first period's mask."""
        self.agreement.look()
        self.weight.copy_(self.plain())
        _set_masks([self], 0)
        self.start()

    def gather(self, dense: Tensor) -> Tensor:
        """Return the mask's entries of the weight or a copy of it, as the values are kept."""
        return self.structure.gather(dense, self.chosen(dense.device)).to(self.held)

    def put_(self, entries: Tensor, dense: Tensor | None = None) -> None:
        """Write entries of the mask into a copy of the weight, by default into the weight."""
        dense = self.weight if dense is None else dense
        self.structure.scatter_(dense, self.chosen(dense.device), entries.to(dense.device))

    def chosen(self, device: torch.device | None = None) -> Index:
        """Return the units of the mask: the band, or positions on a device.

        A compiled graph would hold on to the numbers of a band: it reads positions.
        """
        if self.band is not None and not torch.compiler.is_compiling():
            return self.band
        return self.index if device is None else self.index.to(device)

    def phi(self) -> Tensor:
        """Return Phi[M] = A + c * D of the mask's entries, as the values are kept."""
        c = self.scale
        return self.values if c == 1 else torch.lerp(self.held, self.values, c)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MaskedWeight":
        """Follow the model to another device, but never to a narrower dtype."""
        device = fn(self.values.new_empty(0)).device
        if self.config.residual_device is None:
            self.residual.dense = {k: copy.to(device) for k, copy in self.residual.dense.items()}
        super()._apply(lambda tensor: tensor.to(device), recurse)
        self.agreement.lose()  # the weight may become another object
        return self

    @staticmethod
    def _wide(tensor: Tensor) -> Tensor:
        """Return at least float32: trained values and arithmetic are never in half precision."""
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@torch.no_grad()
def redraw(weights: Sequence[MaskedWeight], period: int) -> None:
    """End the period of several weights of one process, and begin another, in few operations.

    They start from A and, when it persists, from D of the new masks' entries.
    """
    if not weights:
        return
    first = weights[0]
    first.residual.end(weights, period - 1)
    _set_masks(weights, period)
    _take_up_entries(weights)


def _set_masks(weights: Sequence[MaskedWeight], period: int) -> None:
    """Put a period's masks in force."""
    drawn = _draw(weights, period)
    # In place: optimizers, compiled graphs and DDP hold on to these very tensors.
    indices = [masked.index for masked in weights]
    torch._foreach_copy_(indices, [positions(i, weights[0].index.device) for i in drawn])
    for masked, index in zip(weights, drawn, strict=True):
        masked.period = period
        masked.band = index if isinstance(index, slice) else None


def _draw(weights: Sequence[MaskedWeight], period: int) -> list[Index]:
    """Return the masks of a period; what is a band is drawn where its numbers are needed."""
    drawn: dict[MaskedWeight, Index] = {}
    for bands in (True, False):
        alike = [masked for masked in weights if masked.is_band == bands]
        if not alike:
            continue
        found = draw_each(
            [(m.structure, m.weight.shape, m.count, m.drawn_as) for m in alike],
            seed=alike[0].config.seed,
            period=period,
            device="cpu" if bands else alike[0].weight.device,
        )
        for masked, index in zip(alike, found, strict=True):
            start = int(index[0]) if bands else 0
            drawn[masked] = slice(start, start + len(index)) if bands else index
    return [drawn[masked] for masked in weights]


def _take_up_entries(weights: Sequence[MaskedWeight]) -> None:
    """Take up the masks' entries of the weights, which hold A."""
    held = [masked.held for masked in weights]
    torch._foreach_copy_(held, [m.structure.gather(m.weight, m.chosen()) for m in weights])
    begun = [masked.residual.begin(masked) for masked in weights]
    torch._foreach_copy_([masked.values for masked in weights], begun)
    for masked, values in zip(weights, begun, strict=True):
        masked.values.grad = None  # of other entries
        if values is masked.held:
            masked.agreement.note()  # D is zero, and the weight holds Phi
        else:
            masked.write_()
        masked.agreement.fresh = False
