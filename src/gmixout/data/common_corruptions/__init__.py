"""The common corruptions of ImageNet-C and CIFAR-10-C, made on the fly from any images.

Fifteen kinds and four more at five severities, by Hendrycks and Dietterich, "Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations", ICLR 2019. A kind has the constants
of the published set whose images are nearest in size: CIFAR-10-C (32 pixels), Tiny ImageNet-C
(64) or ImageNet-C (224). Draws are made in the order of the published programs, so that the same
stream of numbers gives the same image to a level or so; where it does not, the kind says so
(frost, spatter, defocus blur; impulse noise draws otherwise).

Why own code: no maintained library has these definitions. `imagecorruptions` (1.1.2) cannot be
imported beside today's setuptools. Its fork `imagecorruptions-imaug` (1.1.5) needs OpenCV,
scikit-image and numba, has only the constants for 224 pixels, draws from numpy's global generator,
and differs in elastic_transform, pixelate and frost; `corrupt-tta` (0.1.7) is another such copy.
torchvision, kornia and albumentations have effects of like names and other definitions. What scipy,
torch and Pillow can do is left to them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from gmixout.data.common_corruptions import blur, digital, noise, spatter, weather
from gmixout.data.common_corruptions.constants import (
    CONSTANTS,
    EXTRA_KINDS,
    KINDS,
    SEVERITIES,
    SIZES,
)
from gmixout.data.common_corruptions.filters import Array, ndimage, to_array, to_picture
from gmixout.data.images import ImageSet
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.source import ImageBenchmark
from gmixout.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CORRUPTIONS", "NOTES", "corrupt", "corrupted", "corruption_shifts", "with_corruptions"]

Corruption: TypeAlias = Callable[[Array, Any, np.random.RandomState], Array]
"""Makes `[H, W, 3]`, 0 to 1 and a little beyond, of `[H, W, 3]` float32, 0 to 1, by a constant."""

CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter.spatter,
    "saturate": digital.saturate,
}
"""The kinds by the names of ImageNet-C's folders: the fifteen, then the four extra ones."""

LARGEST = 256
"""Short side, in pixels, that larger images of a set are reduced to: ImageNet-C's own."""

NOTES = (
    "corruptions are made on the fly by the published definitions, with draws of our own: compare "
    "methods with each other, not with figures on the files of ImageNet-C or CIFAR-10-C",
    "frost is drawn, where the published kind adds photographs of frost: its figure, and so the "
    "mean over the 15 kinds, is not the published one",
    "each image has the constants of the published set nearest in size (32, 64 or 224 pixels), "
    f"after images whose short side is above {LARGEST} pixels were reduced to that",
    "ImageNet-C's files were compressed once more, as JPEG of quality 85; these images are not",
)
"""Notes for readers of the results."""


def corrupt(
    picture: "Image", kind: str, severity: int, seed: int, size: int | None = None
) -> "Image":
    """Corrupt an image.

    Args:
        picture: Of any size; another mode than RGB is converted to it.
        kind: A name in `CORRUPTIONS`.
        severity: 1 to 5.
        seed: 0 to 2**32 - 1. The result depends on the arguments alone, and severities share the
            draw as far as they can: more noise is the same noise, stronger.
        size: 32, 64 or 224: whose constants to use. By default those nearest to the image's
            short side (by ratio).

    Returns:
        An RGB image of the same size.

    Raises:
        ConfigError: There is no such kind, severity or size, or the seed is out of range.
    """
    _check(kind, severity, size)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed} must be 0 to 2**32 - 1")
    own = size or min(SIZES, key=lambda side: abs(np.log(min(picture.size) / side)))
    # numpy promises that the stream of this generator never changes
    generator = np.random.RandomState(seed)
    constant = CONSTANTS[kind][own][severity - 1]
    return to_picture(CORRUPTIONS[kind](to_array(picture), constant, generator))


