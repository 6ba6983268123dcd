"""The ways to finetune that the benchmarks put side by side, and what they are put on."""

import itertools
import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import timm
import torch
import torch._dynamo  # the first optimizer would: where memory is measured, that is too late
import torch.nn.functional as F
from _timing import Record, Stopwatch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import gmixout
from gmixout.core.masks import STRUCTURES
from gmixout.core.schedule import RandomStart, layers_of
from gmixout.models.digits_vit import architecture

LORA_RANK = 8
STEPS_A_ROUND = 10
"""At least so many steps are timed together."""
PRECISIONS = ("float32", "autocast", "bfloat16")
COMPILERS: dict[str, dict[str, Any]] = {
    "none": {},
    "inductor": {},
    "cudagraphs": {"mode": "reduce-overhead"},
    "aot_eager": {"backend": "aot_eager"},
}
"""What `torch.compile` is called with."""
START_DEPTHS = 128
"""Most graphs that are compiled of one model: one a start depth."""


@dataclass(frozen=True)
class Setting:
    """What is trained and how, alike for all methods; plain values, so that JSON can hold it."""

    model: str = "vit_small_patch16_224"
    """A timm model, or digits_vit; its weights are random, the same at every call."""
    options: dict[str, Any] = field(default_factory=dict)
    """What `timm.create_model` is told beside the name."""
    checkpointing: bool = False
    """Keep each block's input alone, and run the block anew in backward."""
    device: str = "cpu"
    threads: int = 1
    precision: str = "float32"
    """One of PRECISIONS: autocast is to bfloat16, with float32 weights."""
    compiler: str = "none"
    density: float = 0.1
    resample_every: int = 10

    @property
    def round_steps(self) -> int:
        """Steps that are timed together: whole periods."""
        return self.resample_every * math.ceil(STEPS_A_ROUND / self.resample_every)

    @property
    def warm_up_steps(self) -> int:
        """Untimed steps: all that a compiler may meet, or enough for a device's libraries."""
        if self.device == "cpu" and self.compiler == "none":
            return 1
        # A CUDA graph is warmed up once, then recorded, then replayed
        return self.round_steps * (3 if self.compiler == "cudagraphs" else 1)

    def autocast(self) -> AbstractContextManager[Any]:
        """What the forward pass runs in."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.precision == "autocast")

    def build(self) -> nn.Module:
        """The model before training."""
        device = torch.device(self.device)
        # on the device itself: drawing ViT-L's weights on a CPU takes longer than a round of steps
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
            torch.manual_seed(0)
            if self.model == "digits_vit":
                model = architecture().train()
                model.default_cfg = {"input_size": (1, 28, 28)}
            else:
                model = timm.create_model(self.model, **self.options).train()
        model.set_grad_checkpointing(self.checkpointing)
        # as the library loads its models: other layers than convolutions do not mind
        return model.to(self.device, self._dtype, memory_format=torch.channels_last)

    def make_batch(self, model: nn.Module, size: int) -> tuple[Tensor, Tensor]:
        """Random images `[size, C, H, W]` of the model's size and labels `[size]`."""
        channels, *sides = model.default_cfg["input_size"]
        if "img_size" in self.options:
            sides = [self.options["img_size"]] * 2
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(size, channels, *sides, generator=generator)
        labels = torch.randint(model.num_classes, (size,), generator=generator)
        return images.to(self.device, self._dtype), labels.to(self.device)

    def start(self, method: str, model: nn.Module) -> "Trainer":
        """Makes a model ready for a method, compiled where the setting says so."""
        trainer = METHODS[method](model, self)
        if self.compiler != "none":
            # Else a start depth more than torch expects would silently run uncompiled.
            torch._dynamo.config.recompile_limit = START_DEPTHS
            deep = trainer.masked is not None and trainer.masked.config.mean_start_depth > 0
            # Blocks share their graphs; the whole model would need one a start depth.
            for part in getattr(model, "blocks", [model]) if deep else [trainer.model]:
                part.compile(**COMPILERS[self.compiler])
        return trainer

    def adamw(self, parameters: Iterable[Any]) -> torch.optim.AdamW:
        """AdamW in its fused form, the fastest that torch has on CUDA and on CPUs."""
        return torch.optim.AdamW(parameters, fused=True)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


def stay(step: int) -> None:
    """Changes nothing before a timed step."""


