"""CIFAR-10 and CIFAR-100, corrupted (-C) and resampled (CIFAR-10.1)."""

import pickle
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np

from gmixout.data.base import Benchmark
from gmixout.data.common_corruptions.constants import EXTRA_KINDS, KINDS, SEVERITIES
from gmixout.data.folders import find
from gmixout.data.images import ImageArray, ImageSet
from gmixout.data.parquet import read_parquet
from gmixout.data.reading import array_of, reading, regular
from gmixout.data.sampling import (
    SHOT_NAMES,
    SPLIT_SEED,
    in_half,
    long_tailed,
    shot_groups,
    stratified,
)
from gmixout.data.source import ImageBenchmark, Problems, Source
from gmixout.errors import ConfigError, DataError
from gmixout.settings import require, shown

_Array = np.ndarray[Any, Any]

PROMPTS = tuple(
    template
    for article in ("a", "the")
    for template in (
        f"a photo of {article} {{}}.",
        f"a blurry photo of {article} {{}}.",
        f"a black and white photo of {article} {{}}.",
        f"a low contrast photo of {article} {{}}.",
        f"a high contrast photo of {article} {{}}.",
        f"a bad photo of {article} {{}}.",
        f"a good photo of {article} {{}}.",
        f"a photo of {article} small {{}}.",
        f"a photo of {article} big {{}}.",
    )
)
"""OpenAI's for CIFAR-10 and CIFAR-100 (data/prompts.md of CLIP's repository)."""

MOST_CLASSES = 2**31
"""Above any class number, and below what no tensor can hold."""


