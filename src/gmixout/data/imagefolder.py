"""Anybody's images in folders."""

from dataclasses import dataclass

from gmixout.data.folders import Listing, read_classes, subfolders
from gmixout.data.images import SPLIT_SEED, stratified
from gmixout.data.source import Problems, Source, Splits

SHIFT = "shift_"


@dataclass(frozen=True)
class imagefolder(Source):
    """Your own images: `train/`, `val/`, and any number of `shift_<name>/`.

    - Input: image files that Pillow can read, in any size; they come as RGB.
    - Labels: the class folders of `train/`, sorted.
    - Files: `<root>/{train,val,shift_<name>}/<class>/*` and, if there is one, `test/<class>/*`.
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
        if not shifts:
            problems.add(f"there is no folder {self.root / SHIFT}<name>: no shift to test on")
        problems.settle(self)
        classes = subfolders(self.root / "train")
        labels = {name: label for label, name in enumerate(classes)}

        def listing(name: str) -> Listing:
            return read_classes(self.root / name, labels, problems)

        val = listing("val").images()
        notes = [f"{name}/ is not used" for name in there if not _used(name)]
        if "test" in there:
            id_val, id_test = val, listing("test").images()
        else:
            id_val, id_test = (val.subset(p) for p in stratified(val.labels, (0.5,), SPLIT_SEED))
            notes.append("there is no test/: one half of val/ is id_val, the other id_test")
        return Splits(
            classes=tuple(classes),
            train=listing("train").images(),
            id_val=id_val,
            id_test=id_test,
            shifts={name.removeprefix(SHIFT): listing(name).images() for name in shifts},
            notes=tuple(notes),
        )


def _used(name: str) -> bool:
    return name in ("train", "val", "test") or name.startswith(SHIFT)
