"""Any image classification data set of the Hugging Face `datasets` library."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmixout.data.base import Benchmark
from gmixout.data.decoding import decoded
from gmixout.data.held_out import HeldOut
from gmixout.data.imagefolder import ALL
from gmixout.data.images import ImageSet
from gmixout.data.reading import irregular_file, reading
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.several import Parts, joined
from gmixout.data.source import ImageBenchmark, Problems, Source
from gmixout.errors import DataError, needs
from gmixout.settings import shown

if TYPE_CHECKING:
    from PIL.Image import Image

_VALIDATION = ("validation", "val", "valid", "dev")
"""Names of a validation split; the first is the default."""
_TEST = "test"
_SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes, of several splits and of one."""
_ONE_CLASS = ("int", "uint", "float", "bool", "string", "large_string", "null")
"""Prefixes of the types that a label column may have."""


class ImageRows(ImageSet):
    """The rows of a `datasets.Dataset`, whose images are read undecoded from its files.

    Args:
        rows: The data set, in the format "arrow", which decodes nothing.
        column: Name of the image column.
        labels: `[N]`.
        name: What errors call the data set.
    """

    def __init__(self, rows: Any, column: str, labels: list[int], name: str) -> None:
        super().__init__(labels)
        self._rows, self._column, self._set_name = rows, column, name

    def _decode(self, position: int) -> "Image":
        held = self._stored(position)
        if not held:
            raise ValueError("the row holds none")
        return decoded(BytesIO(held) if isinstance(held, bytes) else held, upright=True)

    def _stored(self, position: int) -> Path | bytes:
        held = self._rows[position][self._column][0].as_py()
        if held is None:
            return b""
        return Path(held["path"]) if held["bytes"] is None else bytes(held["bytes"])

    def _name(self, position: int) -> str:
        return f"row {position} of {self._set_name}"


