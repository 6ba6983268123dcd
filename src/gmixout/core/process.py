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

Values that anybody else moves (half a step of SAM, averages swapped in for validation, a hand) are
written into the weight where it is looked at next: `settle`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gmixout.core.config import GMixout
from gmixout.core.masks import STRUCTURES, count_units, draw, uniform
from gmixout.core.values import Phi, Values
from gmixout.errors import AttachError, StateError
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

    values: Values
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
            dtype = getattr(torch, config.residual_dtype or "", None) or self._wide(weight).dtype
            self.residual = self._dense_copy(weight, dtype).zero_()
        self.pretrained: Tensor | None = None
        if config.anchor_pull > 0:
            self.pretrained = self._dense_copy(weight, weight.dtype)
        index = self._draw(period=0)
        held = self._wide(self.structure.gather(weight, index))
        self.values = Values(held.clone())
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("held", held, persistent=False)
        self._fresh = True  # nothing was trained since the weight was taken for the pretrained one
        self._seen: tuple[Values, nn.Parameter, int, int] | None = None
        self._plain_class: type[nn.Parameter] = type(self.parameter)
        if self._plain_class is nn.Parameter:  # one of the user's own keeps what it can do
            self.parameter.__class__ = Phi
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
        self._fresh = True

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
        self._fresh = False
        self._note()

    def settle(self) -> None:
        """Make the layer hold what the values say, if either was moved by others.

        Cheap where nothing was: two version counters are compared. Weights moved together with the
        values (an average of the whole model, say) are what counts; then the values follow them.

        Raises:
            AttachError: `torch.func.functional_call` put something else in the values' place, or
                ranks of a process group drew other masks.
        """
        if torch.compiler.is_compiling():
            return  # `check_seen` raises in backward
        if self._seen is None:
            self.look()
            return
        values, weight, version, weight_version = self._seen
        if self.parameter is not weight:
            return  # a stand-in of functional_call, which is to be computed with as it is
        if self.values is not values:
            raise AttachError(
                f"functional_call() was given other masked values of {self.name!r}, which are "
                "only a part of its weight. Give it whole weights: those of masked.snapshot()."
            )
        if (
            values.moved
            or values._version != version
            or weight._version != weight_version
            or getattr(weight, "moved", False)
        ):
            self.look()

    def hand_out(self) -> None:
        """Look at the weight next time: who has it in hand may change it by its `.data`."""
        weight = self.parameter
        if isinstance(weight, Phi):
            weight.moved = True

    @torch.no_grad()
    def look(self) -> None:
        """`settle`, comparing entry by entry; waits for the device."""
        values, weight = self.values, self.parameter
        seen = self._seen or (values, weight, values._version, weight._version)
        moved = weight._version != seen[3] or getattr(weight, "moved", False)
        if moved and self._fresh and values.process is not None:
            self._begin_again()
        elif not self.is_written():
            if not moved:
                self.write_()
            else:
                phi = self._wide(self.structure.gather(self.weight, self.index))
                if values.moved or values._version != seen[2]:
                    values.copy_(torch.lerp(self.held, phi, 1 / self.scale))
                else:  # a change of the weight is one of A, and D stays what it was
                    change = phi - self._phi()
                    self.held.add_(change)
                    values.add_(change)
        self._note()

    def check_seen(self) -> None:
        """Check, in backward, that the layer held these very values in the forward pass.

        Raises:
            AttachError: It did not: it was compiled, or they were moved between the passes.
        """
        if self._seen is None or self.values is not self._seen[0]:
            return
        if self.values.moved or self.values._version != self._seen[2]:
            if not self.is_written():
                raise AttachError(
                    f"The masked values of {self.name!r} were moved after the last write, and the "
                    "forward pass did not see it: a compiled model cannot look. Call "
                    "masked.write() after moving values outside of optimizer.step(), before the "
                    "forward pass."
                )
            self.look()

    def _note(self) -> None:
        """Remember that weight and values agree as they are now."""
        values, weight = self.values, self.parameter
        values.moved = False
        if isinstance(weight, Phi):
            weight.moved = False
        self._seen = (values, weight, values._version, weight._version)

    def _begin_again(self) -> None:
        """Take up a weight that others changed before training: DDP, which hands on rank 0's."""
        if self.config.anchor == "pretrained":
            entries = self._wide(self.structure.gather(self.weight, self.index))
            if torch.equal(entries, self.values):
                self.held.copy_(entries)  # no more: their gradients may be there already
                if self.pretrained is not None:
                    self.pretrained.copy_(self.weight)
                return
        elif self.is_written() and torch.equal(
            self.held + self._gather_from(self.residual), self.values
        ):
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise AttachError(
                f"The weight of {self.name!r} was handed on by another process, with other masks "
                "or from another start. Attach with one config and seed on every rank, to models "
                "with the same weights (call torch.manual_seed before making them)."
            )
        self._start()

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
            anchor = self._wide(weight)
            whole = anchor + self.residual.to(anchor)
            weight.copy_(torch.lerp(whole, anchor, decay))
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
        wide = self._wide(weight)
        weight.copy_(wide + share * self.residual.to(wide))
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

    def check_state(self, state: Any) -> None:
        """Check that a state is one of this weight and config.

        Raises:
            StateError: It is not: other tensors, shapes or kinds of numbers, or not finite.
        """
        expected = {key: tuple(value.shape) for key, value in self.export_state().items()}
        given = state
        if isinstance(state, Mapping):
            given = {k: tuple(v.shape) if torch.is_tensor(v) else v for k, v in state.items()}
        if not isinstance(given, Mapping) or repr(given) != repr(expected):
            raise StateError(
                f"The saved state of {self.name!r} holds {given!s:.200}, but this model and config "
                f"need {expected}. Load it into the model and config that it was saved from."
            )
        for key, value in state.items():
            check_numbers(value, f"The saved state of {self.name!r}, {key},")

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

    def train(self, mode: bool = True) -> "MaskedWeight":
        """Switch between training and evaluation, for which values may have been swapped."""
        if mode == self.training:
            self.settle()
        else:
            self.look()
        return super().train(mode)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Adds nothing: the model's state dict holds Phi, `export_state` the rest."""
        self.settle()

    @torch.no_grad()
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Follows the owner, whose weight was just loaded: other weights are a new anchor."""
        if not self.is_written():
            self._start()
        self._note()

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
        """Take the weight as it is for the pretrained one, with the first period's mask."""
        self.look()
        weight = self.plain()
        self.weight.copy_(weight)
        self.index.copy_(self._draw(0))
        self._start()

    @torch.no_grad()
    def is_written(self) -> bool:
        """Whether the layer's weight holds what the values say; waits for the device."""
        if self.weight.is_meta:
            return True
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
        self._seen = None  # the weight may become another object
        return self

    def _gather_from(self, dense: Tensor | None) -> Tensor:
        """The masked entries of a dense copy, which may live on another device."""
        assert dense is not None
        return self.structure.gather(dense, self.index.to(dense.device)).to(self.values)

    def _store_residual(self) -> None:
        assert self.residual is not None
        device = self.residual.device
        residual = (self.values - self.held).to(device)
        self.structure.scatter_(self.residual, self.index.to(device), residual)

    def _dense_copy(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of the weight where `residual_device` says."""
        device = self.config.residual_device or weight.device
        try:
            return weight.to(device, dtype, copy=True)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise AttachError(
                f"A dense copy of {self.name!r} cannot be made on residual_device={device!s}: "
                f"{error}"
            ) from error

    @staticmethod
    def _wide(tensor: Tensor) -> Tensor:
        """At least float32: what is trained, and all arithmetic, is never in half precision."""
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_numbers(value: Tensor, what: str) -> None:
    """Check that a tensor from a file holds finite floating-point numbers.

    Raises:
        StateError: It does not; `what` names it.
    """
    if not value.is_floating_point():
        raise StateError(f"{what} must be floating-point numbers, and is {value.dtype}.")
    if not value.is_meta and not bool(torch.isfinite(value).all()):
        raise StateError(f"{what} is not finite: the run had diverged when it was saved.")
