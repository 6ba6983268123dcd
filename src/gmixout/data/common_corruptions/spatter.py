"""Spatter: drops of water or mud on the lens."""

import math
from typing import Any, TypeAlias

import numpy as np

from gmixout.data.common_corruptions.filters import Array, ndimage, smooth, to_bytes

_WATER = np.array([175, 238, 238], np.float32) / 255
_MUD = np.array([63, 42, 20], np.float32) / 255

Drops: TypeAlias = tuple[float, float, float, float, float, bool]
"""Mean, deviation and smoothness of the liquid, threshold, strength, whether it is mud."""


def spatter(pixels: Array, constant: Drops, generator: np.random.RandomState) -> Array:
    """Add water that shines at the edges of its drops, or mud.

    Distances to a drop's edge are exact, where the published program's are those of a 5 x 5 mask.
    """
    mean, deviation, blur, threshold, strength, mud = constant
    noise = mean + deviation * generator.standard_normal(pixels.shape[:2])
    liquid = smooth(noise, blur)
    if mud:
        cover = smooth((liquid > threshold).astype(np.float32), strength)[..., None]
        cover = np.where(cover < 0.8, 0, cover)
        covered: Array = pixels * (1 - cover) + _MUD * cover
        return covered
    depth = to_bytes(np.where(liquid < threshold, 0, liquid))
    if not depth.any():
        return pixels  # no drop fell; the published program divides by zero
    shine = depth * _relief(depth)
    wet: Array = pixels + strength * (shine / max(shine.max(), 1))[..., None] * _WATER
    return wet


def _relief(depth: Array) -> Array:
    """Light drops `[H, W]` from the side, by the distance to their edges."""
    filters = ndimage()
    ground = ~edges(depth, low=50, high=150)
    # without an edge everything is far from one
    distance = np.full(depth.shape, 20.0)
    if not ground.all():
        distance = np.minimum(distance, filters.distance_transform_edt(ground))
    distance = filters.uniform_filter(distance, 3, mode="mirror")
    levels = equalised(distance.astype(np.uint8)).astype(np.float32)
    light = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    lit = np.clip(filters.correlate(levels, light, mode="mirror"), 0, 255)
    blurred: Array = np.rint(filters.uniform_filter(lit, 3, mode="mirror"))
    return blurred


def equalised(levels: Array) -> Array:
    """Equalize the histogram of uint8 `[H, W]`, so that all levels are equally frequent."""
    counts = np.bincount(levels.ravel(), minlength=256)
    first = counts[levels.min()]
    if first == levels.size:
        return levels
    rank = np.maximum(counts.cumsum() - first, 0)
    table = np.rint(rank * (255 / (levels.size - first))).astype(np.uint8)
    even: Array = table[levels]
    return even


def edges(levels: Array, low: float, high: float) -> Array:
    """Find Canny's edges of uint8 `[H, W]`: gradient ridges above `low` that reach `high`.

    As OpenCV has them: Sobel's gradient, the sum of its two absolute values as its size.
    """
    filters = ndimage()
    plane = levels.astype(np.float32)
    right, down = (filters.sobel(plane, axis, mode="nearest") for axis in (1, 0))
    size = np.abs(right) + np.abs(down)
    padded = np.pad(size, 1)
    height, width = size.shape

    def beside(y: int, x: int) -> Any:
        return padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    flat, steep = np.abs(right) * math.tan(math.pi / 8), np.abs(right) * math.tan(math.pi * 3 / 8)
    across = (size > beside(0, -1)) & (size >= beside(0, 1))
    along = (size > beside(-1, 0)) & (size >= beside(1, 0))
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    diagonal = np.where(right * down < 0, rising, falling)
    ridge = np.where(np.abs(down) < flat, across, np.where(np.abs(down) > steep, along, diagonal))
    candidates, _ = filters.label(ridge & (size > low), np.ones((3, 3)))
    strong = np.unique(candidates[ridge & (size > high)])
    found: Array = np.isin(candidates, strong[strong > 0])
    return found
