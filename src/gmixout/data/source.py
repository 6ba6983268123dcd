"""Benchmarks in their official files: layout, required parts, reading."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NoReturn, TypeAlias

from gmixout.data.base import Benchmark
from gmixout.data.images import ImageFiles, ImageSet, Transform
from gmixout.data.prompts import PLAIN
from gmixout.errors import DataError, needs
from gmixout.named import Named
from gmixout.plain import listed
from gmixout.settings import check_settings, require, shown

ImageBenchmark: TypeAlias = Benchmark[ImageSet]
"""A benchmark whose images are decoded on access."""


@dataclass(frozen=True)
class Inventory:
    """The content of a benchmark's folder."""

    source: str
    """Name of the benchmark."""
    root: Path
    """The folder that was looked at."""
    classes: int
    """Number of classes."""
    images: Mapping[str, int]
    """Number of images of each set."""
    metric: str
    """The official metric."""
    notes: tuple[str, ...] = ()
    """Missing or unusual parts."""

    def __str__(self) -> str:
        width = max(len(name) for name in self.images)
        return "\n".join(
            [
                f"{self.source} at {self.root}: {self.classes} classes, metric {self.metric}",
                *(f"  {name:<{width}}  {count:>9,}" for name, count in self.images.items()),
                *(f"  note: {note}" for note in self.notes),
            ]
        )


