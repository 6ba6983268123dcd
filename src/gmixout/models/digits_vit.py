"""The small model of the digits benchmark, which comes with the package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gmixout.draws import seeded
from gmixout.errors import needs
from gmixout.models.pretrained import Pretrained

SIZE = 28
"""Height and width of its images."""
WEIGHTS = Path(__file__).with_name("digits_vit.safetensors")


def architecture() -> nn.Module:
    """Return the vision transformer with new weights, drawn from torch's global generator."""
    with needs("timm", "vision"):
        from timm.models import VisionTransformer
    return VisionTransformer(
        img_size=SIZE,
        patch_size=7,
        in_chans=1,
        num_classes=10,
        embed_dim=96,
        depth=4,
        num_heads=4,
    )


def digits_vit() -> Pretrained:
    """Load a vision transformer of 0.45 M parameters that reads drawn digits.

    Pretrained by `benchmarks/pretrain_digits.py` on `gmixout.data.glyphs.PRETRAINING_FONTS`; its
    log is `benchmarks/results/pretrain_digits.log`. It takes grey images `[1, 28, 28]` in [0, 1].

    Raises:
        ConfigError: timm is not installed.
    """
    with seeded(0):  # the new weights are overwritten at once
        model = architecture()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return Pretrained(
        model=model.eval(),
        head="head",
        classes=tuple("0123456789"),
        head_from="pretrained",
        name="digits_vit",
        description="weights: benchmarks/pretrain_digits.py; the pretrained classifier",
        architecture={"family": "digits_vit"},
    )


def rebuild_digits_vit(values: Mapping[str, Any], classes: tuple[str, ...]) -> Pretrained:
    """Return the same model with new weights, which also takes pictures.

    Args:
        values: `Pretrained.architecture`, which says nothing more.
        classes: The class names.

    Raises:
        ConfigError: timm is not installed.
    """
    return Pretrained(
        model=architecture().eval(),
        head="head",
        classes=classes,
        transform=grey,
        size=(SIZE, SIZE),
        name=values["family"],
        architecture=values,
    )


def grey(image: Any) -> Tensor:
    """Return an image of Pillow as `[1, 28, 28]` in [0, 1]."""
    pixels = np.asarray(image.convert("L").resize((SIZE, SIZE)), dtype=np.float32)
    return torch.from_numpy(pixels)[None] / 255
