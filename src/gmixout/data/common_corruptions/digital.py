"""Digital: contrast, elastic, pixelate, JPEG and saturate."""

from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F

from gmixout.data.common_corruptions.filters import Array, to_array, to_picture
from gmixout.errors import needs


def contrast(pixels: Array, share: float, generator: np.random.RandomState) -> Array:
    """Reduce contrast: move each channel towards its mean over the image."""
    del generator
    mean = pixels.mean(axis=(0, 1), dtype=np.float64)
    nearer: Array = (pixels - mean) * share + mean
    return nearer


def elastic_transform(
    pixels: Array, constant: tuple[float, float, float], generator: np.random.RandomState
) -> Array:
    """Stretch by a random affine map of three corners, then by a smooth random displacement."""
    amplitude, smoothness, jitter = constant
    height, width = pixels.shape[:2]
    reach = max(min(height, width) // 3, 1)
    corners = (width // 2, height // 2) + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + generator.uniform(-jitter, jitter, (3, 2))
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    places = np.stack([across, down], axis=-1).astype(np.float64)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    planes = _at(places @ back[:2] + back[2], planes, mirror_pixels=True)
    if amplitude:
        draw = generator.uniform(-1, 1, (2, height, width))
        places = places + amplitude * np.moveaxis(_smooth_field(draw, smoothness), 0, -1)
        planes = _at(places, planes, mirror_pixels=False)
    return planes[0].permute(1, 2, 0).numpy()


def _at(places: Array, planes: torch.Tensor, mirror_pixels: bool) -> torch.Tensor:
    """Interpolate planes `[1, C, H, W]` linearly at `places` `[H, W, 2]` (x, y in pixels).

    Beyond the edge they are mirrored, at the middle of the last pixel (`mirror_pixels`) or at its
    outer border.
    """
    sides = np.array(planes.shape[:1:-1])
    if mirror_pixels:
        grid = 2 * places / np.maximum(sides - 1, 1) - 1
    else:
        grid = (2 * places + 1) / sides - 1
    return F.grid_sample(
        planes,
        torch.from_numpy(grid.astype(np.float32))[None],
        padding_mode="reflection",
        align_corners=mirror_pixels,
    )


def _smooth_field(field: Array, deviation: float) -> Array:
    """Blur planes `[C, H, W]` by a Gaussian to three deviations, mirrored at the border.

    Mirroring makes it a product in cosine space, whatever its width: at 224 pixels the published
    kernel has a thousand.
    """
    with needs("scipy", "train"):
        from scipy.fft import dctn, idctn
    offsets = np.arange(-int(3 * deviation + 0.5), int(3 * deviation + 0.5) + 1)
    kernel = np.exp(-((offsets / deviation) ** 2) / 2)
    kernel /= kernel.sum()
    spectrum = dctn(field, axes=(1, 2))
    for axis, side in enumerate(field.shape[1:]):
        response = np.cos(np.pi / side * np.outer(np.arange(side), offsets)) @ kernel
        spectrum *= np.expand_dims(response, 1 - axis)
    blurred: Array = idctn(spectrum, axes=(1, 2))
    return blurred


def pixelate(pixels: Array, share: float, generator: np.random.RandomState) -> Array:
    """Reduce and enlarge again, by the area that pixels cover."""
    from PIL import Image

    del generator
    picture = to_picture(pixels)
    small = [max(int(side * share), 1) for side in picture.size]
    box = Image.Resampling.BOX
    return to_array(picture.resize((small[0], small[1]), box).resize(picture.size, box))


def jpeg_compression(pixels: Array, quality: int, generator: np.random.RandomState) -> Array:
    """Compress as a JPEG of low quality."""
    from PIL import Image

    del generator
    stored = BytesIO()
    to_picture(pixels).save(stored, "JPEG", quality=quality)
    with Image.open(stored) as opened:
        return to_array(opened)


def saturate(
    pixels: Array, constant: tuple[float, float], generator: np.random.RandomState
) -> Array:
    """Scale and raise HSV's saturation; keep hue and value.

    Grey has no hue and is taken for red, as in the published images: where saturation is raised,
    it turns reddish.
    """
    del generator
    factor, addend = constant
    value = pixels.max(axis=2, keepdims=True)
    chroma = value - pixels.min(axis=2, keepdims=True)
    grey = chroma == 0
    saturation = chroma / np.where(value == 0, 1, value)
    red = np.array([0, 1, 1], np.float32)
    distance = np.where(grey, red, (value - pixels) / np.where(grey, 1, chroma))
    coloured: Array = value * (1 - np.clip(saturation * factor + addend, 0, 1) * distance)
    return coloured
