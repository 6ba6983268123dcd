"""Noise: Gaussian, shot, impulse and speckle."""

import numpy as np

from gmixout.data.common_corruptions.filters import Array


def gaussian_noise(pixels: Array, deviation: float, generator: np.random.RandomState) -> Array:
    """Add noise of the same strength everywhere."""
    return pixels + deviation * generator.standard_normal(pixels.shape)


def shot_noise(pixels: Array, photons: int, generator: np.random.RandomState) -> Array:
    """Count light in photons: draw from a Poisson distribution whose mean is the image."""
    return generator.poisson(pixels * photons) / photons


def impulse_noise(pixels: Array, share: float, generator: np.random.RandomState) -> Array:
    """Set a share of the values, each channel separately, to 0 or 1 with equal probability."""
    draw = generator.random_sample(pixels.shape)
    return np.where(draw < share, draw < share / 2, pixels)


def speckle_noise(pixels: Array, deviation: float, generator: np.random.RandomState) -> Array:
    """Add noise in proportion to the image."""
    return pixels * (1 + deviation * generator.standard_normal(pixels.shape))
