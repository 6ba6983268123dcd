"""The settings of the masking process; every method of the Mixout family is one of them."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from gmixout.core.masks import STRUCTURES
from gmixout.errors import ConfigError

MAX_COMPENSATION = 2.0
"""Largest factor by which `GMixout.lr_scale` compensates for a slow anchor."""


@dataclass(frozen=True)
class GMixout:
    """The settings of a masking process; every method of the Mixout family is one of them.

    Sources: GMixout (arXiv 2510.06982); Mixout (Lee, Cho, Kang, ICLR 2020, arXiv 1909.11299).

    Raises:
        ConfigError: A value is out of range, or two settings contradict each other.
    """

    mask_rate: float = 0.7
    """p, the share of each masked weight that stays at the anchor, in [0, 1)."""
    anchor_decay: float = 0.7
    """lambda, the decay of the anchor's moving average, updated at the end of each period, in
    [0, 1]; 1: a fixed anchor. Lower values learn more in few steps: see `lr_scale`."""
    resample_every: int | None = 10
    """k, optimizer steps per period; None: one mask for the whole run."""
    structure: Literal["element", "row", "column", "block", "longer_side", "neuron"] = "row"
    """Unit of the mask: single entries; output units; input units; tiles; whichever of output and
    input units a weight has more of; or hidden neurons and attention heads, each with all of its
    weights on both sides (what belongs to none is cut along its longer side)."""
    seed: int = 0
    """Masks depend on it, the parameter's name and the period, and nothing else."""
    rescale: bool = False
    """Multiply the residual of each weight by c, its units over its trained units (1/(1-p) up to
    rounding), so that the mean of Phi over masks is A + D."""
    residual: Literal["reset", "persist"] = "reset"
    """At a period's end: start from D = 0 (saves memory), or keep a dense residual."""
    anchor: Literal["pretrained", "zero"] = "pretrained"
    """Initial value of masked-out entries; zero turns Mixout into DropConnect."""
    moments: Literal["reset", "carry"] = "reset"
    """Optimizer moments at a period's end: reset, or stay with their entry (dense; free at p = 0,
    where every entry stays)."""
    block_size: int = 16
    """Side of a tile for structure="block"."""
    group_size: int | None = 1
    """Draw units in groups of so many neighbours (at most; it divides their number); None: as one
    contiguous band, where the count to be trained divides their number, or as near as it gets."""
    biases: Literal["dense", "masked", "held"] = "dense"
    """What is trained beside the masked weights and the head. dense: all of it (biases, norms,
    embeddings). masked: the biases of masked layers, each with its output unit for
    structure="row"; the rest is held. held: nothing, so that no gradient of it is computed."""
    mean_start_depth: float = 0.0
    """Train only the layers above a random start in each period. This is the mean start as a share
    of the layers, in [0, 1); 0 trains all layers, 0.5 draws the start uniformly. torch.compile
    of a whole model makes one graph per start and falls back to eager after eight. Compile its
    blocks instead, `for block in model.blocks: block.compile()`: blocks of one kind share their
    graphs, one per start inside a block and two more."""
    min_start_depth: float = 0.0
    """The lowest start as a share of the layers, at most `mean_start_depth`. The layers below are
    held from the beginning, so that no period needs more memory than the layers above; the first
    period starts there. Where both are equal, so does every period."""
    anchor_pull: float = 0.0
    """rho, how far the end of a period pulls the anchor's trained entries back to the pretrained
    weights, in [0, 1]; above 0 it costs one copy of the weights."""
    residual_dtype: str | None = None
    """Dtype of the dense residual, for example "bfloat16"; None: float32, or the weight's if
    wider."""
    residual_device: str | None = None
    """Device of dense copies (the residual; the pretrained weights of anchor_pull), for example
    "cpu": only the end of a period uses them; None: the device of W."""

    def __post_init__(self) -> None:
        for field, ask, allowed, fine in _RANGES:
            given = getattr(self, field)
            value = _plain_number(given, whole=field in _WHOLE)
            if field in _MAY_BE_NONE and given is None:
                continue
            if value is None or not fine(value):
                raise ConfigError(f"GMixout({field}={given!r}) must be {allowed}: {ask}.")
            # Plain numbers: the masks hash them, and files of every format can hold them.
            object.__setattr__(self, field, value)
        for field, options in _OPTIONS.items():
            given = getattr(self, field)
            if not any(type(given) is type(option) and given == option for option in options):
                raise ConfigError(
                    f"GMixout({field}={getattr(self, field)!r}) must be one of "
                    f"{', '.join(map(repr, options))}."
                )
        for field, parse in (("residual_dtype", _dtype_name), ("residual_device", _device_name)):
            given = getattr(self, field)
            if given is not None:
                object.__setattr__(self, field, parse(given))
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.min_start_depth > self.mean_start_depth:
            raise ConfigError(
                f"GMixout(min_start_depth={self.min_start_depth!r}, mean_start_depth="
                f"{self.mean_start_depth!r}) cannot start above its mean; raise mean_start_depth "
                f"to {self.min_start_depth!r}, where every period starts, or more."
            )
        if self.resample_every is None and self.mean_start_depth > self.min_start_depth:
            raise ConfigError(
                f"GMixout(resample_every=None, mean_start_depth={self.mean_start_depth!r}) would "
                "never train the layers below the first start; use a number of steps, or "
                f"mean_start_depth={self.min_start_depth!r}."
            )
        if self.anchor_pull > 0 and (self.residual == "persist" or self.resample_every is None):
            raise ConfigError(
                f"GMixout(anchor_pull={self.anchor_pull!r}) acts on what a period's end leaves in "
                "the anchor; use residual='reset' and a number of steps for resample_every."
            )
        if self.residual == "reset":
            if self.anchor == "zero":
                raise ConfigError(
                    "GMixout(anchor='zero', residual='reset') would start from an empty network; "
                    "use residual='persist'."
                )
            if self.moments == "carry" and self.mask_rate > 0:
                raise ConfigError(
                    f"GMixout(moments='carry', residual='reset', mask_rate={self.mask_rate!r}) "
                    "keeps moments of residuals that are gone; use residual='persist', "
                    "moments='reset', or mask_rate=0, where every entry stays."
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
    def lr_scale(self) -> float:
        """Return the factor by which `param_groups(lr)` multiplies `lr` for the masked values.

        An Adam-like optimizer moves every trained value by about its learning rate per step,
        however small the gradient. Where gradients are mostly noise (a head that fits the training
        set), so are the steps, especially after a redraw, when moments are reset. So the length of
        a step, not the progress of the anchor, sets the factor:

        * Only the share 1-p of the entries moves. 1 / sqrt(1-p) gives a step the Euclidean length
          of full finetuning's.
        * With residual="reset" only the share 1-lambda of a period's c * D enters the anchor.
          1 / ((1-lambda) * c) would compensate for it; the factor stops at 2 / c. A step of Phi has
          at most twice the length of full finetuning's, however slow the anchor. (If periods never
          end, resample_every=None, the factor is 1 / c; with residual="persist", where W = A + D
          keeps all, it is 1.)

        With p = 0 and nothing lost this is full finetuning's own learning rate.

        This makes a first run safe: at full finetuning's best learning rate GMixout ends, on
        average over seeds, no lower in domain than it started (`benchmarks/first_run.py`). Above
        lambda = 1/2 the share 2 * (1-lambda) of full finetuning's progress is left, 0.6 at the
        default and a fifth at 0.9, where two to five times the learning rate is better. Like full
        finetuning, it is ruined by too high a rate. Nothing is promised for
        residual="persist" with rescale, where a step of Phi is c times as long (Mixout draws a new
        mask each step, which averages that out), nor for SGD, whose steps grow with the gradient:
        choose those learning rates by hand.
        """
        if self.residual == "persist":
            kept = 1.0
        else:
            survives = 1.0 if self.resample_every is None else 1 - self.anchor_decay
            kept = max(survives, 1 / MAX_COMPENSATION) / (self.density if self.rescale else 1)
        return 1 / (kept * math.sqrt(self.density))


def mixout(mask_rate: float = 0.9, **overrides: Any) -> GMixout:
    """Return Mixout (Lee, Cho, Kang, ICLR 2020, eq. 5): a new mask each step, a fixed anchor."""
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
    """Return High-Rate Mixout (arXiv 2510.06955): Mixout at 0.9 for a ViT, 0.8 for a ResNet."""
    return mixout(mask_rate, **overrides)


def random_mask(mask_rate: float = 0.9, **overrides: Any) -> GMixout:
    """Return Random Mask (arXiv 2405.02596): one random mask for the whole run."""
    return replace(
        GMixout(mask_rate=mask_rate, anchor_decay=1.0, resample_every=None, structure="element"),
        **overrides,
    )


def dropconnect(mask_rate: float = 0.5, **overrides: Any) -> GMixout:
    """Return DropConnect (Wan et al., ICML 2013): Mixout whose anchor is zero."""
    return replace(mixout(mask_rate, anchor="zero"), **overrides)


def lookahead(k: int = 6, alpha: float = 0.5, **overrides: Any) -> GMixout:
    """Return Lookahead (Zhang et al., NeurIPS 2019): every k steps, keep a share alpha of them.

    The process that masks nothing. With one batch of each of k domains in a period it is Fish
    (Shi et al., ICLR 2022) with `alpha` as its meta learning rate; `moments="reset"` begins each
    period with a fresh optimizer. Biases, norms and the head are trained densely, unless
    `attach(select=lambda name, parameter: True)` includes them.
    """
    share = _plain_number(alpha, whole=False)
    if share is None or not 0 < share <= 1:
        raise ConfigError(f"lookahead(alpha={alpha!r}) must be in (0, 1]: 1 is plain finetuning.")
    return replace(
        GMixout(mask_rate=0.0, anchor_decay=1 - share, resample_every=k, moments="carry"),
        **overrides,
    )


_RANGES: tuple[tuple[str, str, str, Callable[[float], bool]], ...] = (
    ("mask_rate", "0 trains everything, 1 would train nothing", "in [0, 1)", lambda x: 0 <= x < 1),
    ("anchor_decay", "0 replaces the anchor, 1 fixes it", "in [0, 1]", lambda x: 0 <= x <= 1),
    (
        "resample_every",
        "optimizer steps in a period; None keeps one mask for the whole run",
        "a whole number >= 1, or None",
        lambda x: x >= 1,
    ),
    ("seed", "masks depend on it", "a whole number", lambda x: True),
    ("block_size", "the side of a tile", "a whole number >= 1", lambda x: x >= 1),
    (
        "group_size",
        "neighbours that are drawn together; None draws one band",
        "a whole number >= 1, or None",
        lambda x: x >= 1,
    ),
    (
        "mean_start_depth",
        "0 trains all layers in every period, 1 would train none",
        "in [0, 1)",
        lambda x: 0 <= x < 1,
    ),
    (
        "min_start_depth",
        "the layers below it are never trained",
        "in [0, 1)",
        lambda x: 0 <= x < 1,
    ),
    (
        "anchor_pull",
        "0 never pulls the anchor, 1 resets it at the end of every period",
        "in [0, 1]",
        lambda x: 0 <= x <= 1,
    ),
)

_WHOLE = ("resample_every", "seed", "block_size", "group_size")
_MAY_BE_NONE = ("resample_every", "group_size")

_OPTIONS: dict[str, tuple[object, ...]] = {
    "structure": tuple(STRUCTURES),
    "biases": ("dense", "masked", "held"),
    "rescale": (False, True),
    "residual": ("reset", "persist"),
    "anchor": ("pretrained", "zero"),
    "moments": ("reset", "carry"),
}


def _plain_number(value: Any, whole: bool) -> float | None:
    """Return Python's own number for any kind of number, None for anything else."""
    if isinstance(value, (str, bool)):
        return None
    try:
        if not whole:
            return float(value)
        return int(value) if int(value) == value else None
    except (TypeError, ValueError, OverflowError):
        return None


def _dtype_name(value: Any) -> str:
    name = str(value).removeprefix("torch.")
    if name not in ("float16", "bfloat16", "float32", "float64"):
        raise ConfigError(
            f"GMixout(residual_dtype={value!r}) must be 'float16', 'bfloat16', 'float32', "
            "'float64' or None."
        )
    return name


def _device_name(value: Any) -> str:
    with suppress(RuntimeError, TypeError, ValueError):
        if not isinstance(value, bool) and (device := torch.device(value)).type != "meta":
            return str(device)
    raise ConfigError(
        f"GMixout(residual_device={value!r}) must be a device that holds values, 'cpu' for "
        "example, or None."
    )
