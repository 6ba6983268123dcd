"""A pretrained model, a request for one, and random heads."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from gmixout.core.selection import find_head
from gmixout.data.prompt_files import Templates
from gmixout.errors import ConfigError

HeadFrom: TypeAlias = Literal["zero_shot", "pretrained", "random", "linear_probe"]


def as_it_is(image: Any) -> Tensor:
    """Return an image that is the model's input already."""
    assert isinstance(image, Tensor)
    return image


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model with a head for some classes, and its preprocessing.

    A model of your own needs the first three fields; the others describe what a library loads.

    Raises:
        ConfigError: `head` is not in the model, or there are no classes.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> start = Pretrained(model, head="3", classes=("no", "yes"))
        >>> start.heads
        ('3',)
        >>> start.copy().model is start.model
        False
    """

    model: nn.Module
    """Images `[B, C, H, W]` to logits `[B, classes]`; eval mode, float32, on the CPU until it is
    trained."""
    head: str | tuple[str, ...]
    """Name of the layer in `model` that scores the classes, of several layers all names; `()`: the
    model has no such layer."""
    classes: tuple[str, ...]
    """Class names; logits come in this order."""
    transform: Callable[[Any], Tensor] = as_it_is
    """The checkpoint's own preprocessing for evaluation: an RGB image to `[3, H, W]`."""
    size: tuple[int, int] | None = None
    """Height and width of the model's input, in pixels."""
    mean: tuple[float, float, float] | None = None
    """Mean subtracted from each channel of an image in [0, 1]."""
    std: tuple[float, float, float] | None = None
    """Standard deviation that each channel is then divided by."""
    interpolation: str | None = None
    """Interpolation of the resize: bicubic, bilinear, ..."""
    head_from: HeadFrom = "pretrained"
    """Origin of the head's weights."""
    name: str = "own"
    """The name it was requested by."""
    description: str = ""
    """Origin of weights and head; the licence, if the library knows it."""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that `gmixout.models.rebuild` makes the same model of, without its weights and
    preprocessing in the same way; empty: it cannot."""

    def __post_init__(self) -> None:
        """Check that the head is in the model."""
        if self.head is None:  # which find_head would look for
            raise ConfigError(
                "head=None must be the name of the layer that scores the classes, or () if the "
                "model has none"
            )
        find_head(self.model, self.head)
        if isinstance(self.classes, str) or not self.classes:
            raise ConfigError(f"classes={self.classes!r} must be a tuple of class names")

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of all layers that score the classes."""
        return (self.head,) if isinstance(self.head, str) else tuple(self.head)

    def copy(self) -> "Pretrained":
        """Return the same with a copy of the model, safe to change."""
        return replace(self, model=copy.deepcopy(self.model))


@dataclass(frozen=True)
class Request:
    """A request to a family's loader; see `load_pretrained`."""

    name: str
    source: str
    """The library's identifier of the model: a name, or a local folder."""
    weights: Path | None
    """Local weights; they exist."""
    classes: tuple[str, ...]
    head: Literal["zero_shot", "random"] | None
    templates: Templates | None
    seed: int
    device: torch.device
    image_size: int | None
    """Height and width of the input; None: the model's own."""
    origin: str = ""
    """Where the weights are from, if the place of their file does not say it."""
    texts: tuple[str, ...] | None = None
    """The text of each class in prompts; None: see `prompts.class_texts`."""

    @property
    def title(self) -> str:
        """The name, and the image size if it is not the model's own, for messages."""
        size = self.image_size
        return self.name if size is None else f"{self.name} at {size} x {size} pixels"

    @property
    def folder(self) -> Path | None:
        """The source, where it is a local folder."""
        path = Path(self.source).expanduser()
        return path if path.is_dir() else None

    def repository(self, example: str) -> str | None:
        """Return a folder or hub repository as timm and open_clip name it; None: it is neither.

        Raises:
            ConfigError: It is, and weights are given beside it; `example` is the way to give them.
        """
        if self.folder is None and not self.source.startswith(("hf-hub:", "local-dir:")):
            return None
        if self.weights is not None:
            raise ConfigError(
                f"{self.name}: a folder or a repository brings its own weights; give a file to "
                f"{example}"
            )
        return self.source if self.folder is None else f"local-dir:{self.folder}"

    def refuse_zero_shot(self) -> None:
        """Refuse a zero-shot head for a model without a text tower.

        Raises:
            ConfigError: One was asked for.
        """
        if self.head == "zero_shot":
            raise ConfigError(
                f"head=zero_shot: {self.name} has no text tower to make a head from. Use "
                "head=random (and probe it first), or a CLIP model, for example "
                "open_clip:ViT-B-16/openai"
            )


def draw_head(layer: nn.Module, seed: int) -> None:
    """Give a classifier random weights: uniform within `1/sqrt(fan_in)`, biases zero.

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