@dataclass(frozen=True, kw_only=True)
class Cifar(Source):
    """Base of CIFAR-10 and CIFAR-100.

    Args:
        val_share: Share of the training images, stratified by a fixed seed, that is held out for
            in-domain validation.
        shifts: Which shifts to use.
        missing: What to do if one of them is not there: stop (`refuse`), or go on without it and
            say so in the notes (`leave_out`).
        half: Use `both` halves of the training images, or only the `first` or `second`: fixed and
            stratified, for a model that was pretrained on the other half.
        imbalance: Ratio of training images of the first class to the last: their numbers fall
            exponentially from class to class, and classes become many, medium and few shot (by
            ImageNet-LT's limits of 100 and 20, where there are such). 1 keeps all. The held-out
            images stay balanced.
            Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
            Loss", NeurIPS 2019, section 4.1 (with ratios of 10 and 100).
        extra: Also the four extra kinds of corruption, as development shifts, which are never
            reported: their authors set them aside for choices.
    """

    val_share: float = 0.1
    shifts: tuple[str, ...] = ("c",)
    missing: Literal["refuse", "leave_out"] = "refuse"
    half: Literal["both", "first", "second"] = "both"
    imbalance: float = 1.0
    extra: bool = False

    prompts = PROMPTS
    known_shifts: ClassVar[tuple[str, ...]] = ("c",)
    train_files: ClassVar[tuple[str, ...]]
    test_file: ClassVar[str]
    names_file: ClassVar[str]
    """The file with class names, and below the key of them in it."""
    names_key: ClassVar[str]
    labels_key: ClassVar[str]
    """The key of the labels in the other files."""
    corrupted: ClassVar[str]
    """Folder of the corrupted test images."""

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        unknown = set(self.shifts) - set(self.known_shifts)
        if unknown:
            raise ConfigError(
                f"{self.name}(shifts={self.shifts}): {', '.join(sorted(unknown))} is not one of: "
                f"{', '.join(self.known_shifts)}"
            )
        require(self, "imbalance", self.imbalance >= 1, "a finite number of at least 1")

    @property
    @abstractmethod
    def folder(self) -> str:
        """The archive's folder."""

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the archive's files and at the shifts."""
        train, test, classes = self._in_domain(problems)
        self._count(problems, "classes", len(classes), "number of classes")
        self._count(problems, "train", len(train), "number of training images")
        self._count(problems, "test", len(test), "number of test images")
        notes: list[str] = []
        shifts: dict[str, ImageSet] = {}
        dev_shifts: dict[str, ImageSet] = {}
        if "c" in self.shifts:
            shifts.update(self._corruptions(KINDS, problems, notes))
            if self.extra:
                dev_shifts.update(self._corruptions(EXTRA_KINDS, problems, notes))
        if "10.1" in self.shifts:
            shifts.update(self._sampled_anew(problems, notes))
        train = in_half(train, self.half)
        held, rest = stratified(train.labels, (self.val_share,), SPLIT_SEED)
        val, train = train.subset(held), train.subset(rest)
        extra_metrics: tuple[str, ...] = ()
        if self.imbalance > 1:
            train = train.subset(long_tailed(train.labels, self.imbalance, SPLIT_SEED))
            counts = train.labels.bincount(minlength=len(classes))
            test = test.grouped(shot_groups(counts, "oltr")[test.labels], SHOT_NAMES)
            extra_metrics = ("many_shot", "medium_shot", "few_shot")
            notes.append(f"long tail: {counts.max()} to {counts.min()} training images per class")
        return Benchmark(
            name=str(self),
            classes=classes,
            train=train,
            id_val=val,
            id_test=test,
            extra_metrics=extra_metrics,
            shifts=shifts,
            dev_shifts=dev_shifts,
            summary="mean_corruption_error_unnormalised" if "c" in self.shifts else None,
            notes=tuple(notes),
        )

    def _in_domain(self, problems: Problems) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
        train, test = (self.root / f"{part}.parquet" for part in ("train", "test"))
        if train.is_file() and test.is_file():
            images, classes = read_parquet(train)
            return images, read_parquet(test)[0], classes
        folder = self.root
        if not (folder / self.test_file).is_file():
            folder = find(self.root, self.folder) or self.root / self.folder
        wanted = (*self.train_files, self.test_file, self.names_file)
        absent = [name for name in wanted if not (folder / name).is_file()]
        for name in absent:
            problems.add(f"there is no {folder / name}")
        problems.settle(self)
        names: Any = unpickle(folder / self.names_file).get(self.names_key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{folder / self.names_file} has no list of text {self.names_key}")
        parts = [self._batch(folder / name) for name in self.train_files]
        pixels = np.concatenate([pixels for pixels, _ in parts])
        labels = [label for _, own in parts for label in own]
        return (
            ImageArray(pixels, labels, f"the training images in {folder}"),
            ImageArray(*self._batch(folder / self.test_file), str(folder / self.test_file)),
            tuple(names),
        )

    def _batch(self, file: Path) -> tuple[_Array, list[int]]:
        """Return the images `[N, 32, 32, 3]` and labels of one of the archive's files."""
        batch = unpickle(file)
        labels: Any = batch.get(self.labels_key)
        rows: Any = batch.get("data")
        wrong = f"{file} is not a file of {self.folder}"
        if not isinstance(labels, list) or not all(type(each) is int for each in labels):
            raise DataError(f"{wrong}: {self.labels_key} {shown(labels)} are not a list of numbers")
        # by strides of zero, a small file could hold a large array
        fits = isinstance(rows, np.ndarray) and rows.nbytes <= file.stat().st_size
        if not fits or rows.dtype != np.uint8 or rows.shape != (len(labels), 3072):
            raise DataError(
                f"{wrong}: data are not {len(labels)} rows of 3,072 bytes, as labels are"
            )
        if any(not 0 <= label < MOST_CLASSES for label in labels):
            raise DataError(f"{wrong}: {self.labels_key} are not class numbers, {shown(labels)}")
        # a row is the red plane, then the green, then the blue
        pixels = rows.reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(pixels), labels

    def _absent(self, what: str, problems: Problems, notes: list[str]) -> None:
        if self.missing == "leave_out":
            notes.append(f"{what}: left out")
        else:
            problems.add(f"{what} (missing=leave_out goes on without it)")

    def _corruptions(
        self, kinds: tuple[str, ...], problems: Problems, notes: list[str]
    ) -> dict[str, ImageArray]:
        folder = find(self.root, self.corrupted)
        if folder is None:
            self._absent(f"there is no folder {self.corrupted}", problems, notes)
            return {}
        labels = _load_labels(folder / "labels.npy", problems)
        if labels is None:
            return {}
        self._count(problems, "corrupted", len(labels), f"number of labels in {folder}")
        rows = len(labels) // len(SEVERITIES)
        if not np.array_equal(labels, np.tile(labels[:rows], len(SEVERITIES))):
            problems.add(
                f"{folder / 'labels.npy'} is not the test labels five times, once for each severity"
            )
        sets = {}
        for kind in kinds:
            file = folder / f"{kind}.npy"
            pixels = _load(file, problems)
            if pixels is None or not _are_images(pixels, len(labels), file, problems):
                continue
            for severity in SEVERITIES:
                part = slice((severity - 1) * rows, severity * rows)
                name = f"{file} at severity {severity}"
                sets[f"{kind}/{severity}"] = ImageArray(pixels[part], labels[part].tolist(), name)
        return sets

    def _sampled_anew(self, problems: Problems, notes: list[str]) -> dict[str, ImageArray]:
        folder = find(self.root, "CIFAR-10.1", "cifar10_1") or self.root
        folder = find(folder, "datasets") or folder
        sets = {}
        for version in ("v4", "v6"):
            stem = f"cifar10.1_{version}"
            file = folder / f"{stem}_data.npy"
            if not file.is_file():
                self._absent(f"there is no {file}", problems, notes)
                continue
            labels = _load_labels(folder / f"{stem}_labels.npy", problems)
            pixels = _load(file, problems)
            if pixels is None or labels is None:
                continue
            if _are_images(pixels, len(labels), file, problems):
                sets[f"cifar10_1/{version}"] = ImageArray(pixels, labels.tolist(), str(file))
                self._count(problems, version, len(labels), f"number of images in {file}")
        return sets


@dataclass(frozen=True, kw_only=True)
class cifar10(Cifar):
    """CIFAR-10 with CIFAR-10-C and CIFAR-10.1 as shifts.

    - Input: RGB, 32x32. Labels: 10 classes.
    - Files: `<root>/cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}` (the archive for
      Python), `<root>/CIFAR-10-C/{<kind>,labels}.npy`, and in `<root>/CIFAR-10.1/` or the root
      itself `cifar10.1_{v4,v6}_{data,labels}.npy`. In place of the archive, `train.parquet` and
      `test.parquet` in the root do (columns image, label; needs pyarrow).
    - Splits: 50,000 training images, of which `val_share` are id_val; 10,000 are id_test.
    - `c`: 15 kinds of corruption at 5 severities, shifts `<kind>/<severity>`: rows
      10,000 (s - 1) to 10,000 s of each file. Over all of them: the plain mean error; there is no
      baseline to divide by, as ImageNet-C has it.
    - `10.1`: shifts `cifar10_1/v4` (2,021 images) and `cifar10_1/v6` (2,000, the one its authors
      recommend), new images by CIFAR's recipe.
    - Metric: accuracy. Licence: none stated for CIFAR-10; -C: CC BY 4.0; 10.1: MIT.
      Size: 160 MB, 2.9 GB, 25 MB.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; Hendrycks and
        Dietterich, ICLR 2019 (-C); Recht, Roelofs, Schmidt and Shankar, 2018 (10.1).
    """

    shifts: tuple[str, ...] = ("c", "10.1")

    pretraining_half = True
    known_shifts = ("c", "10.1")
    folder = "cifar-10-batches-py"
    train_files = tuple(f"data_batch_{number}" for number in range(1, 6))
    test_file = "test_batch"
    names_file = "batches.meta"
    names_key = "label_names"
    labels_key = "labels"
    corrupted = "CIFAR-10-C"
    download_hint = (
        "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-10-python.tar.gz); "
        "https://zenodo.org/record/2535967 (CIFAR-10-C); "
        "https://github.com/modestyachts/CIFAR-10.1 (datasets/)"
    )
    official: ClassVar[Mapping[str, int]] = {
        "classes": 10,
        "train": 50_000,
        "test": 10_000,
        "corrupted": 50_000,
        "v4": 2_021,
        "v6": 2_000,
    }


@dataclass(frozen=True, kw_only=True)
class cifar100(Cifar):
    """CIFAR-100 with CIFAR-100-C as shifts.

    - Input: RGB, 32x32. Labels: 100 classes (the fine ones).
    - Files: `<root>/cifar-100-python/{train,test,meta}` (the archive for Python) and
      `<root>/CIFAR-100-C/{<kind>,labels}.npy`. In place of the archive, `train.parquet` and
      `test.parquet` in the root do (columns image, label; needs pyarrow).
    - Splits and shifts: as CIFAR-10, without 10.1. Metric: accuracy.
    - Licence: none stated for CIFAR-100; -C: CC BY 4.0. Size: 160 MB and 2.9 GB.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; Hendrycks and
        Dietterich, ICLR 2019 (-C).
    """

    folder = "cifar-100-python"
    train_files = ("train",)
    test_file = "test"
    names_file = "meta"
    names_key = "fine_label_names"
    labels_key = "fine_labels"
    corrupted = "CIFAR-100-C"
    download_hint = (
        "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-100-python.tar.gz); "
        "https://zenodo.org/record/3555552 (CIFAR-100-C)"
    )
    official: ClassVar[Mapping[str, int]] = {
        "classes": 100,
        "train": 50_000,
        "test": 10_000,
        "corrupted": 50_000,
    }


class _Unpickler(pickle.Unpickler):
    """Read arrays and plain values alone: a pickle may otherwise run any code."""

    ALLOWED: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # as numpy 1 and numpy 2 name it; either reads files of the other
        ("numpy.core.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.ndarray(0).__reduce__()[0],
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Return the few names that the archive's files need."""
        if (module, name) in self.ALLOWED:
            return self.ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def unpickle(file: Path) -> dict[str, Any]:
    """Return what a file of CIFAR's Python archives holds.

    Raises:
        DataError: It is damaged, or holds more than arrays, numbers and text.
    """
    with reading(file, "a file of CIFAR"), regular(file).open("rb") as opened:
        held = _Unpickler(opened).load()
    if not isinstance(held, dict):
        raise DataError(f"{file} cannot be read as a file of CIFAR (it holds no table)")
    return held


def _load(file: Path, problems: Problems) -> _Array | None:
    """Return an array mapped from a file, or None and a problem."""
    if not file.exists():
        problems.add(f"there is no {file}")
        return None
    try:
        return array_of(file)
    except DataError as error:
        problems.add(str(error))
        return None


def _load_labels(file: Path, problems: Problems) -> _Array | None:
    """Return the labels `[N]` of a file, or None and a problem."""
    labels = _load(file, problems)
    if labels is None:
        return None
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.max() < MOST_CLASSES:
        problems.add(
            f"{file} is {labels.dtype} {list(labels.shape)} and not a list of class numbers"
        )
        return None
    return labels.astype(np.int64)


def _are_images(pixels: _Array, labels: int, file: Path, problems: Problems) -> bool:
    if pixels.dtype == np.uint8 and pixels.shape == (labels, 32, 32, 3):
        return True
    problems.add(
        f"{file} is {pixels.dtype} {list(pixels.shape)}; its labels ask for uint8 "
        f"[{labels}, 32, 32, 3]"
    )
    return False