def corrupted(
    images: ImageSet, kind: str, severity: int, seed: int = 0, size: int | None = None
) -> ImageSet:
    """Return the same examples, corrupted before the transform.

    The draw depends on the seed, the kind and the image's place in its store, so that a subset,
    another order or another severity meets the same one. Images whose short side is above 256
    pixels are reduced to that first, as for ImageNet-C: noise on a photograph of 12 megapixels
    would be gone once a model's transform has reduced it.

    Args:
        images: Any set; leave out broken images before (`ImageSet.without_broken`), as here each
            would be decoded for every kind and severity.
        kind: A name in `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Of the draws.
        size: See `corrupt`.

    Raises:
        ConfigError: There is no such kind, severity or size.
        DataError: scipy is not installed.
    """
    _check(kind, severity, size)
    ndimage()
    return CorruptedImages(images, kind, severity, seed, size)


def corruption_shifts(
    images: ImageSet,
    kinds: Literal["common", "extra", "all"] = "common",
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    size: int | None = None,
) -> dict[str, ImageSet]:
    """Return the shifts `<kind>/<severity>` of a set of images.

    Args:
        images: See `corrupted`.
        kinds: The fifteen that the published mean is over, the four set aside for choices, or all.
        severities: The severities.
        seed: See `corrupted`.
        size: See `corrupt`.

    Raises:
        ConfigError: `kinds`, a severity or the size is unknown.
    """
    groups = {"common": KINDS, "extra": EXTRA_KINDS, "all": KINDS + EXTRA_KINDS}
    if kinds not in groups:
        raise ConfigError(f"kinds={kinds!r} must be one of: {', '.join(groups)}")
    return {
        f"{kind}/{severity}": corrupted(images, kind, severity, seed, size)
        for kind in groups[kinds]
        for severity in severities
    }


def with_corruptions(
    benchmark: ImageBenchmark,
    kinds: Literal["common", "extra", "all"],
    share: float = 1.0,
    summary: str | None = None,
) -> ImageBenchmark:
    """Return the benchmark with the in-domain test images corrupted, as shifts.

    With other shifts they are one group, `corrupted`, which the mean OOD value counts once;
    otherwise they are named as in ImageNet-C, and `summary` is their summary.
    """
    images, whole = benchmark.id_test, len(benchmark.id_test)
    notes: tuple[str, ...] = NOTES
    if share < 1:
        strata = benchmark.task.strata(images.labels)
        images = images.subset(stratified(strata, (share,), SPLIT_SEED)[0])
        if not len(images):
            raise ConfigError(f"corruption_share={share} leaves no image of {whole}")
        notes = (*NOTES, f"{len(images)} of {whole} test images are corrupted")
    shifts = corruption_shifts(images, kinds)
    if benchmark.shifts:
        named = {f"corrupted/{name.replace('/', '-')}": each for name, each in shifts.items()}
        benchmark = replace(benchmark, shifts={**benchmark.shifts, **named})
    else:
        benchmark = replace(benchmark, shifts=shifts, summary=benchmark.summary or summary)
    return replace(benchmark, notes=(*benchmark.notes, *notes))


class CorruptedImages(ImageSet):
    """Images of another set, corrupted; see `corrupted`."""

    def __init__(
        self, images: ImageSet, kind: str, severity: int, seed: int, size: int | None
    ) -> None:
        super().__init__(images.labels, images.groups, images.space, images.group_names)
        self.transform, self.broken = images.transform, images.broken
        self.kind, self.severity, self.seed, self.size = kind, severity, seed, size
        self._clean, self._positions = images, images._positions

    def _decode(self, position: int) -> "Image":
        picture = _reduced(self._clean._decode(position))
        digest = hashlib.blake2b(f"{self.seed}\0{self.kind}\0{position}".encode(), digest_size=4)
        draw = int.from_bytes(digest.digest(), "big")
        return corrupt(picture, self.kind, self.severity, draw, self.size)

    def _name(self, position: int) -> str:
        return self._clean._name(position)


def _reduced(picture: "Image") -> "Image":
    from PIL import Image

    short = min(picture.size)
    if short <= LARGEST:
        return picture
    sides = [LARGEST * side // short for side in picture.size]
    return picture.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)


def _check(kind: str, severity: int, size: int | None) -> None:
    for name, value, allowed in (
        ("kind", kind, tuple(CORRUPTIONS)),
        ("severity", severity, SEVERITIES),
        ("size", size, (*SIZES, None)),
    ):
        if value not in allowed:
            raise ConfigError(f"{name}={value!r} must be one of: {', '.join(map(str, allowed))}")