@dataclass(frozen=True)
class Trainer:
    """A model made ready for one way to finetune it, with the optimizer of what it trains."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    setting: Setting
    masked: gmixout.Masked | None = None
    seek: Callable[[int], None] = stay
    """Called before a timed step, outside of the time taken, with its number."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss in float32 of `images [B, C, H, W]`, `labels [B]`."""
        with self.setting.autocast():
            logits = self.model(images)
        return F.cross_entropy(logits.float(), labels)

    def step(self, images: Tensor, labels: Tensor, mark: Callable[[], None] = lambda: None) -> None:
        """Trains one step; calls `mark` at its start, around the optimizer's part, at its end."""
        mark()
        self.loss(images, labels).backward()
        mark()
        self.optimizer.step()
        mark()
        self.optimizer.zero_grad()
        mark()

    def time(self, images: Tensor, labels: Tensor, steps: range) -> list[Record]:
        """Trains steps of these numbers, one after the other.

        Returns:
            For each seconds of the step by the clock ("wall") and of the processor ("cpu"), seconds
            of the optimizer's part ("update"), and whether masks were drawn anew in it ("redraw").
        """
        watch = Stopwatch(images.device)
        records: list[Record] = []
        for step in steps:
            self.seek(step)
            period = self.masked.period if self.masked else 0
            cpu_started = time.process_time()
            self.step(images, labels, watch.mark)
            cpu = time.process_time() - cpu_started
            redraw = self.masked is not None and self.masked.period > period
            records.append({"cpu": cpu, "redraw": redraw})
        between = watch.read()
        for i, record in enumerate(records):
            parts = between[4 * i : 4 * i + 3]  # the fourth is the way to the next step
            record |= {"wall": sum(parts), "update": parts[1]}
        return records


class DenseMixout(nn.Module):
    """Mixout as its paper writes it (Lee, Cho, Kang, ICLR 2020, eq. 5), on one weight.

    `(M * W + (1 - M) * A - p * A) / (1 - p)` with a new mask M in each forward and the pretrained
    weight A, left to autograd.
    """

    def __init__(self, weight: Tensor, mask_rate: float) -> None:
        super().__init__()
        self.mask_rate = mask_rate
        self.register_buffer("anchor", weight.detach().clone())

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the mixed weight, of the weight's shape."""
        p = self.mask_rate
        # From the global generator, as in the original: the compiler cannot use another.
        mask = torch.empty_like(weight).bernoulli_(1 - p)
        mixed = mask * weight + (1 - mask) * self.anchor - p * self.anchor
        return mixed / (1 - p)


def start_full(model: nn.Module, setting: Setting) -> Trainer:
    """Full finetuning."""
    return Trainer(model, setting.adamw(model.parameters()), setting)


def start_linear_probe(model: nn.Module, setting: Setting) -> Trainer:
    """The classifier alone."""
    model.requires_grad_(False)
    head = model.get_classifier().requires_grad_(True)
    return Trainer(model, setting.adamw(head.parameters()), setting)


def start_floor(model: nn.Module, setting: Setting) -> Trainer:
    """All but the weights that GMixout masks: what no method that back-propagates goes below."""
    for name in body_weights(model):
        model.get_submodule(name).weight.requires_grad_(False)
    return Trainer(model, setting.adamw(trainable(model)), setting)


def start_floor_held(model: nn.Module, setting: Setting) -> Trainer:
    """The floor with biases and norms held as well: the lowest for whoever trains all depths."""
    start_floor(model, setting)
    held = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    for parameter in held:
        parameter.requires_grad_(False)
    if {*trainable(model)} <= {*model.get_classifier().parameters()}:
        held[0].requires_grad_(True)  # else backward would stop at the classifier
    return Trainer(model, setting.adamw(trainable(model)), setting)


def start_lora(model: nn.Module, setting: Setting) -> Trainer:
    """LoRA on every linear layer of the blocks (else on every convolution), and the classifier."""
    import peft  # not above: it takes longer to import than all the rest

    config = peft.LoraConfig(
        r=LORA_RANK,
        target_modules=body_linears(model) or body_weights(model),
        modules_to_save=[head_name(model)],
    )
    # peft would keep the adapters in float32 beside bfloat16 weights, and copy every input for it
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    return Trainer(adapted, setting.adamw(trainable(adapted)), setting)


