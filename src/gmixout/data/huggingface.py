"""Any image classification data set of the Hugging Face `datasets` library."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmixout.data.images import ImageSet
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.source import Problems, Source, Splits
from gmixout.errors import DataError, needs

if TYPE_CHECKING:
    from PIL.Image import Image


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
        from PIL import Image

        held = self._rows[position][self._column][0].as_py()
        stored = held["path"] if held["bytes"] is None else BytesIO(held["bytes"])
        with Image.open(stored) as opened:
            picture: Image.Image = opened.convert("RGB")
        return picture

    def _name(self, position: int) -> str:
        return f"row {position} of {self._set_name}"


@dataclass(frozen=True, kw_only=True)
class huggingface(Source):
    """Any image classification data set of the Hugging Face `datasets` library.

    - Input: an image column, as the library stores it; images come as RGB.
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

    where = (
        "https://huggingface.co/datasets: on a machine with a connection "
        "`datasets.load_dataset(NAME).save_to_disk(DIR)`, then give DIR as the root"
    )

    def read(self, problems: Problems) -> Splits:
        """Looks at the splits and their columns."""
        found = self._open(problems)
        own = [name for name in (self.train, self.val, self.test) if name]
        shifts = self.shifts or tuple(name for name in found if name not in own)
        for name in (*own, *shifts):
            if name not in found:
                problems.add(f"there is no split {name}; there is: {', '.join(found)}")
            else:
                for column in {self.image, self.label} - set(found[name].column_names):
                    there = ", ".join(found[name].column_names)
                    problems.add(f"split {name} has no column {column}; it has: {there}")
        problems.settle(self)
        classes = self._classes(found[self.train])
        sets = {
            name: self._images(name, found[name], classes, problems) for name in (*own, *shifts)
        }
        problems.settle(self)
        val, notes = sets[self.val], []
        if not shifts:
            notes.append("no split is a shift: nothing to test on but corruptions, if any")
        if self.test:
            id_val, id_test = val, sets[self.test]
        else:
            id_val, id_test = (val.subset(p) for p in stratified(val.labels, (0.5,), SPLIT_SEED))
            notes.append(f"one half of {self.val} is id_val, the other id_test")
        return Splits(
            classes=tuple(map(str, classes)),
            train=sets[self.train],
            id_val=id_val,
            id_test=id_test,
            shifts={name: sets[name] for name in shifts},
            notes=tuple(notes),
        )

    def placed(self) -> Source:
        """The same data set; a name on the hub is no folder."""
        return super().placed() if self.root.expanduser().exists() else self

    def _check_root(self, problems: Problems) -> None:
        """A name on the hub is no folder."""

    def _open(self, problems: Problems) -> Any:
        with needs("datasets", "hub"):
            import datasets
            from huggingface_hub import snapshot_download
        place = str(self.root)
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

    def _classes(self, rows: Any) -> list[Any]:
        import datasets

        feature = rows.features[self.label]
        if isinstance(feature, datasets.ClassLabel):
            return list(feature.names)
        return sorted(set(rows[self.label]))

    def _images(self, name: str, rows: Any, classes: list[Any], problems: Problems) -> ImageRows:
        import datasets

        values = rows[self.label][:]
        feature = rows.features[self.label]
        if isinstance(feature, datasets.ClassLabel):
            # the same name may have another number in another split
            values = [feature.int2str(value) if value >= 0 else None for value in values]
        label_of = {value: label for label, value in enumerate(classes)}
        unknown = {value for value in values if value not in label_of}
        if unknown:
            problems.add(
                f"split {name} has labels that {self.train} has not: {min(map(str, unknown))}"
            )
        labels = [label_of.get(value, -1) for value in values]
        return ImageRows(
            rows.with_format("arrow"), self.image, labels, f"{self.root}, split {name}"
        )
