"""The masking process: what is trained, what is held, and what happens when the mask is redrawn.

In a period the weight of a layer is

    Phi = A + c * M * D

with the anchor A, the mask M (1 where an entry is being trained), the residual D (what training
has added to the anchor) and c = 1/(1-p) when rescaling, else 1. The layer's own weight tensor
holds Phi, so the forward pass is the dense one. The trainable leaf holds the masked entries of
W = A + D:

    values = A[M] + D[M],        d loss / d values = c * (d loss / d Phi)[M]

and everything outside M is bit-unchanged by an optimizer step. After every k optimizer steps the
period ends: the anchor takes up the share 1-lambda of what was learned, and a new mask is drawn.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gmixout.core.masks import STRUCTURES, count_units, draw
from gmixout.errors import ConfigError, StateError

Values = dict[str, Any]


@dataclass(frozen=True)
class GMixout:
    """The settings of a masking process; every method of the Mixout family is one of them.

    Sources: GMixout (arXiv 2510.06982); Mixout (Lee, Cho, Kang, ICLR 2020, arXiv 1909.11299).

    Raises:
        ConfigError: A value is out of range, or two settings contradict each other.
    """

    mask_rate: float = 0.9
    """p, the share of each masked weight that is held at the anchor, in [0, 1)."""
    anchor_decay: float = 0.9
    """lambda, the moving average's coefficient, once a period, in [0, 1]; 1: a fixed anchor."""
    resample_every: int | None = 10
    """k, optimizer steps in a period; None: one mask for the whole run."""
    structure: Literal["element", "row", "column", "block"] = "row"
    """What is drawn: single weights, whole output units, whole input units, or tiles."""
    seed: int = 0
    """With the parameter's name and the period, all that the masks depend on."""
    rescale: bool = False
    """Multiply the residual by c = 1/(1-p), so that the mean of Phi over masks is A + D."""
    residual: Literal["reset", "persist"] = "reset"
    """At a period's end: start from D = 0 (lean), or keep a dense residual of every entry."""
    anchor: Literal["pretrained", "zero"] = "pretrained"
    """What masked entries are held at in the beginning; zero turns Mixout into DropConnect."""
    moments: Literal["reset", "carry"] = "reset"
    """The optimizer's moments at a period's end: start anew, or stay with their entry (dense)."""
    block_size: int = 16
    """Side of a tile of structure="block"."""
    residual_dtype: str | None = None
    """Dtype of the dense residual, "bfloat16" say; None: float32, or the weight's if wider."""
    residual_device: str | None = None
    """Where the dense residual lives, "cpu" say: only a period's end touches it; None: beside W."""

    def __post_init__(self) -> None:
        if not 0 <= self.mask_rate < 1:
            raise ConfigError(
                f"GMixout(mask_rate={self.mask_rate!r}) must be at least 0 (train everything) and "
                "below 1 (train nothing)."
            )
        if not 0 <= self.anchor_decay <= 1:
            raise ConfigError(
                f"GMixout(anchor_decay={self.anchor_decay!r}) must be between 0 (the anchor takes "
                "up all that a period learned) and 1 (the anchor is fixed)."
            )
        every = self.resample_every
        if every is not None and (isinstance(every, bool) or int(every) != every or every < 1):
            raise ConfigError(
                f"GMixout(resample_every={every!r}) must be a number of optimizer steps, at least "
                "1, or None for one mask for the whole run."
            )
        if isinstance(self.seed, bool) or int(self.seed) != self.seed:
            raise ConfigError(f"GMixout(seed={self.seed!r}) must be an integer.")
        if self.block_size < 1:
            raise ConfigError(f"GMixout(block_size={self.block_size!r}) must be at least 1.")
        for field, allowed in (
            ("structure", tuple(STRUCTURES)),
            ("residual", ("reset", "persist")),
            ("anchor", ("pretrained", "zero")),
            ("moments", ("reset", "carry")),
        ):
            if getattr(self, field) not in allowed:
                raise ConfigError(
                    f"GMixout({field}={getattr(self, field)!r}) must be one of "
                    f"{', '.join(map(repr, allowed))}."
                )
        if self.residual_dtype is not None:
            # A torch.dtype is welcome; the field keeps its name, which every file format can hold.
            name = str(self.residual_dtype).removeprefix("torch.")
            dtype = getattr(torch, name, None)
            if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
                raise ConfigError(
                    f"GMixout(residual_dtype={self.residual_dtype!r}) must be a floating dtype, "
                    "'float32' or 'bfloat16' say, or None."
                )
            object.__setattr__(self, "residual_dtype", name)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.residual == "reset":
            if self.anchor == "zero":
                raise ConfigError(
                    "GMixout(anchor='zero', residual='reset') would start from an empty network; "
                    "use residual='persist'."
                )
            if self.moments == "carry":
                raise ConfigError(
                    "GMixout(moments='carry', residual='reset') keeps moments of residuals that "
                    "are gone; use residual='persist', or moments='reset'."
                )
            if self.anchor_decay == 1 and self.resample_every is not None:
                raise ConfigError(
                    "GMixout(anchor_decay=1, residual='reset') throws away what each period "
                    "learned; use anchor_decay below 1, residual='persist', or resample_every=None."
                )
        if self.anchor == "zero" and self.anchor_decay != 1:
            raise ConfigError(
                f"GMixout(anchor='zero', anchor_decay={self.anchor_decay!r}) would move the anchor "
                "away from zero; use anchor_decay=1."
            )

    @property
    def density(self) -> float:
        """1 - p, the share of each masked weight that is trained in a period."""
        return 1 - self.mask_rate

    @property
    def scale(self) -> float:
        """c, the factor of the residual in Phi."""
        return 1 / (1 - self.mask_rate) if self.rescale else 1.0

    @property
    def rate_scale(self) -> float:
        """What a learning rate of full finetuning is multiplied by for the masked values.

        Adam-like optimizers move a value by about the rate in a step, whatever the gradient's
        scale; so W = A + D moves by the rate in a step of full finetuning. Here:

        * residual="persist": W = A + D is kept whole when a period ends, and moves by the rate in
          a step. Factor 1.
        * residual="reset": of the period's c * D only the share 1-lambda enters the anchor. Factor
          1 / ((1-lambda) * c).
        * resample_every=None: no period ends, nothing is lost. Factor 1 / c.

        With p = 0 and no moving anchor this is full finetuning's own rate.
        """
        if self.residual == "persist":
            return 1.0
        survives = 1.0 if self.resample_every is None else 1 - self.anchor_decay
        return 1 / (survives * self.scale)


