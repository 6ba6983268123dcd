"""Splits and subsets of a data set, where the official files leave them open."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gmixout.data.images import ImageSet

_Set = TypeVar("_Set", bound=ImageSet)

SPLIT_SEED = 2510
"""Seed of every split that the official files leave open; never the seed of a training run."""

MANY, MEDIUM, FEW = 0, 1, 2
"""Groups of the test images by the training images of their class; the metrics `many_shot`,
`medium_shot` and `few_shot` know them by these numbers."""
SHOT_NAMES = ("many", "medium", "few")
"""Names of the groups, by these numbers."""

SHOT_LIMITS: Mapping[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "oltr": lambda counts: (counts >= 100, counts <= 20),
    "lift": lambda counts: (counts > 100, counts < 20),
}
"""Limits of many-shot and few-shot by source: they differ on 100 and on 20."""


def stratified(labels: Tensor, shares: Sequence[float], seed: int) -> list[Tensor]:
    """Split examples so that every class has its share in every part.

    Args:
        labels: `[N]`.
        shares: Share of each part but the last, which is the rest; their sum is at most 1.
        seed: The same seed and labels give the same split, on every platform and version.

    Returns:
        One tensor of ascending indices per part, `len(shares) + 1` in all. The size of a class in a
        part is rounded; the images of a class too small to be shared out stay in the last part.
    """
    # numpy promises that the stream of this generator never changes, of its newer ones it does not
    generator = np.random.RandomState(seed)
    cuts = np.cumsum(shares)
    parts: list[list[Any]] = [[] for _ in range(len(shares) + 1)]
    given = labels.numpy()
    for label in np.unique(given):
        members = generator.permutation(np.flatnonzero(given == label))
        # a sum of shares just above 1 by rounding must not reach beyond the end
        ends = np.minimum(np.rint(cuts * len(members)).astype(int), len(members))
        for part, chosen in zip(parts, np.split(members, ends), strict=True):
            part.append(chosen)
    return [
        torch.from_numpy(np.sort(np.concatenate(part)) if part else np.empty(0, np.int64))
        for part in parts
    ]


def in_half(images: _Set, half: str) -> _Set:
    """Return the `first` or the `second` half of a set, every class in proportion; or `both`."""
    if half == "both":
        return images
    first, second = stratified(images.labels, (0.5,), SPLIT_SEED)
    return images.subset(first if half == "first" else second)


def long_tailed(labels: Tensor, imbalance: float, seed: int) -> Tensor:
    """Choose examples so that class sizes fall exponentially, `n_y = n imbalance^(-y / (C - 1))`.

    Args:
        labels: `[N]`, from 0 to C - 1; no class has fewer than the n images of the smallest.
        imbalance: Images of class 0 for one of class C - 1.
        seed: As for `stratified`.

    Returns:
        Ascending indices; every class keeps at least one image.
    """
    generator = np.random.RandomState(seed)
    sizes = np.bincount(labels.numpy())
    shares = imbalance ** -np.linspace(0, 1, len(sizes))
    kept = []
    for label, share in enumerate(shares):
        members = generator.permutation(np.flatnonzero(labels.numpy() == label))
        kept.append(members[: max(1, round(sizes.min() * share))])
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def shot_groups(counts: Tensor, convention: str) -> Tensor:
    """Return MANY, MEDIUM or FEW for each class, `[classes]`.

    Args:
        counts: `[classes]`, training images of each class.
        convention: A name in `SHOT_LIMITS`.

    Source: `oltr`: Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019;
        `lift`: Shi et al., "Long-Tail Learning with Foundation Model", ICML 2024; both by their
        code.
    """
    many, few = SHOT_LIMITS[convention](counts)
    return MEDIUM + (FEW - MEDIUM) * few.long() + (MANY - MEDIUM) * many.long()


def split_by_content(
    labels: Tensor, contents: Sequence[str], shares: Sequence[float]
) -> tuple[list[Tensor], list[int]]:
    """Split examples by a hash of their content.

    An image keeps its part for ever: names, order and other images do not count, and equal images
    are in one part. Shares are therefore met on average and not to the image. A part without an
    image of a class takes one from that class's largest part: an added image can change the part
    of another one only in such a class.

    Args:
        labels: `[N]`.
        contents: `[N]`, hexadecimal digits of a cryptographic hash of each image.
        shares: Share of each part but the last, which is the rest.

    Returns:
        One tensor of ascending indices per part, `len(shares) + 1` in all; and the classes in which
        an image was moved. A class of fewer images than parts is in the last part first.
    """
    places = np.array([int(content[:13], 16) for content in contents], np.float64) / 16**13
    part_of = np.searchsorted(np.cumsum(shares), places, side="right")
    parts, moved, given = range(len(shares) + 1), [], labels.numpy()
    for label in np.unique(given):
        own = np.flatnonzero(given == label)
        for part in (parts[-1], *parts[:-1]):
            distinct = [np.unique(places[own[part_of[own] == each]]) for each in parts]
            largest = max(parts, key=lambda each: (len(distinct[each]), each))
            if len(distinct[part]) or len(distinct[largest]) < (1 if part == parts[-1] else 2):
                continue
            nearest = distinct[largest][0 if largest > part else -1]
            part_of[own[places[own] == nearest]] = part
            moved.append(int(label))
    found = [torch.from_numpy(np.flatnonzero(part_of == part)) for part in parts]
    return found, sorted({*moved})
