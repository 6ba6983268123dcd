"""Anybody's images in folders."""

from dataclasses import dataclass
from pathlib import Path

from gmixout.data.base import Benchmark
from gmixout.data.folders import find, pictures, read_classes, subfolders
from gmixout.data.images import ImageSet
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.source import ImageBenchmark, Problems, Source

SHIFT = "shift_"
SPELLINGS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Names of the folders that are no shifts, in any case."""


@dataclass(frozen=True)
class imagefolder(Source):
    """Your own images: `train/`, `val/`, and any number of `shift_<name>/`.

    - Input: image files that Pillow can read, in any size; they come as RGB, turned as their EXIF
      data says.
    - Labels: the class folders of `train/`, sorted.
    - Files: `<root>/{train,val,shift_<name>}/<class>/*` and, if there is one, `test/<class>/*`;
      images may lie in folders in a class's folder. Other files are passed over, which a note says.
      `valid/` and `validation/` do for `val/`.
    - Domains: each `shift_<name>` is a shift called `<name>`; a shift may lack classes, and is
      then still asked about all of them.
    - Splits: id_val is `val/`, id_test is `test/`. Without `test/`, a fixed stratified half of
      `val/` is id_val and the other half id_test. Metric: accuracy.
    """

    where = (
        "your own images, laid out as train/<class>/*, val/<class>/*, shift_<name>/<class>/* and "
        "perhaps test/<class>/*"
    )

    def read(self, problems: Problems) -> ImageBenchmark:
        """Looks at the folders."""
        parts = self._parts()
        for name in ("train", "val"):
            if name not in parts:
                problems.add(f"there is no folder {self.root / name}")
        problems.settle(self)
        classes = subfolders(parts["train"])
        sets = {name: self._images(parts[name], classes, problems) for name in parts}
        used = {folder.name for folder in parts.values()}
        notes = [f"{name}/ is not used" for name in subfolders(self.root) if name not in used]
        shifts = {name: each for name, each in sets.items() if name not in SPELLINGS}
        if not shifts:
            notes.append(f"there is no {SHIFT}<name>/: no shift to test on but corruptions, if any")
        id_val, val = sets["val"], parts["val"].name
        if "test" in sets:
            id_test = sets["test"]
        else:
            halves = stratified(id_val.labels, (0.5,), SPLIT_SEED)
            id_val, id_test = (id_val.subset(half) for half in halves)
            notes.append(f"there is no test/: one half of {val}/ is id_val, the other id_test")
            if not (len(id_val) and len(id_test)):
                problems.add(
                    f"{parts['val']} has too few images of each class to give one half to id_val "
                    "and one to id_test: add images, or a folder test/"
                )
        for name in ("val", "test"):
            if absent := self._absent(sets.get(name), classes):
                notes.append(f"{name} has no image of {absent}")
        return Benchmark(
            name=str(self),
            classes=tuple(classes),
            train=sets["train"],
            id_val=id_val,
            id_test=id_test,
            shifts={name.removeprefix(SHIFT): images for name, images in shifts.items()},
            notes=tuple(notes),
        )

    def load_tests(self) -> ImageBenchmark:
        """Gives what there is to test on: of `val/`, `test/` and the shifts, all that is there.

        Raises:
            DataError: As `check`, or none of them is there.
        """
        problems = Problems()
        self._check_root(problems)
        parts = self._parts()
        if "train" in parts:
            return super().load_tests()
        if not parts:
            problems.fail(self, f"there is no val/, test/ or {SHIFT}<name>/ in {self.root}")
        classes = sorted({each for folder in parts.values() for each in subfolders(folder)})
        sets = {
            name.removeprefix(SHIFT): self._images(folder, classes, problems)
            for name, folder in parts.items()
        }
        if len(sets) < len(parts):
            problems.add(f"a shift is called {' or '.join(SPELLINGS)}: rename its folder")
        problems.settle(self)
        return self.tests_alone(tuple(classes), sets)

    def _parts(self) -> dict[str, Path]:
        """The folders that are used: train, val and test, in any spelling, and the shifts."""
        found = {part: find(self.root, *names) for part, names in SPELLINGS.items()}
        shifts = (n for n in subfolders(self.root) if n.startswith(SHIFT) and n != SHIFT)
        found |= {name: self.root / name for name in shifts}
        return {name: folder for name, folder in found.items() if folder is not None}

    def _images(self, folder: Path, classes: list[str], problems: Problems) -> ImageSet:
        if not subfolders(folder):
            count = len(pictures(folder))
            problems.add(f"{folder} holds {count:,} images and no folders: sort them by class")
        labels = {each: label for label, each in enumerate(classes)}
        return read_classes(folder, labels, problems).images(upright=True)

    @staticmethod
    def _absent(images: ImageSet | None, classes: list[str]) -> str:
        """The classes that a set has no image of, for a note."""
        if images is None:
            return ""
        present = set(images.labels.tolist())
        return ", ".join(name for label, name in enumerate(classes) if label not in present)
