"""The settings of a training run, checked when they are made."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from gmixout.losses import Loss, cross_entropy
from gmixout.named import plain
from gmixout.regularizers import Regularizer
from gmixout.regularizers.mixing import mixing
from gmixout.settings import check_settings, require

# Settings that say how a run is carried out, not what it is: a resumed run may change them
_CONDUCT = {"conduct": True}


@dataclass(frozen=True)
class TrainingArguments:
    """Settings of one training run. Numbers of steps are optimizer steps."""

    lr: float = 1e-3
    """Peak learning rate; methods that hold weights back scale it to the same effect."""
    seed: int = 0
    """Seed of the data order, of the masks and of dropout."""
    steps: int = 300
    """Number of optimizer steps of the whole run."""
    batch_size: int = 32
    """Images a step."""
    head_lr: float | None = 1e-3
    """Peak learning rate of the classifier head; null: `lr`, as befits a zero-shot head."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the optimizer."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero to its peak."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: down to zero along a cosine, or constant."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9."""
    max_grad_norm: float | None = None
    """Longest gradient (L2 norm over everything trained); longer ones are cut to it."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Type of the forward pass; fp16 is for GPUs, with a scaled loss."""
    loss: Loss | None = None
    """The loss of an example; null: cross-entropy with the two settings after this one."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    logit_adjustment: float = 0.0
    """Tau of the logit adjusted loss for rare classes (arXiv 2007.07314); 1: balanced softmax."""
    regularizers: tuple[Regularizer, ...] = ()
    """What acts beside every method; what is to act beside one alone is written gmixout+sam."""
    batches: Literal["shuffled", "even_domains", "even_classes", "one_domain", "weighted"] = (
        "shuffled"
    )
    """Make-up of batches: any images, equally many of each domain or class, of one domain each, or
    drawn by the data set's weights."""
    augment: Literal["none", "randaugment"] = "none"
    """RandAugment (arXiv 1909.13719) of every image, or none."""
    randaugment_ops: int = 2
    """Operations that RandAugment applies to an image, one after another."""
    randaugment_magnitude: int = 9
    """Strength of RandAugment's operations, from 0 to 30."""
    crop_scale: float = 1.0
    """Least share of an image's area that a random crop keeps; 1 is off."""
    flip: bool = False
    """Mirror images at random."""
    mixup: float = 0.0
    """Alpha of Mixup beside every method; 0 is off. With CutMix, a batch gets either at random."""
    cutmix: float = 0.0
    """Alpha of CutMix beside every method; 0 is off."""
    layer_decay: float = 1.0
    """Factor of the learning rate for each layer further below the head; 1 is off."""
    freeze_batch_norm: bool = True
    """Keep the statistics of batch norms at their pretrained values; their affine part trains."""
    ema_decay: float | None = None
    """End in the moving average of the weights: the share that a step keeps of it; null is off."""
    log_every_steps: int = field(default=10, metadata=_CONDUCT)
    """Steps between two looks at the loss: progress, and whether it is still finite."""
    checkpoint_every_steps: int = field(default=100, metadata=_CONDUCT)
    """Steps between two checkpoints: the most a killed run can lose."""
    evaluate_every_steps: int | None = field(default=None, metadata=_CONDUCT)
    """Steps between two evaluations on the way, for learning curves; None: at the end alone."""
    num_workers: int | None = field(default=None, metadata=_CONDUCT)
    """Processes that load images beside the training process; by default none on a CPU or for
    images in memory, else one a CPU thread, eight at most."""

    def __post_init__(self) -> None:
        """Refuse values of another kind or out of range."""
        check_settings(self)
        for names, fine, allowed in _RANGES:
            for name in names:
                value = getattr(self, name)
                require(self, name, value is None or fine(value), allowed)
        if self.loss is not None:
            for name in ("label_smoothing", "logit_adjustment"):
                allowed = f"0 beside loss={self.loss.name}: it is an option of cross-entropy"
                require(self, name, getattr(self, name) == 0, allowed)
        require(
            self, "warmup_steps", self.warmup_steps < self.steps, f"fewer than steps={self.steps}"
        )

    @property
    def criterion(self) -> Loss:
        """The loss of an example."""
        return self.loss or cross_entropy(self.label_smoothing, self.logit_adjustment)

    @property
    def beside(self) -> tuple[Regularizer, ...]:
        """All regularizers that act beside every method."""
        short = (mixing(self.mixup, self.cutmix),) if self.mixup or self.cutmix else ()
        return (*short, *self.regularizers)

    def identity(self) -> dict[str, Any]:
        """Returns the settings that decide the outcome, by name."""
        return {k: v for k, v in self.plain().items() if k not in self.conduct()}

    def plain(self) -> dict[str, Any]:
        """Returns all settings as plain values, by name, the way a YAML file spells them."""
        return {name: plain(value) for name, value in vars(self).items()}

    def conduct(self) -> tuple[str, ...]:
        """Returns the names of the settings that do not decide the outcome."""
        return tuple(f.name for f in dataclasses.fields(self) if f.metadata.get("conduct"))

    def lr_factor(self, step: int) -> float:
        """Returns the share of the peak learning rate at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * done))


_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (
        ("steps", "batch_size", "log_every_steps", "checkpoint_every_steps"),
        lambda x: x >= 1,
        "at least 1",
    ),
    (("evaluate_every_steps",), lambda x: x >= 1, "at least 1, or None"),
    (("seed", "warmup_steps"), lambda x: x >= 0, "0 or more"),
    (("num_workers",), lambda x: 0 <= x <= 1024, "from 0 to 1,024, or None"),
    (("lr", "head_lr", "weight_decay", "logit_adjustment"), lambda x: x >= 0, "0 or more"),
    (("max_grad_norm",), lambda x: x > 0, "above 0, or none at all"),
    (("label_smoothing",), lambda x: 0 <= x < 1, "in [0, 1)"),
    (("crop_scale", "layer_decay"), lambda x: 0 < x <= 1, "in (0, 1]; 1 is off"),
    (("randaugment_ops",), lambda x: 1 <= x <= 100, "from 1 to 100"),
    (("randaugment_magnitude",), lambda x: 0 <= x <= 30, "in [0, 30]"),
    # the distribution they are parameters of is drawn from in float32
    (("mixup", "cutmix"), lambda x: x == 0 or 1e-6 <= x <= 1e6, "0, or from 1e-6 to 1e6"),
    (("ema_decay",), lambda x: 0 <= x < 1, "in [0, 1), or None"),
)
"""Settings by what they may be; None, where it is allowed, is off."""
