"""Benchmarks in their official files: layout, required parts, reading."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, NoReturn, TypeAlias

from gmixout.data.base import Benchmark
from gmixout.data.decoding import HEIF_ENDINGS
from gmixout.data.images import ImageFiles, ImageSet, Transform
from gmixout.data.inventory import Inventory, oddities
from gmixout.data.prompts import PLAIN
from gmixout.errors import DataError, needs
from gmixout.named import Named
from gmixout.plain import listed
from gmixout.settings import check_settings, require, shown
from gmixout.tasks import DEFAULT_TASK, LearningTask, single_label

ImageBenchmark: TypeAlias = Benchmark[ImageSet]
"""A benchmark whose images are decoded on access."""


class Reason(NamedTuple):
    """What skipped files are, for notes on one and on many."""

    one: str
    many: str


UNREAD = Reason("file that is not read as an image", "files that are not read as images")
"""The usual reason to skip a file."""


class Problems:
    """Collect problems, so that one error can list all of them."""

    SHOWN = 20
    NAMED = 3
    """Skipped files that a note names."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._more = 0
        self._passed: dict[Reason, list[tuple[str, str]]] = defaultdict(list)

    def pass_over(self, file: str, reason: Reason = UNREAD, kind: str = "") -> None:
        """Note a skipped file or folder, the reason, and its kind (by default its ending)."""
        self._passed[reason].append((kind or Path(file).suffix.lower() or "no ending", file))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on skipped files: how many, of which kinds, and the first ones."""
        return tuple(
            _skipped(reason, files)
            for reason, files in sorted(self._passed.items(), key=lambda each: each[0].many)
        )

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
    own: ClassVar[bool] = False
    """True if it reads a user's own images, of which nothing is known before."""
    tasks: ClassVar[tuple[str, ...]] = (single_label.__name__,)
    """Names of the tasks that its data may be for."""
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

    @classmethod
    def recognize(cls, root: Path) -> Path | None:
        """Return the root if a folder or file looks like this kind of data; None if it does not.

        Args:
            root: As a user names it; the returned root may be a part of it.
        """
        del root
        return None

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
        notes: tuple[str, ...] = ()
        if decode:
            benchmark = benchmark.map(ImageSet.without_broken)
            flat = sum(images.flat for images in benchmark.sets.values())
            if flat:
                notes = (f"{flat:,} images are of a single colour",)
            broken = [f"{name} cannot be read as an image" for name in broken_in(benchmark)]
            problems = Problems()
            for each in broken:
                problems.add(each)
            if self.on_broken == "raise":
                problems.settle(self)
            notes = (*notes, *broken)
        benchmark = self._with_oddities(benchmark)
        return Inventory.of(self.name, self.root, benchmark, (*benchmark.notes, *notes))

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
            fitted = type(benchmark.task).fitted(benchmark.train.labels)
            benchmark = replace(benchmark, task=fitted)
        benchmark = self._with_oddities(benchmark)
        if transform is None:
            return benchmark
        return benchmark.map(lambda images: images.transformed(transform))

    def load_tests(self) -> ImageBenchmark:
        """Return the test sets, for a model that was trained elsewhere.

        Of a user's own images all are test images. Domain folders may lack what training needs: see
        `tests_alone`. Others are loaded completely.

        Raises:
            DataError: As `check`.
        """
        return self.load()

    def tests_alone(
        self,
        classes: tuple[str, ...],
        sets: Mapping[str, ImageSet],
        task: LearningTask = DEFAULT_TASK,
    ) -> ImageBenchmark:
        """Return a benchmark of shifts alone: its training and in-domain sets are empty."""
        empty: ImageSet = ImageFiles(self.root, (), ())
        return Benchmark(
            name=str(self),
            classes=classes,
            train=empty,
            id_val=empty,
            id_test=empty,
            shifts=sets,
            metric=task.metric,
            extra_metrics=task.extra_metrics,
            task=task,
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
        if len(benchmark.classes) < benchmark.task.least_outputs:
            names = ", ".join(benchmark.classes)
            problems.add(f"{names} is the only class: there must be two" if names else "no class")
        problems.settle(self)
        return replace(benchmark, notes=(*benchmark.notes, *problems.notes))

    def _with_oddities(self, benchmark: ImageBenchmark) -> ImageBenchmark:
        """Return the benchmark with notes on classes that are absent or rare."""
        odd = [*_gaps(benchmark), *(oddities(benchmark) if self.own else ())]
        return replace(benchmark, notes=(*benchmark.notes, *odd))

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


def _skipped(reason: Reason, files: Sequence[tuple[str, str]]) -> str:
    """Return the note on files that are skipped for one reason."""
    counts = Counter(kind for kind, _ in files)
    kinds = ", ".join(f"{kind} ({count:,})" for kind, count in counts.most_common(9))
    named = listed([shown(file) for _, file in files], Problems.NAMED)
    photos = reason == UNREAD and any(kind in HEIF_ENDINGS for kind in counts)
    advice = "; pip install 'gmixout[photos]' reads HEIC" if photos else ""
    said = f"{len(files):,} {reason.many}" if len(files) > 1 else f"1 {reason.one}"
    return f"{said}: {kinds}; {named}{advice}"


def broken_in(benchmark: ImageBenchmark) -> tuple[str, ...]:
    """Return the names of the images that were skipped."""
    return tuple(name for images in benchmark.sets.values() for name in images.broken)


def _check_sets(benchmark: ImageBenchmark, problems: Problems) -> None:
    for name, images in benchmark.sets.items():
        if len(images) == 0:
            problems.add(f"{name} holds no image")
            continue
        classes = benchmark.classes if images.space is None else images.space.classes
        if wrong := benchmark.task.problem(images.labels, classes):
            problems.add(f"{name}: {wrong}")


def _gaps(benchmark: ImageBenchmark) -> list[str]:
    """Return a note on classes that training never sees but results depend on."""
    classes = benchmark.classes
    counts = benchmark.task.counts(benchmark.train.labels, len(classes))
    absent = [] if counts is None else (counts == 0).nonzero().flatten().tolist()
    if not absent:
        return []
    names = listed([classes[label] for label in absent])
    return [f"train has no image of {len(absent)} of {len(classes)} classes: {names}"]
