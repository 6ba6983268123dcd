"""The ways to finetune that the benchmarks put side by side, and what they are put on."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import peft
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

import gmixout

RESAMPLE_EVERY = 10
LORA_RANK = 8


@dataclass(frozen=True)
class Trainer:
    """A model made ready for one way to finetune it, with the optimizer of what it trains."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    masked: gmixout.Masked | None = None

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float | bool]:
        """Trains one step on `images [B, C, H, W]`, `labels [B]`.

        Returns:
            Seconds of the step by the clock ("wall") and of the processor ("cpu"), seconds of the
            optimizer's part ("update"), and whether the masks were drawn anew in it ("redraw").
        """
        period = self.masked.period if self.masked else 0
        synchronize(images.device)
        started, cpu_started = time.perf_counter(), time.process_time()
        F.cross_entropy(self.model(images), labels).backward()
        synchronize(images.device)
        update_started = time.perf_counter()
        self.optimizer.step()
        synchronize(images.device)
        updated = time.perf_counter()
        self.optimizer.zero_grad()
        return {
            "wall": time.perf_counter() - started,
            "cpu": time.process_time() - cpu_started,
            "update": updated - update_started,
            "redraw": self.masked is not None and self.masked.period > period,
        }


class DenseMixout(nn.Module):
    """Mixout as its paper writes it (Lee, Cho, Kang, ICLR 2020, eq. 5), on one weight.

    `(M * W + (1 - M) * A - p * A) / (1 - p)` with a new mask M in each forward and the pretrained
    weight A, left to autograd.
    """

    def __init__(self, weight: Tensor, mask_rate: float) -> None:
        super().__init__()
        self.mask_rate = mask_rate
        self.generator = torch.Generator(weight.device).manual_seed(0)
        self.register_buffer("anchor", weight.detach().clone())

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the mixed weight, of the weight's shape."""
        p = self.mask_rate
        mask = torch.empty_like(weight).bernoulli_(1 - p, generator=self.generator)
        mixed = mask * weight + (1 - mask) * self.anchor - p * self.anchor
        return mixed / (1 - p)


def start_full(model: nn.Module, density: float) -> Trainer:
    """Full finetuning."""
    del density
    return Trainer(model, torch.optim.AdamW(model.parameters()))


def start_linear_probe(model: nn.Module, density: float) -> Trainer:
    """The classifier alone."""
    del density
    model.requires_grad_(False)
    head = model.get_classifier().requires_grad_(True)
    return Trainer(model, torch.optim.AdamW(head.parameters()))


def start_floor(model: nn.Module, density: float) -> Trainer:
    """All but the weights that GMixout masks: what no method that back-propagates goes below."""
    del density
    for name in body_weights(model):
        model.get_submodule(name).weight.requires_grad_(False)
    return Trainer(model, torch.optim.AdamW(p for p in model.parameters() if p.requires_grad))


def start_lora(model: nn.Module, density: float) -> Trainer:
    """LoRA on every linear layer of the blocks, with the classifier trained (peft)."""
    del density
    linears = [
        name for name in body_weights(model) if isinstance(model.get_submodule(name), nn.Linear)
    ]
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(r=LORA_RANK, target_modules=linears, modules_to_save=[head_name(model)]),
    )
    return Trainer(adapted, torch.optim.AdamW(p for p in adapted.parameters() if p.requires_grad))


def start_dense_mixout(model: nn.Module, density: float) -> Trainer:
    """Mixout with dense masks on the weights that GMixout masks."""
    for name in body_weights(model):
        module = model.get_submodule(name)
        parametrize.register_parametrization(
            module, "weight", DenseMixout(module.weight, 1 - density), unsafe=True
        )
    return Trainer(model, torch.optim.AdamW(model.parameters()))


def start_gmixout(structure: str) -> Callable[[nn.Module, float], Trainer]:
    """GMixout with masks of one structure, all else at its defaults."""

    def start(model: nn.Module, density: float) -> Trainer:
        config = gmixout.GMixout(
            mask_rate=1 - density, resample_every=RESAMPLE_EVERY, structure=structure
        )
        masked = gmixout.attach(model, config)
        optimizer = torch.optim.AdamW(masked.param_groups(lr=1e-3))
        return Trainer(model, masked.bind(optimizer), masked)

    return start


METHODS: dict[str, Callable[[nn.Module, float], Trainer]] = {
    "full": start_full,
    "linear_probe": start_linear_probe,
    "floor": start_floor,
    "lora": start_lora,
    "dense_mixout": start_dense_mixout,
    "gmixout_element": start_gmixout("element"),
    "gmixout_row": start_gmixout("row"),
    "gmixout_column": start_gmixout("column"),
    "gmixout_block": start_gmixout("block"),
}


def head_name(model: nn.Module) -> str:
    """The name of a timm model's classifier."""
    head = model.get_classifier()
    return next(name for name, module in model.named_modules() if module is head)


def body_weights(model: nn.Module) -> list[str]:
    """Names of the linear and convolutional layers, without the classifier."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    head = head_name(model)
    return [n for n, m in model.named_modules() if isinstance(m, kinds) and n != head]


def build(name: str, device: torch.device) -> nn.Module:
    """A timm model with random weights, float32; the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name).train().to(device)


def make_batch(model: nn.Module, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images `[size, C, H, W]` of the model's size and labels `[size]`."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, *model.default_cfg["input_size"], generator=generator)
    labels = torch.randint(model.num_classes, (size,), generator=generator)
    return images.to(device), labels.to(device)


def synchronize(device: torch.device) -> None:
    """Waits for a CUDA device; does nothing on others."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