class Problems:
    """Collect problems, so that one error can list all of them."""

    SHOWN = 20

    def __init__(self) -> None:
        self.found: list[str] = []
        self._more = 0
        self._passed: Counter[str] = Counter()
        self._first = ""

    def pass_over(self, file: str) -> None:
        """Note a skipped file, whose ending is not of an image format."""
        self._first = self._first or shown(file)
        self._passed[Path(file).suffix.lower() or "no ending"] += 1

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on skipped files."""
        if not self._passed:
            return ()
        kinds = ", ".join(f"{ending} ({count:,})" for ending, count in self._passed.most_common(9))
        total = self._passed.total()
        return (f"{total:,} files that are not read as images: {kinds}; the first: {self._first}",)

    def add(self, problem: str) -> None:
        """Note a problem, a clause that names the thing and what is wrong with it."""
        if len(self.found) < self.SHOWN:
            self.found.append(problem)
        else:
            self._more += 1

    def settle(self, source: "Source") -> None:
        """Raise a `DataError` that lists all problems, if there are any."""
        if not self.found:
            return
        lines = [f"  - {problem}" for problem in self.found]
        if self._more:
            lines.append(f"  - and {self._more} more")
        listed = "\n".join(lines)
        raise DataError(
            f"{source.name} at {source.root} is incomplete or has the wrong layout:\n{listed}\n"
            f"Get it from: {source.download_hint}"
        )

    def fail(self, source: "Source", problem: str) -> NoReturn:
        """Raise at once, for a problem that prevents further checks."""
        self.add(problem)
        self.settle(source)
        raise AssertionError("unreachable: there is a problem")


@dataclass(frozen=True)
class Source(Named, ABC):
    """A benchmark in its official files, and its options.

    Subclasses are frozen dataclasses, named the way a user types it, whose fields are the options.
    They say how the folder is read (`read`); checking and loading are the same for all. Nothing is
    ever downloaded or written.

    Args:
        root: Folder of the data.
        counts: Numbers of images and classes must be the published ones (`official`), or may be
            any (`any`: a subset, a cleaned copy).
        on_broken: What to do about images that cannot be decoded: stop at the first (`raise`), or
            look at every image before the start and leave out the broken (`skip`), which takes as
            long as reading everything once. `broken_in` names them.

    Example:
        >>> from gmixout.data.domains import pacs
        >>> pacs("/data/PACS", train_domain="photo").name
        'pacs'
    """

    root: Path
    _: KW_ONLY
    counts: Literal["official", "any"] = "official"
    on_broken: Literal["raise", "skip"] = "raise"

    never_shown: ClassVar[tuple[str, ...]] = ("root", "counts", "on_broken")
    download_hint: ClassVar[str]
    """Where to get the data, for errors."""
    corruption_summary: ClassVar[str] = "mean_corruption_error_unnormalised"
    """The summary over the fifteen corruptions when these are generated from its images."""
    pretraining_half: ClassVar[bool] = False
    """`benchmarks/pacs/pretrain.py` pretrains on the first half of its images; models that start
    from there may only use the second (option `half`)."""
    official: ClassVar[Mapping[str, int]] = {}
    """Published counts by name, as `_count` uses them."""

    def __post_init__(self) -> None:
        """Check the options against their annotations, and shares; subclasses add their ranges."""
        check_settings(self)
        shares = {name: value for name, value in vars(self).items() if name.endswith("_share")}
        first, whole = next(iter(shares), ""), sum(shares.values())
        for name, value in shares.items():
            allowed = "above 0 and below 1: it is a share of the images"
            require(self, name, 0 < value < 1, allowed)
            require(self, name, name == first or whole < 1, f"below 1 together with {first}")

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of a zero-shot head, `{}` for the class: the published ones, or the plain one.

        They name no domain, because the head must work for domains that training does not see.
        """
        return PLAIN

    def placed(self) -> "Source":
        """Return the same source, found from any working directory."""
        return replace(self, root=self.root.expanduser().absolute())

    @abstractmethod
    def read(self, problems: Problems) -> ImageBenchmark:
        """Read the folder without decoding images, and return the benchmark without a transform.

        Args:
            problems: Collects what is wrong. The benchmark is used only if nothing is.

        Raises:
            DataError: A problem prevents further checks.
        """

    def check(self, decode: bool = False) -> Inventory:
        """Verify layout and counts.

        Args:
            decode: Also decode every image.

        Raises:
            DataError: Something is missing or wrong; the message lists all of it and says where to
                get the data.
        """
        benchmark = self._verified()
        notes = benchmark.notes
        if decode:
            benchmark = benchmark.map(ImageSet.without_broken)
            flat = sum(images.flat for images in benchmark.sets.values())
            if flat:
                notes = (*notes, f"{flat:,} images are of a single colour")
            broken = [f"{name} cannot be read as an image" for name in broken_in(benchmark)]
            problems = Problems()
            for each in broken:
                problems.add(each)
            if self.on_broken == "raise":
                problems.settle(self)
            notes = (*notes, *broken)
        return Inventory(
            source=self.name,
            root=self.root,
            classes=len(benchmark.classes),
            images={name: len(images) for name, images in benchmark.sets.items()},
            metric=benchmark.metric,
            notes=notes,
        )

    def load(self, transform: Transform | None = None) -> ImageBenchmark:
        """Return the benchmark, ready to use.

        Args:
            transform: Makes the model's input `[C, H, W]` of an RGB image. None: items are
                Pillow's until the sets get one (`Benchmark.map`, `ImageSet.transformed`).

        Raises:
            DataError: As `check`.
        """
        benchmark = self._verified()
        if self.on_broken == "skip":
            benchmark = benchmark.map(ImageSet.without_broken)
            problems = Problems()
            _check_sets(benchmark, problems)
            problems.settle(self)
        if transform is None:
            return benchmark
        return benchmark.map(lambda images: images.transformed(transform))

    def load_tests(self) -> ImageBenchmark:
        """Return the test sets, for a model that was trained elsewhere.

        Domain folders and image folders may lack what training needs: see `tests_alone`. Others
        are loaded completely.

        Raises:
            DataError: As `check`.
        """
        return self.load()

    def tests_alone(self, classes: tuple[str, ...], sets: Mapping[str, ImageSet]) -> ImageBenchmark:
        """Return a benchmark of shifts alone: its training and in-domain sets are empty."""
        empty: ImageSet = ImageFiles(self.root, (), ())
        return Benchmark(
            name=str(self), classes=classes, train=empty, id_val=empty, id_test=empty, shifts=sets
        )

    def _verified(self) -> ImageBenchmark:
        with needs("pillow", "vision"):
            import PIL.Image  # noqa: F401 - a missing Pillow is not a broken image
        problems = Problems()
        self._check_root(problems)
        benchmark = self.read(problems)
        problems.settle(self)
        _check_sets(benchmark, problems)
        for name in {"train", "id_val", "id_test"} & {*benchmark.shifts, *benchmark.dev_shifts}:
            problems.add(f"a shift is called {name}, which is the name of another set: rename it")
        if len(benchmark.classes) < 2:
            problems.add(f"{', '.join(benchmark.classes)} is the only class: there must be two")
        problems.settle(self)
        return replace(benchmark, notes=(*benchmark.notes, *_gaps(benchmark), *problems.notes))

    def _check_root(self, problems: Problems) -> None:
        if not self.root.is_dir():
            problems.fail(self, f"there is no folder {self.root}")

    def _count(self, problems: Problems, key: str, found: int, what: str) -> None:
        """Note a problem if a number is not the published one and `counts` asks for that."""
        expected = self.official.get(key)
        if self.counts == "official" and expected is not None and found != expected:
            problems.add(
                f"{what}: {found:,}, and the published data has {expected:,} "
                "(counts=any accepts it)"
            )


def broken_in(benchmark: ImageBenchmark) -> tuple[str, ...]:
    """Return the names of the images that were skipped."""
    return tuple(name for images in benchmark.sets.values() for name in images.broken)


def _check_sets(benchmark: ImageBenchmark, problems: Problems) -> None:
    for name, images in benchmark.sets.items():
        if len(images) == 0:
            problems.add(f"{name} holds no image")
            continue
        classes = len(benchmark.classes if images.space is None else images.space.classes)
        wrong = images.labels[(images.labels < 0) | (images.labels >= classes)]
        if len(wrong):
            problems.add(
                f"{name}: {len(wrong)} labels are out of range, {int(wrong[0])} among them; with "
                f"{classes} classes labels go from 0 to {classes - 1}"
            )


def _gaps(benchmark: ImageBenchmark) -> list[str]:
    """Return a note on classes that training never sees but results depend on."""
    classes = benchmark.classes
    counts = benchmark.train.labels.bincount(minlength=len(classes))
    absent = (counts == 0).nonzero().flatten().tolist()
    if not absent:
        return []
    names = listed([classes[label] for label in absent])
    return [f"train has no image of {len(absent)} of {len(classes)} classes: {names}"]
