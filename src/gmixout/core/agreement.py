"""A masked weight and its trainable values say the same, whoever moves either of them.

An optimizer that is bound moves values, and the process writes them. Others move values, too (half
a step of SAM, averages swapped in for validation), or the weight itself (a whole model's average;
DDP, which hands on rank 0's). Version counters show that when the weight is next used.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gmixout.core.config import GMixout
from gmixout.core.values import Phi, Values
from gmixout.errors import AttachError
from gmixout.kernels.products import Index
from gmixout.kernels.structures import Structure


class _Weight(Protocol):
    """A masked weight (`process.MaskedWeight`), as far as it matters here."""

    name: str
    values: Values
    held: Tensor
    scale: float
    config: GMixout
    structure: Structure
    residual: Any

    @property
    def parameter(self) -> nn.Parameter: ...

    @property
    def weight(self) -> Tensor: ...

    def start(self) -> None: ...
    def write_(self) -> None: ...
    def phi(self) -> Tensor: ...
    def gather(self, dense: Tensor) -> Tensor: ...
    def chosen(self) -> Index: ...


class Agreement:
    """What a weight and its values were when they last agreed.

    Attributes:
        fresh: Whether nothing was trained since the weight was taken as the pretrained one.
    """

    def __init__(self, masked: _Weight) -> None:
        self._masked = masked
        self._seen: tuple[Values, nn.Parameter, int, int] | None = None
        self.fresh = True

    def note(self) -> None:
        """Remember that weight and values agree as they are now."""
        values, weight = self._masked.values, self._masked.parameter
        values.moved = False
        if isinstance(weight, Phi):
            weight.moved = False
        self._seen = (values, weight, values._version, weight._version)

    def lose(self) -> None:
        """Forget it: weight or values may have become other objects."""
        self._seen = None

    def settle(self) -> None:
        """Make the layer hold what the values say, if either was moved by others.

        Cheap if nothing was moved: two version counters are compared. Weights moved together with
        the values (for example, an average of the whole model) win, and the values follow them.

        Raises:
            AttachError: `torch.func.functional_call` put something else in the values' place, or
                ranks of a process group drew other masks.
        """
        if torch.compiler.is_compiling():
            return  # `check` raises in backward
        if self._seen is None:
            self.look()
            return
        values, weight, version, weight_version = self._seen
        if self._masked.parameter is not weight:
            return  # a stand-in of functional_call, which is to be computed with as it is
        if self._masked.values is not values:
            raise AttachError(
                f"functional_call() was given other masked values of {self._masked.name!r}, which "
                "are only a part of its weight. Pass complete weights: those of masked.snapshot()."
            )
        if (
            values.moved
            or values._version != version
            or weight._version != weight_version
            or getattr(weight, "moved", False)
        ):
            self.look()

    def hand_out(self) -> None:
        """Check the weight next time: its holder may change it through `.data`."""
        weight = self._masked.parameter
        if isinstance(weight, Phi):
            weight.moved = True

    @torch.no_grad()
    def look(self) -> None:
        """Run `settle`, comparing entry by entry; waits for the device."""
        masked = self._masked
        values, weight = masked.values, masked.parameter
        seen = self._seen or (values, weight, values._version, weight._version)
        moved = weight._version != seen[3] or getattr(weight, "moved", False)
        if moved and self.fresh and values.process is not None:
            self._begin_again()
        elif not self.is_written():
            if not moved:
                masked.write_()
            else:
                phi = masked.gather(masked.weight)
                if values.moved or values._version != seen[2]:
                    values.copy_(torch.lerp(masked.held, phi, 1 / masked.scale))
                else:  # a change of the weight is one of A, and D stays what it was
                    change = phi - masked.phi()
                    masked.held.add_(change)
                    values.add_(change)
        self.note()

    def put(self) -> None:
        """Run `look`, assuming that the values moved unless the weight's version says otherwise.

        A weight that was handed out may have been changed by its `.data`; that it was not is what
        a caller says who asks for the values to be written.
        """
        values, weight, version, weight_version = self._seen or (None, None, -1, -1)
        now = self._masked
        unmoved = now.parameter is weight and weight._version == weight_version
        if now.values is values and unmoved and values._version != version:
            now.write_()
            self.note()
        else:
            self.look()

    def check(self) -> None:
        """Check, in backward, that the layer held these very values in the forward pass.

        Raises:
            AttachError: It did not: it was compiled, or they were moved between the passes.
        """
        values = self._masked.values
        if self._seen is None or values is not self._seen[0]:
            return
        if values.moved or values._version != self._seen[2]:
            if not self.is_written():
                raise AttachError(
                    f"The masked values of {self._masked.name!r} were moved after the last write, "
                    "and the forward pass did not see it: a compiled model cannot detect it. Call "
                    "masked.write() after moving values outside of optimizer.step(), before the "
                    "forward pass."
                )
            self.look()

    @torch.no_grad()
    def is_written(self) -> bool:
        """Return whether the layer's weight holds what the values say; waits for the device."""
        masked = self._masked
        if masked.weight.is_meta:
            return True
        entries = masked.structure.gather(masked.weight, masked.chosen())
        return torch.equal(entries, masked.phi().to(entries.dtype))

    def _begin_again(self) -> None:
        """Take up a weight that others changed before training: DDP, which hands on rank 0's."""
        masked = self._masked
        entries = masked.gather(masked.weight)
        if masked.config.anchor == "pretrained" and torch.equal(entries, masked.values):
            masked.held.copy_(entries)  # no more: their gradients may be there already
            masked.residual.start(masked)
            return
        untouched = masked.config.anchor == "zero" and self.is_written()
        if untouched and torch.equal(masked.residual.begin(masked), masked.values):
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise AttachError(
                f"The weight of {masked.name!r} was handed on by another process, with other masks "
                "or from another start. Attach with one config and seed on every rank, to models "
                "with the same weights (call torch.manual_seed before making them)."
            )
        masked.start()