def mixout(mask_rate: float = 0.9, **overrides: Any) -> GMixout:
    """Mixout (Lee, Cho, Kang, ICLR 2020, eq. 5): a new mask each step, a fixed anchor."""
    return replace(
        GMixout(
            mask_rate=mask_rate,
            anchor_decay=1.0,
            resample_every=1,
            structure="element",
            rescale=True,
            residual="persist",
            moments="carry",
        ),
        **overrides,
    )


def high_rate_mixout(mask_rate: float = 0.9, **overrides: Any) -> GMixout:
    """High-Rate Mixout (arXiv 2510.06955): Mixout at rate 0.9 for a ViT, 0.8 for a ResNet."""
    return mixout(mask_rate, **overrides)


def random_mask(mask_rate: float = 0.9, **overrides: Any) -> GMixout:
    """Random Mask (arXiv 2405.02596): one random mask for the whole run."""
    return replace(
        GMixout(mask_rate=mask_rate, anchor_decay=1.0, resample_every=None, structure="element"),
        **overrides,
    )


def dropconnect(mask_rate: float = 0.5, **overrides: Any) -> GMixout:
    """DropConnect (Wan et al., ICML 2013): Mixout whose anchor is zero."""
    return replace(mixout(mask_rate, anchor="zero"), **overrides)


