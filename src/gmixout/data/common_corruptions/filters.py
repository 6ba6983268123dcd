"""Building blocks of several corruptions: blurs, zooms and streaks."""

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from gmixout.errors import needs

if TYPE_CHECKING:
    from PIL.Image import Image

Array: TypeAlias = np.ndarray[Any, Any]
"""An image `[H, W, 3]`, or a plane of it `[H, W]`; full range is 0 to 1."""

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in a grey value."""


def ndimage() -> Any:
    """Import `scipy.ndimage` on use.

    Raises:
        DataError: scipy is not there.
    """
    with needs("scipy", "train"):
        from scipy import ndimage
    return ndimage


def to_array(picture: "Image") -> Array:
    """Return an image as an array of float32."""
    return np.asarray(picture.convert("RGB"), np.float32) / 255


def to_bytes(pixels: Array) -> Array:
    """Return an array as uint8, clipped and truncated (not rounded), as in the published files."""
    # what is added is above the error of float32, which would cut a whole number to the one below
    return (np.clip(pixels, 0, 1) * 255 + 1e-3).astype(np.uint8)


def to_picture(pixels: Array) -> "Image":
    """Return an array as an image."""
    from PIL import Image

    return Image.fromarray(to_bytes(pixels))


def smooth(pixels: Array, deviation: float) -> Array:
    """Blur by a Gaussian in the plane, to four deviations; edge pixels are repeated beyond it."""
    around = (deviation, deviation, 0)[: pixels.ndim]
    blurred: Array = ndimage().gaussian_filter(pixels, around, mode="nearest", truncate=4)
    return blurred


def streak(pixels: Array, radius: int, deviation: float, angle: float) -> Array:
    """Average each pixel along a ray from it, by half a Gaussian, in steps of a pixel.

    This is ImageMagick's motion blur, with its rounding of the ray to whole pixels.

    Args:
        pixels: `[H, W]` or `[H, W, 3]`.
        radius: Half the number of steps.
        deviation: Standard deviation of the Gaussian, in pixels.
        angle: Of the ray, in degrees, clockwise from the right.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-((steps / deviation) ** 2) / 2)
    weights /= weights.sum()
    turn = math.radians(angle)
    right = np.ceil(steps * math.cos(turn) - 0.5).astype(int)
    down = np.ceil(steps * math.sin(turn) - 0.5).astype(int)
    reach = len(steps)
    height, width = pixels.shape[:2]
    padding = ((reach, reach), (reach, reach), (0, 0))[: pixels.ndim]
    padded = np.pad(pixels, padding, mode="edge")
    blurred = np.zeros_like(pixels)
    for weight, x, y in zip(weights.astype(pixels.dtype), right + reach, down + reach, strict=True):
        blurred += weight * padded[y : y + height, x : x + width]
    return blurred


def zoom(pixels: Tensor, factor: float) -> Tensor:
    """Return the middle of planes `[N, C, H, W]`, enlarged linearly to their size; factor >= 1."""
    sides = pixels.shape[-2:]
    kept = [math.ceil(side / factor) for side in sides]
    top, left = ((side - keep) // 2 for side, keep in zip(sides, kept, strict=True))
    middle = pixels[..., top : top + kept[0], left : left + kept[1]]
    enlarged = [round(keep * factor) for keep in kept]
    large = F.interpolate(middle, enlarged, mode="bilinear", align_corners=True)
    top, left = ((have - side) // 2 for have, side in zip(enlarged, sides, strict=True))
    return large[..., top : top + sides[0], left : left + sides[1]]
