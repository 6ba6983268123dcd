"""Measure which altered copies of images `gmixout data check` finds, and which other pairs.

    python benchmarks/near_copies.py --data DATA/PACS --images 300

Copies of each image are made in several ways; the share that is near enough to its original is
printed, and the number of other pairs of images that are as near.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from gmixout.data.decoding import decoded
from gmixout.data.findings import NEAR, perceptual_hash
from gmixout.data.folders import pictures


def saved_again(picture: Image.Image) -> Image.Image:
    """Return the image after compression."""
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=50)
    return Image.open(held)


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """Return the image without a share of its width and height."""
    left, top = (int(side * share / 2) for side in picture.size)
    return picture.crop((left, top, picture.width - left, picture.height - top))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "JPEG, quality 50": saved_again,
    "20 % brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "3 % cropped": lambda picture: cropped(picture, 0.03),
    "8 % cropped": lambda picture: cropped(picture, 0.08),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--images", type=int, default=300)
    args = parser.parse_args()
    names = np.array(pictures(args.data))
    chosen = np.random.default_rng(0).permutation(len(names))[: args.images]
    images = [decoded(args.data / name) for name in names[chosen]]
    hashes = np.array([perceptual_hash(image) for image in images], np.uint64)
    for name, copied in COPIES.items():
        copies = np.array([perceptual_hash(copied(image)) for image in images], np.uint64)
        print(f"| {name} | {np.mean(_different(hashes, copies) <= NEAR):.0%} |")
    upper = np.triu_indices(len(images), 1)
    pairs = _different(hashes[upper[0]], hashes[upper[1]]) <= NEAR
    print(f"{pairs.sum()} of {len(pairs):,} pairs of different images are as near")


def _different(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.unpackbits((a ^ b).view(np.uint8).reshape(-1, 8), axis=1).sum(1)


if __name__ == "__main__":
    main()