class MaskedWeight(nn.Module):
    """The masking process on one weight.

    A child of the module that owns the weight, so that it moves with the model and its trainable
    `values` are among the model's parameters (for DDP, `parameters()`, gradient clipping); it adds
    nothing to the model's state dict, which keeps its keys and holds Phi.

    Attributes:
        values: The trainable leaf W[M], float32 or wider, in the structure's layout.
        held: The anchor's masked entries A[M], same shape and dtype.
        index: The units of the mask, int64 `[K]`.
        residual: The dense D of residual="persist" between its uses, else None. Entries of the
            mask in force are stale: `values` has them.
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
        self.residual: Tensor | None = None
        if config.residual == "persist":
            self.residual = torch.zeros_like(
                weight,
                dtype=getattr(torch, config.residual_dtype or "", None) or self._wide(weight).dtype,
                device=config.residual_device or weight.device,
                requires_grad=False,
            )
            if config.anchor == "zero":
                self.residual.copy_(weight)
                weight.zero_()
        self.register_buffer("index", torch.empty(0, dtype=torch.int64), persistent=False)
        self.register_buffer("held", torch.empty(0), persistent=False)
        self.begin(period=0)

    @property
    def weight(self) -> Tensor:
        """The layer's weight, which holds Phi; no gradient flows into it."""
        owner, attribute = self._home
        weight = owner._parameters[attribute]
        assert weight is not None  # attach() only selects parameters that are there
        return weight.detach()

    @property
    def redraws(self) -> bool:
        """False where a new mask changes nothing: all is trained, and D outlives the period."""
        whole = self.count == self.structure.units(self.weight.shape)
        return not (whole and self.residual is not None)

    @torch.no_grad()
    def begin(self, period: int) -> None:
        """Draws the period's mask and starts from A and, when it persists, D of its entries."""
        index = self._draw(period)
        held = self._wide(self.structure.gather(self.weight, index))
        values = held if self.residual is None else held + self._gather_residual(index)
        if "values" not in self._parameters:
            self.values = nn.Parameter(values.clone())
            self.index, self.held = index, held
        else:
            # In place: optimizers, compiled graphs and DDP hold on to these very tensors.
            self.values.grad = None
            self.values.copy_(values)
            self.index.copy_(index)
            self.held.copy_(held)
        self.write_()

    @torch.no_grad()
    def write_(self) -> None:
        """Phi[M] = A + c * D: makes the values effective in the layer."""
        self.structure.scatter_(self.weight, self.index, self._phi())

    @torch.no_grad()
    def end(self) -> None:
        """Ends a period: moves the anchor. The weight holds A everywhere afterwards.

        residual="reset":   A <- A + (1-lambda) * c * M * D, which touches the masked entries alone.
        residual="persist": A <- A + (1-lambda) * D, and D such that W = A + D stays what it was.
        """
        weight, decay = self.weight, self.config.anchor_decay
        if self.residual is None:
            anchor = torch.lerp(self.held, self.values, (1 - decay) * self.config.scale)
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
        """The weight of the final model, in the layer's shape and dtype.

        Phi for residual="reset"; for "persist" the mean of Phi over masks: A + D when rescaling,
        A + (1-p) * D when not.
        """
        weight = self.weight.clone()
        if self.residual is None:
            return weight
        share = 1.0 if self.config.rescale else self.config.density
        self._store_residual()
        self.structure.scatter_(weight, self.index, self.held)
        weight.copy_(self._wide(weight) + share * self.residual.to(weight.device))
        # W of the entries in training exactly, not by way of the stored residual.
        self.structure.scatter_(weight, self.index, torch.lerp(self.held, self.values, share))
        return weight

    def export_state(self) -> Values:
        """All that the model's own state dict does not hold; tensors are shared, not copied."""
        state: Values = {"values": self.values.detach(), "held": self.held}
        if self.residual is not None:
            state["residual"] = self.residual
        return state

    def check_state(self, state: Values) -> None:
        """Raises a StateError unless `state` is one of this weight and config."""
        expected = {key: tuple(value.shape) for key, value in self.export_state().items()}
        given = {key: tuple(value.shape) for key, value in state.items()}
        if given != expected:
            raise StateError(
                f"The saved state of {self.name!r} holds {given}, but this model and config need "
                f"{expected}. Load it into the model and config that it was saved from."
            )

    @torch.no_grad()
    def import_state(self, state: Values, period: int) -> None:
        """Takes up a checked state; the weight itself comes with the model's own state dict."""
        self.index.copy_(self._draw(period))
        self.values.copy_(state["values"])
        self.held.copy_(state["held"])
        if self.residual is not None:
            self.residual.copy_(state["residual"])
        self.write_()

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Adds nothing: the model's state dict holds Phi, `export_state` the rest."""

    @torch.no_grad()
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Follows the owner, whose weight was just loaded: other weights are a new anchor."""
        loaded = self.structure.gather(self.weight, self.index)
        if not torch.equal(loaded, self._phi().to(loaded.dtype)):
            self.held.copy_(loaded)
            self.values.copy_(loaded)
            if self.residual is not None:
                self.residual.zero_()

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
        c = self.config.scale
        return self.values if c == 1 else torch.lerp(self.held, self.values, c)

    def _gather_residual(self, index: Tensor) -> Tensor:
        assert self.residual is not None
        entries = self.structure.gather(self.residual, index.to(self.residual.device))
        return self._wide(entries).to(index.device)

    def _store_residual(self) -> None:
        assert self.residual is not None
        device = self.residual.device
        residual = (self.values - self.held).to(device)
        self.structure.scatter_(self.residual, self.index.to(device), residual)

    @staticmethod
    def _wide(tensor: Tensor) -> Tensor:
        """At least float32: what is trained, and all arithmetic, is never in half precision."""
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
