"""Any image classification data set of the Hugging Face `datasets` library."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmixout.data.base import Benchmark
from gmixout.data.images import ImageSet, decoded
from gmixout.data.reading import irregular_file, reading
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.source import ImageBenchmark, Problems, Source
from gmixout.errors import DataError, needs
from gmixout.settings import shown

if TYPE_CHECKING:
    from PIL.Image import Image

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
        held = self._rows[position][self._column][0].as_py()
        if held is None:
            raise ValueError("the row holds none")
        file = Path(held["path"]) if held["bytes"] is None else BytesIO(held["bytes"])
        return decoded(file, upright=True)

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
      (the library keeps a converted copy in its own cache), or the name of a data set whose files
      are in the hub's local cache: nothing is downloaded.
    - Splits: by name (see the options). Without a test split, one fixed stratified half of the
      validation split is id_val and the other id_test. Metric: accuracy.
    - Needs the package `datasets`.

    Args:
        root: Folder of the data, or its name on the hub.
        image: Name of the image column.
        label: Name of the label column.
        train: Name of the training split.
        val: Name of the in-domain validation split.
        test: Name of the in-domain test split; empty: half of the validation split.
        shifts: Names of the splits that are shifts; empty: all others.
    """

    image: str = "image"
    label: str = "label"
    train: str = "train"
    val: str = "validation"
    test: str = ""
    shifts: tuple[str, ...] = ()

    download_hint = (
        "https://huggingface.co/datasets: on a machine with a connection "
        "`datasets.load_dataset(NAME).save_to_disk(DIR)`, then give DIR as the root"
    )

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the splits and their columns."""
        found = self._open(problems)
        own = [name for name in (self.train, self.val, self.test) if name]
        shifts = self.shifts or tuple(name for name in found if name not in own)
        for name in (*own, *shifts):
            if name not in found:
                problems.add(f"there is no split {name}; there is: {', '.join(found)}")
            else:
                self._check_columns(name, found[name], problems)
        problems.settle(self)
        values = {name: self._values(name, found[name], problems) for name in (*own, *shifts)}
        bare = [n for n in shifts if not self.shifts and values[n] and set(values[n]) == {None}]
        notes = [f"split {name} has no labels: left out" for name in bare]
        shifts = tuple(name for name in shifts if name not in bare)
        feature = found[self.train].features[self.label]
        classes = getattr(feature, "names", None) or sorted(set(values[self.train]) - {None})
        sets = {
            name: self._images(name, found[name], values[name], classes, problems)
            for name in (*own, *shifts)
        }
        problems.settle(self)
        val = sets[self.val]
        if not shifts:
            notes.append("no split is a shift: only corruptions, if any, to test on")
        if self.test:
            id_val, id_test = val, sets[self.test]
        else:
            id_val, id_test = (val.subset(p) for p in stratified(val.labels, (0.5,), SPLIT_SEED))
            notes.append(f"one half of {self.val} is id_val, the other id_test")
        return Benchmark(
            name=str(self),
            classes=tuple(map(str, classes)),
            train=sets[self.train],
            id_val=id_val,
            id_test=id_test,
            shifts={name: sets[name] for name in shifts},
            notes=tuple(notes),
        )

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
            if (Path(place) / "dataset_dict.json").is_file():
                found = datasets.load_from_disk(place)
            else:
                found = datasets.load_dataset(place, trust_remote_code=False)
        # what it raises depends on how the data is stored and where it looked for it
        except Exception as error:
            if isinstance(error, DataError):
                raise
            problems.fail(
                self, f"it cannot be loaded without a download ({type(error).__name__}: {error})"
            )
        if not isinstance(found, datasets.DatasetDict):
            problems.fail(self, "it is one split, where a DatasetDict of several is needed")
        return found

    def _check_columns(self, name: str, rows: Any, problems: Problems) -> None:
        """Note what is wrong with the columns of a split."""
        import datasets

        for column in {self.image, self.label} - set(rows.column_names):
            there = ", ".join(rows.column_names)
            problems.add(f"split {name} has no column {column}; it has: {there}")
            return
        image, label = rows.features[self.image], rows.features[self.label]
        if not isinstance(image, datasets.Image):
            problems.add(
                f"split {name}: column {self.image} holds {shown(image)} and no images; "
                f"cast_column({self.image!r}, datasets.Image()) reads files and bytes"
            )
        if not isinstance(label, datasets.ClassLabel) and not (
            isinstance(label, datasets.Value) and label.dtype.startswith(_ONE_CLASS)
        ):
            problems.add(
                f"split {name}: column {self.label} holds {shown(label)}, where the one class of "
                "an image is needed, as a class label, a number or text"
            )
        if any(not isinstance(each, str) for each in getattr(label, "names", None) or ()):
            problems.add(f"split {name}: the class names {shown(label.names)} are not all text")

    def _values(self, name: str, rows: Any, problems: Problems) -> list[Any]:
        """Return each row's label: a class name, a number or text; None if it has none."""
        import datasets

        feature = rows.features[self.label]
        with reading(self.root, "a data set", lambda: f", split {name}, column {self.label}"):
            values = list(rows[self.label][:])
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
        self, name: str, rows: Any, values: list[Any], classes: list[Any], problems: Problems
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
        return ImageRows(
            rows.with_format("arrow"), self.image, labels, f"{self.root}, split {name}"
        )
