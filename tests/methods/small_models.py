"""Two models with all kinds of layers, tiny: a ViT of timm, and a convolutional net."""

from collections import OrderedDict

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_benchmark import toy_pretrained

from gmixout.methods import METHODS, Finetuning, Method, get_method

CLASSES = 3

OPTIONS = {
    "lp_ft": {"probe_steps": 2},
    "ema": {"decay": 0.5},
    "swa": {"every": 2},
    "lora": {"rank": 2},
    "dora": {"rank": 2},
    "shira": {"rank": 2},
    "gmixout": {"resample_every": 2},
}
"""What defaults for real models are too long or too large for."""

ALL = {name: get_method(name, **OPTIONS.get(name, {})) for name in METHODS}

TRAINED = [name for name, method in ALL.items() if method.trained == method]


def vit() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = timm.models.VisionTransformer(
            img_size=8, patch_size=4, in_chans=1, num_classes=CLASSES, embed_dim=8, depth=2,
            num_heads=2, proj_drop_rate=0.1,
        )  # fmt: skip
        nn.init.normal_(model.head.weight, std=0.1)
        return model


def cnn() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layers = {
            "conv": nn.Conv2d(1, 8, 3, bias=False),
            "norm": nn.BatchNorm2d(8),
            "relu": nn.ReLU(),
            "grouped": nn.Conv2d(8, 8, 3, groups=4),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flat": nn.Flatten(),
            "hidden": nn.Linear(8, 6),
            "dropout": nn.Dropout(0.1),
            "head": nn.Linear(6, CLASSES),
        }
        return nn.Sequential(OrderedDict(layers))


MODELS = {"vit": vit, "cnn": cnn}


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(6, 1, 8, 8, generator=generator)
    return images, torch.randint(CLASSES, (6,), generator=generator)


class Run:
    """A finetuning by hand: its model in training mode, its optimizer, and the steps done."""

    def __init__(
        self, method: Method | str, model: nn.Module, seed: int = 0, lr: float = 0.02, **options
    ) -> None:
        method = ALL[method] if isinstance(method, str) else method
        self.model = model.train()
        self.finetuning: Finetuning = method.start(toy_pretrained(self.model), seed)
        groups = self.finetuning.param_groups(lr=lr, head_lr=lr / 2)
        self.trainable = sum(p.numel() for group in groups for p in group["params"])
        self.optimizer = self.finetuning.bind(torch.optim.AdamW(groups, **options))
        self.done = 0

    def steps(self, count: int) -> "Run":
        with torch.random.fork_rng(devices=[]):
            for _ in range(count):
                self.done += 1
                torch.manual_seed(self.done)  # dropout
                images, labels = batch(self.done)
                loss = functional.cross_entropy(self.model(images), labels)
                assert loss.isfinite()
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
        return self

    def states(self) -> tuple[dict, dict, dict]:
        return (
            self.model.state_dict(),
            self.finetuning.state_dict(),
            self.optimizer.state_dict(),
        )

    def load(self, states: tuple[dict, dict, dict]) -> None:
        for part, state in zip((self.model, self.finetuning, self.optimizer), states, strict=True):
            part.load_state_dict(state)


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    """Keys whose values differ in a bit."""
    assert list(a) == list(b)
    return {key for key in a if not torch.equal(a[key], b[key])}


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}