def start_shira(model: nn.Module, setting: Setting) -> Trainer:
    """SHiRA on the same linear layers with as many weights as LoRA, and the classifier."""
    linears = body_linears(model)
    if not linears:
        raise SystemExit(
            f"shira: peft has it for linear layers alone, and {setting.model} has none besides its "
            "classifier. Name the other methods with --methods."
        )
    import peft

    config = peft.ShiraConfig(
        r=LORA_RANK, target_modules=linears, modules_to_save=[head_name(model)], random_seed=0
    )
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    return Trainer(adapted, setting.adamw(trainable(adapted)), setting)


def start_dense_mixout(model: nn.Module, setting: Setting) -> Trainer:
    """Mixout with dense masks on the weights that GMixout masks."""
    for name in body_weights(model):
        module = model.get_submodule(name)
        parametrize.register_parametrization(
            module, "weight", DenseMixout(module.weight, 1 - setting.density), unsafe=True
        )
    return Trainer(model, setting.adamw(model.parameters()), setting)


def start_gmixout(model: nn.Module, setting: Setting, **process: Any) -> Trainer:
    """GMixout, all that `process` does not name at its defaults."""
    config = gmixout.GMixout(
        mask_rate=1 - setting.density, resample_every=setting.resample_every, **process
    )
    masked = gmixout.attach(model, config)
    optimizer = setting.adamw(masked.param_groups(lr=1e-3))
    return Trainer(model, masked.bind(optimizer), setting, masked)


def start_depth(model: nn.Module, setting: Setting) -> Trainer:
    """GMixout with row masks and a random start depth.

    Training meets too few start depths in a few periods for a mean. So each timed step of a round
    is in a period of another start depth, and these are evenly spread: the mean over a round is
    that over the uniform distribution. Memory is measured in training as it comes.
    """
    trainer = start_gmixout(model, setting, structure="row", mean_start_depth=0.5)
    masked, steps = trainer.masked, setting.round_steps
    assert masked is not None
    names = layers_of([weight.name for weight in masked.summary().weights])

    @cache
    def find_period(start: int) -> int:
        depth = RandomStart(0.5)
        periods = itertools.count(1)
        return next(p for p in periods if depth.start(p, len(names), masked.config.seed) == start)

    def resume(step: int) -> None:
        start = int(len(names) * (step % steps + 0.5) / steps)
        now = find_period(start) * setting.resample_every + step % setting.resample_every
        state = {**masked.state_dict(), "steps": now, "layers": list(names[start:])}
        masked.load_state_dict(state)

    return Trainer(model, trainer.optimizer, setting, masked, resume)


def gmixout_with(structure: str, **process: Any) -> Callable[[nn.Module, Setting], Trainer]:
    """GMixout with masks of one structure."""
    return lambda model, setting: start_gmixout(model, setting, structure=structure, **process)


METHODS: dict[str, Callable[[nn.Module, Setting], Trainer]] = {
    "full": start_full,
    "linear_probe": start_linear_probe,
    "floor": start_floor,
    "floor_held": start_floor_held,
    "lora": start_lora,
    "shira": start_shira,
    "dense_mixout": start_dense_mixout,
    **{f"gmixout_{structure}": gmixout_with(structure) for structure in STRUCTURES},
    "gmixout_row_groups": gmixout_with("row", group_size=16),
    "gmixout_band": gmixout_with("longer_side", group_size=None),
    "gmixout_row_depth": start_depth,
    "gmixout_row_masked": partial(start_gmixout, structure="row", biases="masked"),
    "gmixout_row_held": partial(start_gmixout, structure="row", biases="held"),
}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """What is not frozen."""
    return [p for p in model.parameters() if p.requires_grad]


def head_name(model: nn.Module) -> str:
    """The name of a timm model's classifier."""
    head = model.get_classifier()
    return next(name for name, module in model.named_modules() if module is head)


def body_weights(model: nn.Module) -> list[str]:
    """Names of the linear and convolutional layers, without the classifier."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    head = head_name(model)
    return [n for n, m in model.named_modules() if isinstance(m, kinds) and n != head]


def body_linears(model: nn.Module) -> list[str]:
    """Names of the linear layers, without the classifier."""
    return [n for n in body_weights(model) if isinstance(model.get_submodule(n), nn.Linear)]
