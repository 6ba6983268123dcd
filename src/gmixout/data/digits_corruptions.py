"""The digits benchmark's corruptions: of grey images, at three severities.

Each kind is a function of images `[N, 1, H, W]` in [0, 1], a severity (1, 2, 3) and a generator,
and gives images of the same shape and range. The kinds to report and the kinds to develop on are
separate tables.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gmixout.data.base import LabelledImages
from gmixout.errors import needs

_Corruption = Callable[[Tensor, int, torch.Generator], Tensor]
DIGITS_SEVERITIES = (1, 2, 3)


def _torchvision() -> Any:
    """Import `torchvision.transforms.v2.functional` on use."""
    with needs("torchvision", "vision"):
        from torchvision.transforms.v2 import functional
    return functional


def _noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    scale = (0.15, 0.3, 0.45)[severity - 1]
    return images + scale * torch.empty_like(images).normal_(generator=generator)


def _blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    del generator
    functional = _torchvision()
    blurred: Tensor = functional.gaussian_blur(images, [15, 15], [1.0 + 0.75 * severity])
    return blurred


def _fade(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    del generator
    lift, contrast = ((0.2, 0.5), (0.3, 0.3), (0.4, 0.2))[severity - 1]
    return lift + contrast * images


def _rotate(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    functional = _torchvision()
    angle = (15.0, 25.0, 35.0)[severity - 1]
    left = functional.rotate(images, angle, functional.InterpolationMode.BILINEAR)
    right = functional.rotate(images, -angle, functional.InterpolationMode.BILINEAR)
    return torch.where(_coin(images, generator), left, right)


def _occlude(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Draw a grey square somewhere over the middle of the image."""
    side = (6, 8, 10)[severity - 1]
    count, _, height, width = images.shape
    top = torch.randint(4, height - side - 3, (count, 1, 1, 1), generator=generator)
    left = torch.randint(4, width - side - 3, (count, 1, 1, 1), generator=generator)
    row, column = torch.arange(height)[:, None], torch.arange(width)
    inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
    return torch.where(inside, 0.5, images)


def _shade(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Lighten the paper towards one side, under the ink."""
    ramp = torch.linspace(0, (0.4, 0.6, 0.75)[severity - 1], images.shape[-1])
    paper = torch.where(_coin(images, generator), ramp, ramp.flip(0))
    return paper + (1 - paper) * images


def _salt_and_pepper(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    share = (0.05, 0.1, 0.2)[severity - 1]
    draw = torch.empty_like(images).uniform_(generator=generator)
    return torch.where(draw < share / 2, 0.0, torch.where(draw > 1 - share / 2, 1.0, images))


def _pixelate(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    del generator
    small = F.adaptive_avg_pool2d(images, (9, 7, 6)[severity - 1])
    return F.interpolate(small, images.shape[-2:], mode="nearest")


def _shear(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    functional = _torchvision()
    angle = (15.0, 25.0, 35.0)[severity - 1]
    bilinear = functional.InterpolationMode.BILINEAR
    left, right = (
        functional.affine(images, 0.0, [0, 0], 1.0, [a, 0.0], bilinear) for a in (angle, -angle)
    )
    return torch.where(_coin(images, generator), left, right)


def _thicken(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    del generator
    thick = F.max_pool2d(images, 3, stride=1, padding=1)
    thickest = F.max_pool2d(images, 5, stride=1, padding=2)
    return torch.lerp(thick, thickest, (severity - 1) / 2)


def _coin(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw true or false for each image, `[N, 1, 1, 1]`."""
    return torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5


REPORTED: dict[str, _Corruption] = {
    "noise": _noise,
    "blur": _blur,
    "fade": _fade,
    "rotate": _rotate,
    "occlude": _occlude,
    "shade": _shade,
}
DEV: dict[str, _Corruption] = {
    "salt_and_pepper": _salt_and_pepper,
    "pixelate": _pixelate,
    "shear": _shear,
    "thicken": _thicken,
}


def corrupt_digits(
    clean: LabelledImages, kinds: dict[str, _Corruption], severity: int, seed: int
) -> LabelledImages:
    """Corrupt every image by one kind, taking the kinds in turn.

    Args:
        clean: images `[1, H, W]` in [0, 1], in no particular order.
        kinds: `REPORTED` or `DEV`.
        severity: 1, 2 or 3.
        seed: of the draws; image `i` meets the same kind at every severity.

    Returns:
        As many images, in the same order, with the same labels.
    """
    images = clean.images.clone()
    generator = torch.Generator().manual_seed(seed)
    for start, corruption in enumerate(kinds.values()):
        part = slice(start, None, len(kinds))
        images[part] = corruption(images[part], severity, generator).clamp(0, 1)
    return LabelledImages(images, clean.labels)
