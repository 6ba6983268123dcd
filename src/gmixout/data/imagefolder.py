"""Anybody's images in folders."""

from dataclasses import dataclass

from gmixout.data.folders import pictures, read_classes, subfolders
from gmixout.data.images import ImageSet
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.source import Problems, Source, Splits, Tests

SHIFT = "shift_"


@dataclass(frozen=True)
class imagefolder(Source):
    """Your own images: `train/`, `val/`, and any number of `shift_<name>/`.

    - Input: image files that Pillow can read, in any size; they come as RGB, turned as their EXIF
      data says.
    - Labels: the class folders of `train/`, sorted.
    - Files: `<root>/{train,val,shift_<name>}/<class>/*` and, if there is one, `test/<class>/*`;
      images may lie in folders in a class's folder. Other files are passed over, which a note says.
    - Domains: each `shift_<name>` is a shift called `<name>`; a shift may lack classes, and is
      then still asked about all of them.
    - Splits: id_val is `val/`, id_test is `test/`. Without `test/`, a fixed stratified half of
      `val/` is id_val and the other half id_test. Metric: accuracy.
    """

    where = (
        "your own images, laid out as train/<class>/*, val/<class>/*, shift_<name>/<class>/* and "
        "perhaps test/<class>/*"
    )

    def read(self, problems: Problems) -> Splits:
        """Looks at the folders."""
        there = subfolders(self.root)
        for name in ("train", "val"):
            if name not in there:
                problems.add(f"there is no folder {self.root / name}")
        shifts = [name for name in there if name.startswith(SHIFT) and name != SHIFT]
        problems.settle(self)
        classes = subfolders(self.root / "train")

        def images(name: str) -> ImageSet:
            return self._images(name, classes, problems)

        val = images("val")
        notes = [f"{name}/ is not used" for name in there if not _used(name)]
        if not shifts:
            notes.append(f"there is no {SHIFT}<name>/: no shift to test on but corruptions, if any")
        if "test" in there:
            id_val, id_test = val, images("test")
        else:
            id_val, id_test = (val.subset(p) for p in stratified(val.labels, (0.5,), SPLIT_SEED))
            notes.append("there is no test/: one half of val/ is id_val, the other id_test")
        return Splits(
            classes=tuple(classes),
            train=images("train"),
            id_val=id_val,
            id_test=id_test,
            shifts={name.removeprefix(SHIFT): images(name) for name in shifts},
            notes=tuple(notes),
        )

    def load_tests(self) -> Tests:
        """Gives what there is to test on: of `val/`, `test/` and the shifts, all that is there.

        Raises:
            DataError: As `check`, or none of them is there.
        """
        problems = Problems()
        self._check_root(problems)
        there = subfolders(self.root)
        if "train" in there:
            return super().load_tests()
        names = [name for name in there if _used(name)]
        if not names:
            problems.fail(self, f"there is no val/, test/ or {SHIFT}<name>/ in {self.root}")
        classes = sorted({each for name in names for each in subfolders(self.root / name)})
        sets = {name.removeprefix(SHIFT): self._images(name, classes, problems) for name in names}
        problems.settle(self)
        return Tests(tuple(classes), sets)

    def _images(self, name: str, classes: list[str], problems: Problems) -> ImageSet:
        folder = self.root / name
        if not subfolders(folder):
            count = len(pictures(folder))
            problems.add(f"{folder} holds {count:,} images and no folders: sort them by class")
        labels = {each: label for label, each in enumerate(classes)}
        return read_classes(folder, labels, problems).images(upright=True)


def _used(name: str) -> bool:
    return name in ("train", "val", "test") or name.startswith(SHIFT)
