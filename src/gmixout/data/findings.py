"""A look at every image of a data set: broken and odd ones, copies and near-copies."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gmixout.data.images import ImageSet
from gmixout.data.inventory import Inventory
from gmixout.data.source import ImageBenchmark, Source
from gmixout.errors import DataError, needs
from gmixout.plain import counted, listed

if TYPE_CHECKING:
    from PIL.Image import Image

SHORT_SIDE = 32
"""An image with a side of fewer pixels is odd."""
DARK = 24
"""An image whose brightest value of 255 is lower is odd: most often 12 bits in a file of 16."""
NEAR = 6
"""Largest number of different bits, of 64, in the perceptual hashes of near-copies.
`benchmarks/near_copies.py` measures what that finds, and what it takes for a copy."""
_LISTED = 5
"""Groups that the terminal shows."""
_SUSPECTED = 10
"""Images whose label may be wrong that the terminal shows."""
_BANDS = 8
"""Of two hashes with at most 7 different bits of 64, one of the eight bytes is equal."""
_BLOCK = 64
"""Images that one thread looks at in a row."""


@dataclass(frozen=True)
class Found:
    """An image of a set."""

    part: str
    """The name of its set."""
    index: int
    """Its position there."""
    label: str
    """Its class, or what it has instead, as text."""
    name: str
    """Its file, from the root, or another name."""
    said: str = ""
    """What is wrong with it."""

    def __str__(self) -> str:
        return self.name if not self.said else f"{self.name} ({self.said})"


Alike = tuple[Found, ...]
"""Images that are alike."""


@dataclass(frozen=True)
class Findings:
    """What a look at every image of a data set found."""

    inventory: Inventory
    benchmark: ImageBenchmark
    broken: tuple[Found, ...]
    """Images that cannot be decoded."""
    odd: tuple[Found, ...]
    """Images of a single colour, very small or very dark ones."""
    copies: tuple[Alike, ...]
    """Equal files; the ones in several sets first."""
    near: tuple[Alike, ...] | None
    """Images that look alike and are not equal files, likewise; None: not looked for."""
    suspects: tuple[Found, ...] | None = None
    """Images whose label may be wrong, the surest first; None: not looked for."""

    def found(self, part: str, index: int, said: str = "") -> Found:
        """Return an image of a set by its position, with what is said of it."""
        images, root = self.benchmark.sets[part], self.inventory.root
        return _Finder(root if root.is_dir() else root.parent, self.benchmark).named(
            part, images, index, said
        )

    def picture(self, found: Found) -> "Image":
        """Return an image, in RGB.

        Raises:
            DataError: It cannot be decoded.
        """
        return self.benchmark.sets[found.part].picture(found.index)

    @cached_property
    def lines(self) -> list[str]:
        """The findings as lines of text."""
        lines = [_line("cannot be read", self.broken), *self._odd_lines]
        lines.append(_groups_line("equal files", self.copies))
        if self.near is None:
            lines.append("near-copies: not looked for; pip install 'gmixout[photos]'")
        else:
            lines.append(_groups_line("near-copies", self.near))
        for kind, groups in (("equal", self.copies), ("alike", self.near or ())):
            serious = [group for group in groups if crosses(group) or differs(group)]
            lines += [f"  {kind}: {described_group(group)}" for group in serious[:_LISTED]]
        if self.suspects is not None:
            lines += self._suspect_lines
        if any(map(leaks, self.copies)):
            lines.append(
                "test sets hold images that are trained on: accuracy on these says nothing of new "
                "ones"
            )
        if any(map(leaks, self.near or ())):
            lines.append(
                "look at the near-copies: one scene in train and in a test set makes results look "
                "better than they are"
            )
        return lines

    @property
    def _suspect_lines(self) -> Iterator[str]:
        suspects = self.suspects or ()
        sets = ("train", "id_val", "id_test")
        broken = sum(found.part in sets for found in self.broken)
        judged = sum(len(self.benchmark.sets[name]) for name in sets) - broken
        yield f"labels to look at: {len(suspects):,} of {judged:,} images, by a probe of the others"
        for each in suspects[:_SUSPECTED]:
            yield f"  {each.name} ({each.label}, {each.part}): {each.said}"
        if len(suspects) > _SUSPECTED:
            yield f"  and {len(suspects) - _SUSPECTED:,} more; --out check.html shows them"

    @property
    def _odd_lines(self) -> Iterator[str]:
        kinds: dict[str, list[Found]] = defaultdict(list)
        for found in self.odd:
            kinds[found.said].append(replace(found, said=""))
        return (_line(kind, images) for kind, images in sorted(kinds.items()))


def leaks(group: Alike) -> bool:
    """Return whether images of a group are in the training set and in another one."""
    return crosses(group) and any(found.part == "train" for found in group)


def crosses(group: Alike) -> bool:
    """Return whether images of a group are in several sets."""
    return len({found.part for found in group}) > 1


def differs(group: Alike) -> bool:
    """Return whether images of a group have different classes."""
    return len({found.label for found in group}) > 1


def described_group(group: Alike) -> str:
    """Return a group of images that are alike in one line."""
    return listed([f"{f.name} ({f.label}, {f.part})" for f in group], 4)


def _line(what: str, images: Sequence[Found]) -> str:
    return f"{what}: {len(images):,}" + (f"; {listed([*map(str, images)], 3)}" if images else "")


def _groups_line(what: str, groups: Sequence[Alike]) -> str:
    if not groups:
        return f"{what}: 0"
    images = counted(sum(map(len, groups)), "image")
    parts = [f"{what}: {images} in {counted(len(groups), 'group')}"]
    for count, said in (
        (sum(map(leaks, groups)), "in train and in another set"),
        (sum(crosses(g) and not leaks(g) for g in groups), "in several other sets"),
        (sum(map(differs, groups)), "of different classes"),
    ):
        parts += [f"{counted(count, 'group')} {said}"] if count else []
    return "; ".join(parts)


def examine(source: Source, advance: Callable[[int, int], None] | None = None) -> Findings:
    """Decode every image of a data set, and compare all of them.

    Args:
        source: The data set. Broken images are among the findings, whatever its `on_broken`.
        advance: Called with the number of images that were looked at, and of all.

    Raises:
        DataError: The data set cannot be read.
    """
    source = replace(source, on_broken="raise")
    benchmark = source.load()
    inventory = Inventory.of(source.name, source.root, benchmark, benchmark.notes)
    total, done = sum(map(len, benchmark.sets.values())), 0
    looks: list[_Look] = []
    blocks = [
        (name, images, range(start, min(start + _BLOCK, len(images))))
        for name, images in benchmark.sets.items()
        for start in range(0, len(images), _BLOCK)
    ]
    root = source.root if source.root.is_dir() else source.root.parent
    finder = _Finder(root, benchmark)
    with ThreadPoolExecutor() as pool:
        try:
            for each in pool.map(lambda block: finder.look(*block), blocks):
                looks += each
                done += len(each)
                if advance is not None:
                    advance(done, total)
        except BaseException:  # Ctrl-C: what has not begun is not begun
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return Findings(
        inventory=inventory,
        benchmark=benchmark,
        broken=tuple(look.found for look in looks if look.hash is None),
        odd=tuple(look.found for look in looks if look.hash is not None and look.found.said),
        copies=_ordered(_equal(looks)),
        near=_ordered(_alike(looks)) if find_spec("imagehash") else None,
    )


@dataclass(frozen=True)
class _Look:
    found: Found
    content: str
    """SHA-256 of its file."""
    hash: int | None
    """64 bits that similar images share; None: it cannot be decoded."""
    flat: bool = False


class _Finder:
    """Look at images one by one.

    Args:
        root: Folder of the data set.
        benchmark: Its task and its class names.
    """

    def __init__(self, root: Path, benchmark: ImageBenchmark) -> None:
        self._root, self._classes, self._task = f"{root}/", benchmark.classes, benchmark.task
        self._has_hash = find_spec("imagehash") is not None

    def named(self, part: str, images: ImageSet, index: int, said: str = "") -> Found:
        """Return an image of a set, with its label and its name."""
        classes = self._classes if images.space is None else images.space.classes
        _, (target,) = self._task.table(images.labels[index : index + 1], classes)
        name = images.name(index).removeprefix(self._root)
        return Found(part, index, ", ".join(target), name, said)

    def look(self, part: str, images: ImageSet, indices: range) -> list[_Look]:
        """Return what is seen of some images of a set."""
        found = []
        for index in indices:
            content = images.content(index)
            itself = self.named(part, images, index)
            try:
                picture = images.picture(index)
            except DataError as error:
                reason = str(error.__cause__ or error)[:200]
                found.append(_Look(replace(itself, said=reason), content, None))
                continue
            said = _oddity(picture)
            hashed = perceptual_hash(picture) if self._has_hash else 0
            flat = said.startswith("of a single")
            found.append(_Look(replace(itself, said=said), content, hashed, flat))
        return found


def perceptual_hash(picture: "Image") -> int:
    """Return 64 bits that similar images share: signs of the lowest frequencies.

    Raises:
        ConfigError: imagehash is not installed.
    """
    with needs("imagehash", "photos"):
        import imagehash
    return int.from_bytes(np.packbits(imagehash.phash(picture).hash.flatten()).tobytes(), "big")


def _oddity(picture: "Image") -> str:
    extrema: Any = picture.getextrema()
    if all(low == high for low, high in extrema):
        return "of a single colour"
    if min(picture.size) < SHORT_SIDE:
        return f"smaller than {SHORT_SIDE} pixels"
    return f"darker than {DARK} of 255" if max(high for _, high in extrema) < DARK else ""


def _equal(looks: Iterable[_Look]) -> Iterator[Alike]:
    """Yield the groups of equal files; broken ones, which may be empty, are no copies."""
    groups: dict[str, list[Found]] = defaultdict(list)
    for look in looks:
        if look.hash is not None:
            groups[look.content].append(look.found)
    return (tuple(group) for group in groups.values() if len(group) > 1)


def _alike(looks: Iterable[_Look]) -> Iterator[Alike]:
    """Yield the groups of images that are nearly equal, but not all equal files.

    Images of a single colour are all alike and left out.
    """
    by_hash: dict[int, list[_Look]] = defaultdict(list)
    for look in looks:
        if look.hash is not None and not look.flat:
            by_hash[look.hash].append(look)
    hashes = np.array([*by_hash], np.uint64)
    leader = list(range(len(hashes)))

    def root(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for one, other in _near_pairs(hashes):
        leader[root(one)] = root(other)
    groups: dict[int, list[_Look]] = defaultdict(list)
    for index, each in enumerate(by_hash.values()):
        groups[root(index)] += each
    for group in groups.values():
        if len({look.content for look in group}) > 1:
            yield tuple(look.found for look in group)


def _near_pairs(hashes: "np.ndarray[Any, Any]") -> Iterator[tuple[int, int]]:
    """Yield pairs of positions of hashes with at most `NEAR` different bits."""
    octets = hashes.view(np.uint8).reshape(-1, _BANDS)
    ones = np.array([bin(value).count("1") for value in range(256)], np.uint8)
    for band in range(_BANDS):
        order = np.argsort(octets[:, band], kind="stable")
        ends = np.flatnonzero(np.diff(octets[order, band])) + 1
        for bucket in np.split(order, ends):
            for place, one in enumerate(bucket[:-1]):
                others = bucket[place + 1 :]
                different = ones[octets[others] ^ octets[one]].sum(1)
                yield from ((int(one), int(other)) for other in others[different <= NEAR])


def _ordered(groups: Iterable[Alike]) -> tuple[Alike, ...]:
    """Return groups in the order of how much they matter, and members in that of their sets."""
    members = (tuple(sorted(group, key=lambda f: (f.part != "train", f.part))) for group in groups)
    return tuple(sorted(members, key=lambda g: (not leaks(g), not differs(g), not crosses(g))))
