"""The settings of a training run, checked when they are made."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

from gmixout.losses import Loss, cross_entropy
from gmixout.named import changed, plain
from gmixout.regularizers import Regularizer
from gmixout.regularizers.mixing import mixing
from gmixout.settings import check_settings, require
from gmixout.training.optimizers import OPTIMIZERS, Optimizer

Ranges: TypeAlias = tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...]
"""Ranges of settings; None, where it is allowed, is off."""


class _Settings:
    """Base of the parts of `TrainingArguments`: values are checked on construction."""

    _ranges: ClassVar[Ranges] = ()

    def __post_init__(self) -> None:
        """Refuse values of another type or out of range."""
        check_settings(self)
        for part in type(self).__mro__:
            for names, fine, allowed in vars(part).get("_ranges", ()):
                for name in names:
                    value = getattr(self, name)
                    require(self, name, value is None or fine(value), allowed)


@dataclass(frozen=True)
class Optimization(_Settings):
    """Optimizer, learning rate and schedule."""

    lr: float = 1e-3
    """Peak learning rate, as for full finetuning; masked methods scale it accordingly."""
    head_lr: float | None = 1e-3
    """Peak learning rate of the classifier head; null: `lr`, best for a zero-shot head."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the optimizer."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: cosine decay to zero, or constant."""
    warmup_steps: int = 0
    """Steps of linear warm-up of the learning rate."""
    optimizer: Literal["adamw", "sgd"] | Optimizer = "adamw"
    """AdamW, SGD with momentum 0.9, or a class: torch.optim.NAdam, my_module:MyOptimizer. Its
    options follow as `--optimizer.betas 0.9,0.95`."""
    max_grad_norm: float | None = None
    """Clip the global gradient L2 norm to this value; null is off."""
    layer_decay: float = 1.0
    """Learning-rate factor per layer below the head; 1 is off."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, which is the result; null is off."""

    _ranges: ClassVar[Ranges] = (
        (("lr", "head_lr", "weight_decay"), lambda x: x >= 0, "0 or more"),
        (("warmup_steps",), lambda x: x >= 0, "0 or more"),
        (("max_grad_norm",), lambda x: x > 0, "above 0, or none at all"),
        (("layer_decay",), lambda x: 0 < x <= 1, "in (0, 1]; 1 is off"),
        (("ema_decay",), lambda x: 0 <= x < 1, "in [0, 1), or None"),
    )

    def __post_init__(self) -> None:
        """Refuse values of another type or out of range; store a default optimizer as its name."""
        super().__post_init__()
        for name, kind in OPTIMIZERS.items():
            if type(self.optimizer) is kind and not changed(self.optimizer):
                object.__setattr__(self, "optimizer", name)

    @property
    def rule(self) -> Optimizer:
        """The optimizer with its options."""
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer
        return OPTIMIZERS[self.optimizer]()


@dataclass(frozen=True)
class Augmentation(_Settings):
    """Augmentation of single images."""

    augment: Literal["none", "randaugment"] = "none"
    """RandAugment (arXiv 1909.13719) of every image, or none."""
    randaugment_ops: int = 2
    """Number of operations that RandAugment applies to an image."""
    randaugment_magnitude: int = 9
    """Strength of RandAugment's operations, from 0 to 30."""
    crop_scale: float = 1.0
    """Smallest share of an image's area that a random crop keeps; 1 is off."""
    flip: bool = False
    """Flip images horizontally at random."""

    _ranges: ClassVar[Ranges] = (
        (("crop_scale",), lambda x: 0 < x <= 1, "in (0, 1]; 1 is off"),
        (("randaugment_ops",), lambda x: 1 <= x <= 100, "from 1 to 100"),
        (("randaugment_magnitude",), lambda x: 0 <= x <= 30, "in [0, 30]"),
    )