@dataclass(frozen=True, kw_only=True)
class huggingface(Source):
    """Any image classification data set of the Hugging Face `datasets` library.

    - Input: an image column, as the library stores it; images are read as RGB
      and rotated by their EXIF data.
    - Labels: a column of class labels, numbers or text; classes are the library's, or the values
      that occur in the training split, sorted.
    - Files: the root is a folder that `save_to_disk` wrote, a folder that `load_dataset` can read
      or a parquet file (the library keeps a converted copy in its own cache), or the name of a
      data set whose files are in the hub's local cache: nothing is downloaded.
    - Columns: where there is no column of the name, the only one of its kind is taken.
    - Splits: by name (see the options); `val`, `valid` and `dev` also work for `validation`. A
      split without labels is left out, unless it is named. Without a validation split, images of
      the training split are held out by a hash of their content (`split_by_content`); with one, but
      without a test split, one fixed stratified half of it is id_val and the other id_test.
      Metric: accuracy.
    - Needs the package `datasets`.

    Args:
        root: Folder of the data, or its name on the hub.
        image: Name of the image column.
        label: Name of the label column.
        train: Name of the training split.
        val: Name of the in-domain validation split.
        test: Name of the in-domain test split; None: the split called test, if there is one; empty:
            none.
        shifts: Names of the splits that are shifts; None: all others; empty: none.
        id_val_share: Share of the training images that is held out for in-domain validation, where
            there is no validation split.
        id_test_share: Share of them that is held out for in-domain test, where there is neither a
            validation nor a test split.
    """

    image: str = "image"
    label: str = "label"
    train: str = "train"
    val: str = "validation"
    test: str | None = None
    shifts: tuple[str, ...] | None = None
    id_val_share: float = 0.2
    id_test_share: float = 0.2

    own = True
    download_hint = (
        "https://huggingface.co/datasets: on a machine with a connection "
        "`datasets.load_dataset(NAME).save_to_disk(DIR)`, then give DIR as the root"
    )

    @classmethod
    def recognize(cls, root: Path) -> Path | None:
        """Accept what `save_to_disk` wrote, and parquet files."""
        if root.is_file():
            return root if root.suffix == ".parquet" else None
        saved = any((root / name).is_file() for name in _SAVED)
        stored = (each for folder in (root, root / "data") for each in folder.glob("*.parquet"))
        return root if saved or next(stored, None) else None

    def load_tests(self) -> ImageBenchmark:
        """Return every image as a test image: the shifts, and all others in one set, `all`.

        Raises:
            DataError: As `check`.
        """
        found = self.load()
        own = {"train": found.train, "val": found.id_val, "test": found.id_test}
        sets = {ALL: joined(own).grouped(None), **found.shifts}
        return self.tests_alone(found.classes, sets)

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the splits and their columns."""
        found = self._open(problems)
        asked = [self.train, *filter(None, [self.test]), *(self.shifts or ())]
        asked += [] if self.val == _VALIDATION[0] else [self.val]
        for name in asked:
            if name not in found:
                problems.add(f"there is no split {name}; there is: {', '.join(found)}")
        problems.settle(self)
        image, label, notes = self._columns(found[self.train], problems)
        used = [n for n in found if self.shifts is None or n in (*asked, *_VALIDATION, _TEST)]
        # as a split without labels may have no column of them
        bare = [n for n in used if n not in asked and label not in found[n].column_names]
        used = [name for name in used if name not in bare]
        rows = {name: self._checked(name, found[name], image, label, problems) for name in used}
        problems.settle(self)
        values = {name: self._values(name, rows[name], label, problems) for name in used}
        bare += [n for n in used if n not in asked and values[n] and set(values[n]) == {None}]
        notes += [f"split {name} has no labels: left out" for name in bare]
        val, test, shifts = self._roles([name for name in used if name not in bare])
        names = getattr(rows[self.train].features[label], "names", None)
        classes = names or sorted(set(values[self.train]) - {None})
        sets = {
            name: self._images(name, rows[name], image, values[name], classes, problems)
            for name in dict.fromkeys([self.train, *filter(None, [val, test]), *shifts])
        }
        problems.settle(self)
        own = sets[self.train], sets.get(val), sets.get(test)
        train, id_val, id_test = self._parts(*own, tuple(map(str, classes)), problems, notes)
        if not shifts:
            notes.append("no split is a shift: only corruptions, if any, to test on")
        return Benchmark(
            name=str(self),
            classes=tuple(map(str, classes)),
            train=train,
            id_val=id_val,
            id_test=id_test,
            shifts={name: sets[name] for name in shifts},
            notes=tuple(notes),
        )

    def _roles(self, names: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
        """Return the names of the validation and test split ("": none), and of the shifts."""
        usual = _VALIDATION if self.val == _VALIDATION[0] else (self.val,)
        val = next((name for name in usual if name in names), "")
        test = _TEST if self.test is None and _TEST in names else self.test or ""
        own = (self.train, val, test)
        others = tuple(name for name in names if name not in own)
        return val, test, others if self.shifts is None else self.shifts

    def _parts(
        self,
        train: ImageSet,
        val: ImageSet | None,
        test: ImageSet | None,
        classes: Sequence[str],
        problems: Problems,
        notes: list[str],
    ) -> Parts:
        """Return the training, validation and test images; make missing ones, with a note."""
        if val is None:
            shares = {"val": self.id_val_share, "test": self.id_test_share}
            missing = ["val"] if test is not None else ["val", "test"]
            held = HeldOut({part: shares[part] for part in missing}, classes, problems)
            parts, train = held.split(train)
            notes += held.notes
            return train, parts["val"], parts["test"] if test is None else test
        if test is None:
            val, test = (val.subset(half) for half in stratified(val.labels, (0.5,), SPLIT_SEED))
            notes.append("one half of the validation split is id_val, the other id_test")
        return train, val, test

    def placed(self) -> Source:
        """Return the same data set; a name on the hub is not a folder."""
        return super().placed() if self.root.expanduser().exists() else self

    def _check_root(self, problems: Problems) -> None:
        """Accept any root: it is a name on the hub, not a folder."""

    def _open(self, problems: Problems) -> Any:
        with needs("datasets", "hub"):
            import datasets
            from huggingface_hub import snapshot_download
        place = str(self.root)
        if self.root.is_dir() and (odd := irregular_file(self.root)):
            problems.fail(self, f"{odd} is not a regular file")
        try:
            if not self.root.exists():
                place = snapshot_download(place, repo_type="dataset", local_files_only=True)
            if any((Path(place) / name).is_file() for name in _SAVED):
                found = datasets.load_from_disk(place)
            elif self.root.is_file():
                found = datasets.load_dataset("parquet", data_files=place)
            else:
                found = datasets.load_dataset(place, trust_remote_code=False)
        # what it raises depends on how the data is stored and where it looked for it
        except Exception as error:
            if isinstance(error, DataError):
                raise
            problems.fail(
                self, f"it cannot be loaded without a download ({type(error).__name__}: {error})"
            )
        if isinstance(found, datasets.Dataset):
            return {self.train: found}
        return dict(found)

    def _columns(self, rows: Any, problems: Problems) -> tuple[str, str, list[str]]:
        """Return the names of the image and the label column, and notes on them."""
        import datasets

        found, notes = {}, []
        for name, kind in (("image", datasets.Image), ("label", datasets.ClassLabel)):
            column = getattr(self, name)
            if column == name and column not in rows.column_names:
                fitting = [n for n, feature in rows.features.items() if isinstance(feature, kind)]
                if len(fitting) == 1:
                    column = fitting[0]
                    notes.append(f"column {column} is read as {name}")
                elif fitting:
                    problems.add(
                        f"there is no column {name}, and {' or '.join(fitting)} may be meant: name "
                        f"it with {name}={fitting[0]}"
                    )
            found[name] = column
        return found["image"], found["label"], notes

    def _checked(
        self, name: str, rows: Any, image_column: str, label_column: str, problems: Problems
    ) -> Any:
        """Return the rows of a split with images as such, and note what is wrong with columns."""
        import datasets

        for column in {image_column, label_column} - set(rows.column_names):
            there = ", ".join(rows.column_names)
            problems.add(f"split {name} has no column {column}; it has: {there}")
            return rows
        if rows.features[image_column] == datasets.Value("binary"):
            rows = rows.cast_column(image_column, datasets.Image())
        image, label = rows.features[image_column], rows.features[label_column]
        if not isinstance(image, datasets.Image):
            problems.add(
                f"split {name}: column {image_column} holds {shown(image)} and no images; "
                f"cast_column({image_column!r}, datasets.Image()) reads files and bytes"
            )
        if not isinstance(label, datasets.ClassLabel) and not (
            isinstance(label, datasets.Value) and label.dtype.startswith(_ONE_CLASS)
        ):
            problems.add(
                f"split {name}: column {label_column} holds {shown(label)}, where the one class of "
                "an image is needed, as a class label, a number or text"
            )
        if any(not isinstance(each, str) for each in getattr(label, "names", None) or ()):
            problems.add(f"split {name}: the class names {shown(label.names)} are not all text")
        return rows

    def _values(self, name: str, rows: Any, column: str, problems: Problems) -> list[Any]:
        """Return each row's label: a class name, a number or text; None if it has none."""
        import datasets

        feature = rows.features[column]
        with reading(self.root, "a data set", lambda: f", split {name}, column {column}"):
            values = list(rows[column][:])
            set(values)  # lists, where the features say numbers, are not classes
        if not isinstance(feature, datasets.ClassLabel):
            return [None if value != value else value for value in values]  # nan: nothing
        # the same name may have another number in another split
        names = dict(enumerate(feature.names))
        for row, value in enumerate(values):
            if value not in names and value not in (None, -1):
                problems.add(
                    f"split {name}, row {row}: {shown(value)} is not a class label; they go from 0 "
                    f"to {len(names) - 1}"
                )
                break
        return [names.get(value) for value in values]

    def _images(
        self,
        name: str,
        rows: Any,
        column: str,
        values: list[Any],
        classes: list[Any],
        problems: Problems,
    ) -> ImageRows:
        label_of = {value: label for label, value in enumerate(classes)}
        if None in values:
            problems.add(
                f"split {name}: {values.count(None):,} of {len(values):,} rows have no label, row "
                f"{values.index(None)} first"
            )
        unknown = {value for value in values if value not in label_of} - {None}
        if unknown:
            problems.add(
                f"split {name} has labels that {self.train} lacks: {min(map(str, unknown))}"
            )
        labels = [label_of.get(value, -1) for value in values]
        return ImageRows(rows.with_format("arrow"), column, labels, f"{self.root}, split {name}")
