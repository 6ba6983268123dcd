"""The content of a data set as a short table, and what is odd about it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from gmixout.data.base import Benchmark
from gmixout.data.images import ImageSet
from gmixout.plain import counted, listed, printable
from gmixout.tasks import DEFAULT_TASK

PRINTED_CLASSES = 15
"""Largest number of classes whose counts are printed."""
PRINTED_SETS = 8
"""Largest number of sets whose counts by class are printed."""
RARE = 5
"""A class with fewer training images is odd."""
IMBALANCE = 10
"""A ratio of the largest to the smallest class that is odd."""
FEW_TO_CHOOSE = 50
"""A validation set with fewer images is odd."""


@dataclass(frozen=True)
class Inventory:
    """The content of a data set."""

    source: str
    """Name of the benchmark."""
    root: Path
    """The folder that was looked at."""
    names: tuple[str, ...]
    """Class names."""
    counts: Mapping[str, tuple[int, ...]]
    """Number of images by class, of each set; a set with classes of its own has other ones."""
    metric: str
    """The official metric."""
    notes: tuple[str, ...] = ()
    """Missing or unusual parts."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Number of images of each set, where it does not follow from `counts`: of several labels an
    image, and of numbers, which have no counts."""
    ranges: tuple[str, ...] = ()
    """The range of each number in the training set, as lines."""

    @classmethod
    def of(
        cls, source: str, root: Path, benchmark: Benchmark[ImageSet], notes: Sequence[str]
    ) -> "Inventory":
        """Return the content of a benchmark."""
        counts = {}
        for name, images in benchmark.sets.items():
            own = _counts(benchmark, images)
            counts[name] = () if own is None else tuple(own.tolist())
        sizes = {name: len(images) for name, images in benchmark.sets.items()}
        usual = all(sum(each) == sizes[name] for name, each in counts.items())
        return cls(
            source,
            root,
            benchmark.classes,
            counts,
            benchmark.metric,
            tuple(notes),
            {} if usual else sizes,
            () if benchmark.task.has_classes else _ranges(benchmark),
        )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def images(self) -> dict[str, int]:
        """Number of images of each set."""
        return dict(self.sizes) or {name: sum(counts) for name, counts in self.counts.items()}

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> list[str]:
        """All of it as lines of text."""
        notes = (f"  note: {note}" for note in self.notes)
        return [self.title, *self.table(grouped=False), *notes]

    @property
    def title(self) -> str:
        """What was read, in a line."""
        what = "numbers" if self.ranges else "classes"
        return f"{self.source} at {self.root}: {self.classes} {what}, metric {self.metric}"

    def table(self, grouped: bool) -> list[str]:
        """Return the counts as lines of text: by set, and by class if they are few.

        Args:
            grouped: One line for all sets `NAME/...`.
        """
        groups: dict[str, list[int]] = defaultdict(list)
        for name, count in self.images.items():
            groups[name.partition("/")[0] if grouped else name].append(count)
        width = max(map(len, groups))
        lines = [
            f"  {name:<{width}}  {sum(parts):>9,}"
            + (f"  in {len(parts)} sets" if len(parts) > 1 else "")
            for name, parts in groups.items()
        ]
        return [*lines, *self._by_class, *self.ranges]

    @property
    def _by_class(self) -> list[str]:
        counts = {n: c for n, c in self.counts.items() if "/" not in n}
        sets = {n: c for n, c in counts.items() if len(c) == self.classes}
        if self.classes > PRINTED_CLASSES or not 0 < len(sets) <= PRINTED_SETS:
            return []
        heads = ["class", *sets]
        rows = [[printable(name)[:40] for name in self.names]]
        rows += [[f"{count:,}" for count in counts] for counts in sets.values()]
        widths = [max(map(len, [head, *row])) for head, row in zip(heads, rows, strict=True)]
        lines = [heads, *(list(line) for line in zip(*rows, strict=True))]
        return [
            "  " + "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])
            for first, *rest in lines
        ]


def oddities(benchmark: Benchmark[ImageSet]) -> list[str]:
    """Return notes on what is odd about a user's own data: missing, rare and uneven classes."""
    classes, notes = benchmark.classes, []
    one_class = benchmark.task == DEFAULT_TASK
    found = _counts(benchmark, benchmark.train)
    if found is None:
        return _few_to_choose(benchmark)
    counts = found.tolist()
    by_class = list(zip(classes, counts, strict=True))
    if rare := [f"{name} ({count})" for name, count in by_class if 0 < count < RARE]:
        notes.append(
            f"train has fewer than {RARE} images of {len(rare)} of {len(classes)} classes: "
            f"{listed(rare, 10)}"
        )
    for name, images in (("id_val", benchmark.id_val), ("id_test", benchmark.id_test)):
        there = _counts(benchmark, images)
        own = [] if there is None else there.tolist()
        if absent := [n for n, count in zip(classes, own, strict=True) if not count]:
            notes.append(
                f"{name} has no image of {len(absent)} of {len(classes)} classes: "
                f"{listed(absent, 10)}"
            )
    present = sorted((count, name) for name, count in by_class if count)
    if present and present[-1][0] >= IMBALANCE * present[0][0]:
        (least, smallest), (most, largest) = present[0], present[-1]
        notes.append(
            f"train has {most:,} images of {largest} and {least:,} of {smallest}, "
            f"{most / least:.0f} times as many"
            + (
                "; --logit-adjustment 1 or --batches even_classes make up for that"
                if one_class
                else ""
            )
        )
    return [*notes, *_few_to_choose(benchmark)]


def _few_to_choose(benchmark: Benchmark[ImageSet]) -> list[str]:
    """Return a note on a validation set of few images."""
    if not 0 < len(benchmark.id_val) < FEW_TO_CHOOSE:
        return []
    step = (
        f"its accuracy changes by {100 / len(benchmark.id_val):.1f} points with one of them, and "
    )
    if benchmark.task != DEFAULT_TASK:
        step = ""
    images = counted(len(benchmark.id_val), "image")
    return [f"id_val has {images}: {step}choices that are made on it are uncertain"]


def _ranges(benchmark: Benchmark[ImageSet]) -> tuple[str, ...]:
    """Return the range of each number in the training set, as lines of text."""
    if not len(benchmark.train):
        return ()
    labels = benchmark.train.labels
    low, high, mean = (each.tolist() for each in (labels.amin(0), labels.amax(0), labels.mean(0)))
    return tuple(
        f"  {printable(name)[:40]} in train: {low[n]:.6g} to {high[n]:.6g}, mean {mean[n]:.6g}"
        for n, name in enumerate(benchmark.classes)
    )


def _counts(benchmark: Benchmark[ImageSet], images: ImageSet) -> Tensor | None:
    """Return the number of images of each class of a set, `[classes]`; None without classes."""
    own = len(benchmark.classes if images.space is None else images.space.classes)
    return benchmark.task.counts(images.labels, own)
