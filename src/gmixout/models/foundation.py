"""What the families give and are given, and the heads that all of them share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn

from gmixout.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image


Head: TypeAlias = Literal["zero_shot", "pretrained", "random", "linear_probe"]


@dataclass(frozen=True)
class Foundation:
    """A pretrained model with a head for some classes, and the pictures it wants to see."""

    model: nn.Module
    """Images `[B, 3, H, W]` to logits `[B, classes]`; eval mode, float32, on the CPU."""
    head: Head
    """Where the weights of the classifier come from."""
    transform: Callable[["Image"], Tensor]
    """The checkpoint's own preprocessing for evaluation: an RGB picture to `[3, H, W]`."""
    size: tuple[int, int]
    """Height and width of the model's input, in pixels."""
    mean: tuple[float, float, float]
    """What is subtracted from each channel of a picture in [0, 1]."""
    std: tuple[float, float, float]
    """What the channels are divided by then."""
    interpolation: str
    """How pictures are resized: bicubic, bilinear, ..."""
    name: str
    """The name it was asked for by."""
    description: str
    """Where weights and head come from; the licence, where the library knows it."""


@dataclass(frozen=True)
class Request:
    """What a family is asked to load; see `load_foundation`."""

    name: str
    source: str
    """What the library knows the model by: a name, or a local folder."""
    weights: Path | None
    """Local weights; they exist."""
    classes: tuple[str, ...]
    head: Literal["zero_shot", "random"] | None
    templates: tuple[str, ...] | None
    seed: int
    device: torch.device

    @property
    def folder(self) -> Path | None:
        """The source, where it is a local folder."""
        path = Path(self.source).expanduser()
        return path if path.is_dir() else None

    def refuse_zero_shot(self) -> None:
        """Refuses a zero-shot head, for a model without a text tower.

        Raises:
            ConfigError: One was asked for.
        """
        if self.head == "zero_shot":
            raise ConfigError(
                f"head=zero_shot: {self.name} has no text tower to make a head of. Use head=random "
                "(and probe it first), or a CLIP model such as open_clip:ViT-B-16/openai"
            )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Models are built on random numbers of their own; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        # manual_seed would seed the generators of GPUs, too
        torch.default_generator.manual_seed(seed)
        yield


def draw_head(layer: nn.Module, seed: int) -> None:
    """Gives a classifier random weights: uniform within `1/sqrt(fan_in)`, biases zero.

    Args:
        layer: Has `weight` `[classes, ...]`, and perhaps a `bias`.
        seed: The draw depends on nothing else.
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    bound = weight[0].numel() ** -0.5
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
        if isinstance(bias, Tensor):
            bias.zero_()
