"""The masking process: what is trained, what is held, and what happens when the mask is redrawn.

In a period the weight of a layer is

    Phi = A + c * M * D

with the anchor A, the mask M (1 where an entry is being trained), the residual D (what training
has added to the anchor) and c = 1/(1-p) when rescaling, else 1. The layer's own weight tensor
holds Phi, so the forward pass is the dense one. The trainable leaf holds the masked entries of
W = A + D:

    values = A[M] + D[M],        d loss / d values = c * (d loss / d Phi)[M]

and everything outside M is bit-unchanged by an optimizer step. After every k optimizer steps the
period ends: the anchor takes up the share 1-lambda of what was learned, may be pulled back by a
share rho towards the pretrained weights (ours; no paper has it), and a new mask is drawn.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gmixout.core.config import GMixout
from gmixout.core.masks import STRUCTURES, count_units, draw, uniform
from gmixout.errors import StateError
from gmixout.kernels.reference import round_randomly

State = dict[str, Any]


class MaskedWeight(nn.Module):
    """The masking process on one weight.

    A child of the module that owns the weight, so that it moves with the model and its trainable
    `values` are among the model's parameters (for DDP, `parameters()`, gradient clipping); it adds
    nothing to the model's state dict, which keeps its keys and holds Phi.

    Attributes:
        values: The trainable leaf W[M], float32 or wider, in the structure's layout.
        held: The anchor's masked entries A[M], same shape and dtype.
        index: The units of the mask, int64 `[K]`.
        scale: c, the factor of D in Phi.
        residual: The dense D of residual="persist" between its uses, else None. Entries of the
            mask in force are stale: `values` has them.
        pretrained: A copy of the pretrained weight where the anchor is pulled towards it.
    """

    values: nn.Parameter
    held: Tensor
    index: Tensor

    def __init__(self, name: str, owner: nn.Module, attribute: str, config: GMixout) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.structure = STRUCTURES[config.structure](config.block_size)
        # In a tuple, so that the owner does not become a child of its child.
        self._home = (owner, attribute)
        weight = self.weight
        self.count = count_units(self.structure, weight.shape, config.mask_rate)
        # Too small a weight to hold anything back: for it p is 0.
        self.whole = self.count == self.structure.units(weight.shape)
        self.scale = 1.0 if self.whole else config.scale
        self.residual: Tensor | None = None
        if config.residual == "persist":
            self.residual = torch.zeros_like(
                weight,
                dtype=getattr(torch, config.residual_dtype or "", None) or self._wide(weight).dtype,
                device=config.residual_device or weight.device,
                requires_grad=False,
            )
        self.pretrained: Tensor | None = None
        if config.anchor_pull > 0:
            self.pretrained = weight.to(config.residual_device or weight.device, copy=True)
        index = self._draw(period=0)
        held = self._wide(self.structure.gather(weight, index))
        self.values = nn.Parameter(held.clone())
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("held", held, persistent=False)
        self._start()

    def forward(self, input: Any) -> Any:
        """The identity: a container that owns a masked weight may run all its children."""
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
        return not (self.whole and self.residual is not None)

    @torch.no_grad()
    def begin(self, period: int) -> None:
        """Draws the period's mask and starts from A and, when it persists, D of its entries."""
        # In place: optimizers, compiled graphs and DDP hold on to these very tensors.
        self.index.copy_(self._draw(period))
        self._take_up_entries()

    @torch.no_grad()
    def _start(self) -> None:
        """Takes the weight as it is for the pretrained one, with the mask in force."""
        if self.pretrained is not None:
            self.pretrained.copy_(self.weight)
        if self.residual is not None:
            self.residual.zero_()
            if self.config.anchor == "zero":
                self.residual.copy_(self.weight)
                self.weight.zero_()
        self._take_up_entries()

    def _take_up_entries(self) -> None:
        self.values.grad = None  # of other entries
        self.held.copy_(self.structure.gather(self.weight, self.index))
        self.values.copy_(self.held)
        if self.residual is not None:
            self.values.add_(self._gather_from(self.residual))
        self.write_()

    @torch.no_grad()
    def write_(self) -> None:
        """Phi[M] = A + c * D: makes the values effective in the layer."""
        self.structure.scatter_(self.weight, self.index, self._phi())

    @torch.no_grad()
    def end(self, period: int) -> None:
        """Ends a period: moves the anchor. The weight holds A everywhere afterwards.

        residual="reset":   A <- A + (1-lambda) * c * M * D, which touches the masked entries alone,
                            as the pull does: A <- A + rho * M * (A_0 - A).
        residual="persist": A <- A + (1-lambda) * D, and D such that W = A + D stays what it was.
        """
        weight, decay = self.weight, self.config.anchor_decay
        if self.residual is None:
            anchor = torch.lerp(self.held, self.values, (1 - decay) * self.scale)
            if self.pretrained is not None:
                start = self._gather_from(self.pretrained)
                anchor = torch.lerp(anchor, start, self.config.anchor_pull)
            if weight.dtype != anchor.dtype:
                # A period's change is often below half a step of the narrower dtype: rounded to the
                # nearest, it would be lost every time.
                chance = uniform(
                    anchor.shape,
                    seed=self.config.seed,
                    name=self.name,
                    period=period,
                    device=weight.device,
                )
                anchor = round_randomly(anchor, weight.dtype, chance)
            self.structure.scatter_(weight, self.index, anchor)
            return
        self._store_residual()
        self.structure.scatter_(weight, self.index, self.held)
        if decay < 1:
            whole = self._wide(weight) + self.residual.to(weight.device)
            weight.copy_(torch.lerp(whole, self._wide(weight), decay))
            self.residual.copy_(whole - weight)

    @torch.no_grad()
    def plain(self) -> Tensor:
        """The weight of the final model, in the layer's shape and dtype; the process goes on.

        Phi for residual="reset"; for "persist" the mean of Phi over masks: A + D when rescaling,
        A + (1-p) * D when not.
        """
        weight = self.weight.clone()
        if self.residual is None:
            return weight
        share = 1.0 if self.config.rescale or self.whole else self.config.density
        # Outside the mask Phi is A. On it the stored residual is stale: those entries come last.
        weight.copy_(self._wide(weight) + share * self.residual.to(weight.device))
        self.structure.scatter_(weight, self.index, torch.lerp(self.held, self.values, share))
        return weight

    @torch.no_grad()
    def anchor(self) -> Tensor:
        """A, in the layer's shape and dtype: a copy."""
        weight = self.weight.clone()
        self.structure.scatter_(weight, self.index, self.held)
        return weight

    @torch.no_grad()
    def subnetwork(self, period: int) -> Tensor:
        """A + c * M' * D with the mask M' of a period, in the layer's shape and dtype: a copy.

        For residual="reset" there is no D outside the mask M in force: A + c * (M' and M) * D.
        """
        weight = self.anchor()
        residual = self._wide(torch.zeros_like(weight))
        if self.residual is not None:
            residual.copy_(self.residual)
        self.structure.scatter_(residual, self.index, self.values - self.held)
        index = self._draw(period)
        anchor = self._wide(self.structure.gather(weight, index))
        entries = anchor + self.scale * self.structure.gather(residual, index)
        self.structure.scatter_(weight, index, entries)
        return weight

    def export_state(self) -> State:
        """All that the model's own state dict does not hold; tensors are shared, not copied."""
        state: State = {"values": self.values.detach(), "held": self.held}
        if self.residual is not None:
            state["residual"] = self.residual
        if self.pretrained is not None:
            state["pretrained"] = self.pretrained
        return state

    def check_state(self, state: State) -> None:
        """Raises a StateError unless `state` is one of this weight and config."""
        expected = {key: tuple(value.shape) for key, value in self.export_state().items()}
        given = {key: tuple(value.shape) for key, value in state.items()}
        if given != expected:
            raise StateError(
                f"The saved state of {self.name!r} holds {given}, but this model and config need "
                f"{expected}. Load it into the model and config that it was saved from."
            )

    @torch.no_grad()
    def import_state(self, state: State, period: int) -> None:
        """Takes up a checked state; the weight itself comes with the model's own state dict."""
        self.index.copy_(self._draw(period))
        self.values.copy_(state["values"])
        self.held.copy_(state["held"])
        if self.residual is not None:
            self.residual.copy_(state["residual"])
        if self.pretrained is not None:
            self.pretrained.copy_(state["pretrained"])
        self.write_()

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Adds nothing: the model's state dict holds Phi, `export_state` the rest."""

    @torch.no_grad()
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Follows the owner, whose weight was just loaded: other weights are a new anchor."""
        if not self.is_written():
            self._start()

    @torch.no_grad()
    def is_written(self) -> bool:
        """Whether the layer's weight holds what the values say; waits for the device."""
        entries = self.structure.gather(self.weight, self.index)
        return torch.equal(entries, self._phi().to(entries.dtype))

    def _draw(self, period: int) -> Tensor:
        return draw(
            self.structure,
            self.weight.shape,
            self.count,
            seed=self.config.seed,
            name=self.name,
            period=period,
            device=self.weight.device,
        )

    def _phi(self) -> Tensor:
        c = self.scale
        return self.values if c == 1 else torch.lerp(self.held, self.values, c)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MaskedWeight":
        """Follows the model to another device, but never to a narrower dtype."""
        device = fn(self.values.new_empty(0)).device
        if self.config.residual_device is None:
            if self.residual is not None:
                self.residual = self.residual.to(device)
            if self.pretrained is not None:
                self.pretrained = self.pretrained.to(device)
        super()._apply(lambda tensor: tensor.to(device), recurse)
        return self

    def _gather_from(self, dense: Tensor) -> Tensor:
        """The masked entries of a dense copy, which may live on another device."""
        return self.structure.gather(dense, self.index.to(dense.device)).to(self.values)

    def _store_residual(self) -> None:
        assert self.residual is not None
        device = self.residual.device
        residual = (self.values - self.held).to(device)
        self.structure.scatter_(self.residual, self.index.to(device), residual)

    @staticmethod
    def _wide(tensor: Tensor) -> Tensor:
        """At least float32: what is trained, and all arithmetic, is never in half precision."""
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
