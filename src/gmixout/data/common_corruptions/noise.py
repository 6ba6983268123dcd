"""Noise: Gaussian, shot, impulse and speckle."""

import numpy as np

from gmixout.data.common_corruptions.filters import Array


def gaussian_noise(pixels: Array, deviation: float, generator: np.random.RandomState) -> Array:
    """Noise of the same strength everywhere."""
    return pixels + deviation * generator.standard_normal(pixels.shape)


def shot_noise(pixels: Array, photons: int, generator: np.random.RandomState) -> Array:
    """Light counted in photons: a Poisson draw whose mean is the picture."""
    return generator.poisson(pixels * photons) / photons


def impulse_noise(pixels: Array, share: float, generator: np.random.RandomState) -> Array:
    """A share of the values, each channel for itself, becomes 0 or 1, as often as not."""
    draw = generator.random_sample(pixels.shape)
    return np.where(draw < share, draw < share / 2, pixels)


def speckle_noise(pixels: Array, deviation: float, generator: np.random.RandomState) -> Array:
    """Noise in proportion to the picture."""
    return pixels * (1 + deviation * generator.standard_normal(pixels.shape))
