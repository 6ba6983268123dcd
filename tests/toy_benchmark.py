"""A benchmark that trains in a blink: blurred one-hot images, a two-layer model with dropout."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gmixout.bench import benchmarks, task
from gmixout.bench.benchmarks import Start
from gmixout.data import Benchmark
from gmixout.models import Pretrained

CLASSES = 4


class Toy(Dataset[tuple[Tensor, int]]):
    """Noisy images `[1, 3, 3]`; the environment can make loading slow, which changes no value."""

    def __init__(self, size: int, noise: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(CLASSES, (size,), generator=generator)
        images = torch.eye(9)[2 * self.labels].reshape(size, 1, 3, 3)
        self.images = images + noise * torch.randn(images.shape, generator=generator)
        self.delay = float(os.environ.get("TOY_SECONDS_AN_IMAGE", "0"))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.delay:
            time.sleep(self.delay)
        return self.images[index], int(self.labels[index])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(9, 12)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(torch.tanh(self.body(images.flatten(1)))))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Net().eval()


def toy_pretrained(model: nn.Module | None = None, head: Any = "head") -> Pretrained:
    return Pretrained(net() if model is None else model, head, classes=tuple("abcd"), name="toy")


def toy(**changes: Any) -> Benchmark:
    sets = {
        "name": "toy",
        "classes": tuple("abcd"),
        "train": Toy(24, 0.3, seed=1),
        "id_val": Toy(40, 0.3, seed=2),
        "id_test": Toy(60, 0.3, seed=3),
        "shifts": {"noise/1": Toy(50, 0.6, seed=4), "noise/2": Toy(50, 0.9, seed=5)},
    }
    return Benchmark(**(sets | changes))


def toy_task(model: nn.Module | None = None, **changes: Any) -> Start:
    """What `--benchmark toy_benchmark:toy_task` loads."""
    return toy(**changes), toy_pretrained(model)


def install(monkeypatch: Any, make: Callable[[], Start] = toy_task) -> None:
    """Makes `--benchmark toy` known for one test; what an earlier one loaded is forgotten."""
    monkeypatch.setitem(benchmarks.BENCHMARKS, "toy", make)
    task._load.cache_clear()


def register() -> None:
    """Makes `--benchmark toy` known to this process."""
    benchmarks.BENCHMARKS["toy"] = toy_task
