"""Weather: snow, frost, fog, brightness."""

import math

import numpy as np
import torch

from gmixout.data.common_corruptions.filters import GREY, Array, streak, to_bytes, zoom

_NEEDLE_AREA = 50
"""Pixels of a sheet of frost for each needle of ice."""
_BLUE = np.array([-0.4, 0.14, 0.27], np.float32)
"""Departure from grey of the bluest published photograph; the others' is a quarter or less."""


def snow(pixels: Array, constant: tuple[float, ...], generator: np.random.RandomState) -> Array:
    """Draw streaks of falling flakes over a whitened image."""
    mean, deviation, factor, threshold, radius, length, keep = constant
    noise = mean + deviation * generator.standard_normal(pixels.shape[:2])
    flakes = zoom(torch.from_numpy(noise)[None, None], factor)[0, 0].numpy()
    flakes = np.where(flakes < threshold, 0, flakes)
    levels = to_bytes(flakes).astype(np.float32)
    fallen = np.rint(streak(levels, int(radius), length, generator.uniform(-135, -45))) / 255
    layer = (fallen + fallen[::-1, ::-1])[..., None]
    white = np.maximum(pixels, (pixels @ GREY)[..., None] * 1.5 + 0.5)
    snowed: Array = keep * pixels + (1 - keep) * white + layer
    return snowed


def frost(
    pixels: Array, constant: tuple[float, float, float], generator: np.random.RandomState
) -> Array:
    """Add a share of a sheet of frost to a share of the image, as ice on a window.

    The published kind adds a cut-out of one of five photographs, which are not ours to pass on.
    Here the sheet is drawn; see `frost_sheet`.
    """
    keep, add, shrink = constant
    height, width = pixels.shape[:2]
    return keep * pixels + add * frost_sheet(height, width, shrink, generator)


def frost_sheet(height: int, width: int, shrink: float, generator: np.random.RandomState) -> Array:
    """Draw needles of ice at random places and directions, overlapping, on an uneven ground.

    Mean, contrast and colour are drawn from the ranges of the published photographs (mean grey
    levels of 110 to 203 of 255, standard deviations within a cut-out of 16 to 35), and the
    spectrum is about theirs (power falling as frequency to the -1.6 to -2).

    Returns:
        `[height, width, 3]`: a sheet `1 / shrink` times as large, reduced.
    """
    from PIL import Image, ImageDraw

    size = (math.ceil(width / shrink), math.ceil(height / shrink))
    needles = _needles(size, generator)
    sheet = Image.new("L", size, 128)
    draw = ImageDraw.Draw(sheet)
    for needle, level in zip(needles, generator.randint(0, 256, len(needles)), strict=True):
        draw.polygon(needle.tolist(), fill=int(level))
    ice = _standard(np.asarray(sheet.resize((width, height), Image.Resampling.BOX), np.float32))
    ground = _standard(plasma(max(height, width), 1.5, generator)[:height, :width])
    mean, contrast = generator.uniform(0.43, 0.83), generator.uniform(0.06, 0.14)
    tint = 1 + generator.random_sample() ** 2 * _BLUE
    return np.clip((mean + contrast * _standard(ice + ground))[..., None] * tint, 0, 1)


def _needles(size: tuple[int, int], generator: np.random.RandomState) -> Array:
    """Draw slim rhombi: `[count, 8]`, x and y of four corners."""
    count = 1 + size[0] * size[1] // _NEEDLE_AREA
    middle = generator.random_sample((count, 2)) * size
    turn = generator.uniform(0, 2 * math.pi, count)
    length = generator.exponential(12, count)[:, None]
    along = length * np.column_stack([np.cos(turn), np.sin(turn)])
    aside = along[:, ::-1] * (0.12, -0.12)
    return np.hstack([middle - along, middle - aside, middle + along, middle + aside])


def _standard(plane: Array) -> Array:
    """Standardize to mean 0 and standard deviation 1, or return all 0."""
    centred = plane - plane.mean()
    standard: Array = centred / max(centred.std(), 1e-6)
    return standard


def plasma(side: int, decay: float, generator: np.random.RandomState) -> Array:
    """Return a fractal landscape from 0 to 1 by the diamond-square algorithm, on a torus.

    Each round puts a point into the middle of every square of four, then one into the middle of
    every diamond of four; a new point is the mean of its four neighbours and a uniform draw, whose
    range falls by `decay` squared from a round to the next (as published: the draw's range and
    its factor both fall by `decay`).

    Returns:
        `[S, S]`, the smallest power of 2 that is at least `side`, and 2.
    """
    corners, wobble = np.zeros((1, 1)), 1.0

    def between(four: Array) -> Array:
        mean: Array = four / 4
        return mean + generator.uniform(-wobble, wobble, four.shape)

    while len(corners) < max(side, 2):
        pairs = corners + np.roll(corners, -1, axis=1)
        middles = between(pairs + np.roll(pairs, -1, axis=0))
        finer = np.empty((2 * len(corners), 2 * len(corners)))
        finer[::2, ::2], finer[1::2, 1::2] = corners, middles
        finer[::2, 1::2] = between(pairs + middles + np.roll(middles, 1, axis=0))
        pairs = corners + np.roll(corners, -1, axis=0)
        finer[1::2, ::2] = between(pairs + middles + np.roll(middles, 1, axis=1))
        corners, wobble = finer, wobble / decay**2
    heights = corners - corners.min()
    landscape: Array = heights / heights.max()
    return landscape


def fog(pixels: Array, constant: tuple[float, float], generator: np.random.RandomState) -> Array:
    """Add a fractal mist and keep the maximum value."""
    thickness, decay = constant
    height, width = pixels.shape[:2]
    mist = plasma(max(height, width), decay, generator)[:height, :width, None]
    brightest = pixels.max()
    fogged: Array = (pixels + thickness * mist) * brightest / (brightest + thickness)
    return fogged


def brightness(pixels: Array, lift: float, generator: np.random.RandomState) -> Array:
    """Raise HSV's value, the largest channel; keep hue and saturation."""
    del generator
    value = pixels.max(axis=2, keepdims=True)
    lifted = np.minimum(value + lift, 1)
    black = value == 0
    bright: Array = np.where(black, lifted, pixels * (lifted / np.where(black, 1, value)))
    return bright