@dataclass(frozen=True)
class Conduct(_Settings):
    """Runtime settings, which do not change the result: a resumed run may change them."""

    log_every_steps: int = 10
    """Steps between reports of progress and checks that the loss is finite."""
    checkpoint_every_steps: int = 100
    """Steps between checkpoints: the most that a killed run can lose."""
    evaluate_every_steps: int | None = None
    """Steps between evaluations during training, for learning curves; None: only at the end."""
    num_workers: int | None = None
    """Processes that load images. Default: none on a CPU or for images in memory, else one per CPU
    thread, at most eight."""
    checkpointing: bool = False
    """Save memory: recompute activations in the backward pass instead of keeping them. The model's
    library must support it; the gradients are the same."""
    tracker: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Experiment trackers that get losses, learning rate and scores: tensorboard, wandb, mlflow,
    trackio, or several, tensorboard,wandb."""

    _ranges: ClassVar[Ranges] = (
        (("log_every_steps", "checkpoint_every_steps"), lambda x: x >= 1, "at least 1"),
        (("evaluate_every_steps",), lambda x: x >= 1, "at least 1, or None"),
        (("num_workers",), lambda x: 0 <= x <= 1024, "from 0 to 1,024, or None"),
    )


@dataclass(frozen=True)
class Selection(_Settings):
    """Model that a run keeps, and early stopping."""

    select: Literal["last", "id_validation"] = "last"
    """Keep the model of the last step, or the best of the run on in-domain validation."""
    validate_every_steps: int | None = None
    """Steps between validations for `select=id_validation`; null: a tenth of the run."""
    patience: int | None = None
    """Stop early: after this many validations in a row without a better model; null is off."""

    _ranges: ClassVar[Ranges] = (
        (("validate_every_steps", "patience"), lambda x: x >= 1, "at least 1, or None"),
    )

    def __post_init__(self) -> None:
        """Refuse values of another type or out of range, and options of an unused rule."""
        super().__post_init__()
        if self.select == "last":
            for name in ("validate_every_steps", "patience"):
                allowed = "None without --select id_validation, which measures it"
                require(self, name, getattr(self, name) is None, allowed)


@dataclass(frozen=True)
class Objective(_Settings):
    """Loss and regularizers."""

    loss: Loss | None = None
    """Loss per example; null: cross-entropy with the next two settings."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all classes."""
    logit_adjustment: float = 0.0
    """Tau of the logit-adjusted loss for rare classes (arXiv 2007.07314); 1: balanced softmax."""
    regularizers: tuple[Regularizer, ...] = ()
    """Regularizers beside every method; for a single method write gmixout+sam."""
    mixup: float = 0.0
    """Alpha of Mixup beside every method; 0 is off. With CutMix, each batch gets one at random."""
    cutmix: float = 0.0
    """Alpha of CutMix beside every method; 0 is off."""

    _ranges: ClassVar[Ranges] = (
        (("logit_adjustment",), lambda x: x >= 0, "0 or more"),
        (("label_smoothing",), lambda x: 0 <= x < 1, "in [0, 1)"),
        # the distribution they are parameters of is drawn from in float32
        (("mixup", "cutmix"), lambda x: x == 0 or 1e-6 <= x <= 1e6, "0, or from 1e-6 to 1e6"),
    )

    def __post_init__(self) -> None:
        """Refuse values of another type or out of range, and options of an unused loss."""
        super().__post_init__()
        if self.loss is not None:
            for name in ("label_smoothing", "logit_adjustment"):
                allowed = f"0 beside loss={self.loss.name}: it is an option of cross-entropy"
                require(self, name, getattr(self, name) == 0, allowed)

    @property
    def criterion(self) -> Loss:
        """The loss of an example."""
        return self.loss or cross_entropy(self.label_smoothing, self.logit_adjustment)

    @property
    def beside(self) -> tuple[Regularizer, ...]:
        """All regularizers that act beside every method."""
        short = (mixing(self.mixup, self.cutmix),) if self.mixup or self.cutmix else ()
        return (*short, *self.regularizers)


@dataclass(frozen=True)
class TrainingArguments(Optimization, Objective, Augmentation, Selection, Conduct):
    """Settings of one training run. Numbers of steps are optimizer steps.

    Composed of parts, each a small dataclass for code that needs only that part. Names are unique
    over all parts: a setting is written without its part.
    """

    seed: int = 0
    """Seed of the data order, the masks and dropout."""
    steps: int = 300
    """Optimizer steps of the whole run."""
    batch_size: int = 32
    """Images per optimizer step."""
    accumulate: int = 1
    """Save memory: compute each batch in this many parts, one after another, and add up their
    gradients. Steps and results stay those of the whole batch, up to rounding."""
    batches: Literal["shuffled", "even_domains", "even_classes", "one_domain", "weighted"] = (
        "shuffled"
    )
    """Composition of batches: shuffled images, equally many of each domain or class, one domain per
    batch, or drawn by the data set's weights."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass; fp16 is for GPUs, with a scaled loss."""
    freeze_batch_norm: bool = True
    """Keep batch-norm statistics at their pretrained values; scales and shifts are trained."""

    _ranges: ClassVar[Ranges] = (
        (("steps", "batch_size", "accumulate"), lambda x: x >= 1, "at least 1"),
        (("seed",), lambda x: x >= 0, "0 or more"),
    )
    _traceless: ClassVar[tuple[str, ...]] = (
        "accumulate", "select", "validate_every_steps", "patience",
    )  # fmt: skip
    """Settings that records omit while they are off, like records from before they existed."""

    def __post_init__(self) -> None:
        """Refuse values of another type, out of range, or inconsistent."""
        super().__post_init__()
        require(
            self, "warmup_steps", self.warmup_steps < self.steps, f"fewer than steps={self.steps}"
        )
        fits = self.accumulate <= self.batch_size
        require(self, "accumulate", fits, f"at most batch_size={self.batch_size}")

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the result, by name."""
        off = {*self._traceless} - changed(self).keys()
        return {k: v for k, v in self.plain().items() if k not in {*self.conduct(), *off}}

    @property
    def validate_at(self) -> range:
        """Steps after which the model is validated, beside the last one; none for `last`."""
        if self.select == "last":
            return range(0)
        every = self.validate_every_steps or max(1, self.steps // 10)
        return range(every, self.steps, every)

    def plain(self) -> dict[str, Any]:
        """Return all settings as plain values, by name, the way a YAML file spells them."""
        return {name: plain(value) for name, value in vars(self).items()}

    def conduct(self) -> tuple[str, ...]:
        """Return the names of the runtime settings, which do not change the result."""
        return tuple(each.name for each in fields(Conduct))

    def lr_factor(self, step: int) -> float:
        """Return the share of the peak learning rate at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * done))
