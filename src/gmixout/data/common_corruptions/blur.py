"""Blurs: out of focus, through glass, in motion, zooming, and Gaussian."""

import math

import numpy as np
import torch

from gmixout.data.common_corruptions.filters import (
    Array,
    ndimage,
    smooth,
    streak,
    to_bytes,
    zoom,
)


def disk(radius: float, deviation: float) -> Array:
    """Return a lens's kernel `[K, K]`, whose sum is 1: a disk whose edge is smoothed.

    The published one lies on a grid of 17 pixels (or 2 radius + 1) and is mirrored at its border
    when smoothed, so that at radius 8 and 10 its sum is 1.01; elsewhere the two are the same.
    """
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    reach = math.floor(radius) + len(taps) // 2
    offsets = np.arange(-reach, reach + 1) ** 2
    kernel = (offsets[:, None] + offsets <= radius**2).astype(np.float64)
    edge = np.exp(-((taps / deviation) ** 2) / 2)
    for axis in (0, 1):
        kernel = ndimage().convolve1d(kernel, edge / edge.sum(), axis, mode="constant")
    normed: Array = kernel / kernel.sum()
    return normed


def defocus_blur(
    pixels: Array, constant: tuple[float, float], generator: np.random.RandomState
) -> Array:
    """Blur out of focus: a mean over a disk; the image is mirrored at its edges."""
    del generator
    kernel = disk(*constant)
    reach = len(kernel) // 2
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    planes = torch.from_numpy(padded).permute(2, 0, 1)
    # a circular convolution is the plain one wherever the kernel does not reach over the border
    spectrum = torch.fft.rfft2(torch.from_numpy(kernel.astype(np.float32)), planes.shape[1:])
    blurred = torch.fft.irfft2(torch.fft.rfft2(planes) * spectrum, planes.shape[1:])
    inside: Array = blurred[:, 2 * reach :, 2 * reach :].permute(1, 2, 0).numpy()
    return inside


def glass_blur(
    pixels: Array, constant: tuple[float, int, int], generator: np.random.RandomState
) -> Array:
    """Blur through frosted glass: swap each pixel with a neighbour, between two Gaussian blurs.

    The published program means to swap pixels, one after the other from the last to the first,
    with a neighbour; but its swap of two views of one array only copies the neighbour, and all
    published images are made so. This is that copying, in the same order, all at once.
    """
    deviation, reach, times = constant
    shuffled = to_bytes(smooth(pixels, deviation))
    height, width = shuffled.shape[:2]
    flat = shuffled.reshape(-1, 3)
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    for _ in range(times):
        shift = generator.randint(-reach, reach, (len(rows), len(columns), 2))
        source = np.arange(height * width).reshape(height, width)
        moved = rows[:, None] + shift[..., 1], columns + shift[..., 0]
        source[np.ix_(rows, columns)] = moved[0] * width + moved[1]
        flat = flat[_settled(source.ravel())]
    return smooth(flat.reshape(shuffled.shape).astype(np.float32) / 255, deviation)


def _settled(source: Array) -> Array:
    """Return where each pixel's value comes from if all are copied in turn, last to first.

    Args:
        source: `[N]`, the pixel that each copies; its own place if it does not.

    Returns:
        `[N]`: a source further on has been overwritten before it is copied, so it counts for what
        it copied itself, and so on.
    """
    place = np.arange(len(source))
    # the last pixel on the way whose own source is not yet overwritten; halves the way each time
    last = np.where(source > place, source, place)
    while True:
        further = last[last]
        if np.array_equal(further, last):
            return source[last]
        last = further


def motion_blur(
    pixels: Array, constant: tuple[int, float], generator: np.random.RandomState
) -> Array:
    """Blur by motion, up to 45 degrees from the horizontal."""
    blurred = streak(pixels, *constant, angle=generator.uniform(-45, 45))
    # ImageMagick rounds to whole levels
    levels: Array = np.rint(blurred * 255)
    return levels / 255


def zoom_blur(
    pixels: Array, constant: tuple[float, float], generator: np.random.RandomState
) -> Array:
    """Blur by zooming: return the mean of the image and its enlargements."""
    del generator
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    factors = np.arange(1, *constant)
    total = picture.clone()
    for factor in factors:
        total += zoom(picture, factor)
    mean: Array = (total[0] / (len(factors) + 1)).permute(1, 2, 0).numpy()
    return mean


def gaussian_blur(pixels: Array, deviation: float, generator: np.random.RandomState) -> Array:
    """Apply a Gaussian blur."""
    del generator
    return smooth(pixels, deviation)
