"""A user's images in folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from unicodedata import normalize

from gmixout.data.base import Benchmark
from gmixout.data.folders import (
    Listing,
    find,
    pass_over_beside,
    pictures,
    read_classes,
    subfolders,
)
from gmixout.data.held_out import HeldOut
from gmixout.data.images import ImageSet, LabelSpace
from gmixout.data.reading import reading
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.several import SeveralDomains, joined, joined_parts, training_note
from gmixout.data.source import ImageBenchmark, Problems
from gmixout.errors import ConfigError
from gmixout.plain import listed

SHIFT = "shift_"
UNKNOWN = "unknown_"
"""Start of the name of a folder of images of classes that training does not know."""
SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names of the folders that are not shifts, in any case."""
ALL = "all"
"""The test set of all images of a folder of classes."""
UNSORTED = "(none)"
"""Class of the unknown images that lie in no folder of a class."""


@dataclass(frozen=True, kw_only=True)
class imagefolder(SeveralDomains):
    """Your own images in folders: one for each class, or `train/`, `val/` and `shift_<name>/`.

    - Input: image files that Pillow can read, in any size; read as RGB and rotated by their EXIF
      data.
    - Labels: the class folders of `train/`, sorted.
    - Files: `<root>/{train,val,test,shift_<name>}/<class>/*`, of which only train is required; or
      `<root>/<class>/*` and `<root>/shift_<name>/<class>/*`. Beside shifts, `unknown_<name>/` holds
      images of classes that training does not know, in folders of these classes or without any:
      they measure how well a model tells them from known ones. Images may lie in folders in a
      class's folder. Other files are skipped with a note. `valid/`, `validation/` and `dev/` also
      work for `val/`. With `layout=domains`, train, val and test (or the root) hold one folder
      per domain, `train/<domain>/<class>/*`, and shifts are as before.
    - Domains: each `shift_<name>` is a shift called `<name>`; a shift may lack classes, and is
      still scored over all of them. A domain that is not trained on is a shift, with its images
      of all three folders.
    - Splits: id_val is `val/`, id_test is `test/`. With `val/` but without `test/`, a fixed
      stratified half of `val/` (of each domain) is id_val and the other half id_test. Without
      `val/`, images of the training classes are held out by a hash of their content: an image
      keeps its split when files are renamed or added, and copies of it are in the same split
      (`split_by_content`). Metric: accuracy.

    Args:
        layout: `train/` holds folders of `classes`, or of `domains` with folders of classes in
            them.
        train_domains: With `layout=domains`: the domains that are finetuned on; empty: all.
        test_domain: With `layout=domains`: leave this domain out: finetune on all others, and test
            on it.
        id_val_share: Share of the training images that is held out for in-domain validation, where
            there is no `val/`.
        id_test_share: Share of them that is held out for in-domain test, where there is neither
            `val/` nor `test/`.
    """

    layout: Literal["classes", "domains"] = "classes"
    id_val_share: float = 0.2
    id_test_share: float = 0.2

    own = True
    download_hint = (
        "your own images, laid out as <class>/*; or as train/<class>/* and optionally "
        "val/<class>/*, test/<class>/* and shift_<name>/<class>/*; or, with layout=domains, as "
        "train/<domain>/<class>/* and so on"
    )

    def __post_init__(self) -> None:
        """Check that domains are named only where there are folders of them."""
        super().__post_init__()
        option, named = self.choice
        if named and self.layout == "classes":
            raise ConfigError(f"imagefolder({option}={','.join(named)}) goes with layout=domains")

    @classmethod
    def recognize(cls, root: Path) -> Path | None:
        """Accept folders with class folders in `train/`, or with two or more class folders."""
        if not root.is_dir():
            return None
        train = find(root, *SPELLINGS["train"])
        inside = [root / n for n in subfolders(root) if not _is_beside(n)] if train is None else []
        classes = [folder for folder in inside if pictures(folder)]
        is_trained_on = train is not None and any(pictures(train / n) for n in subfolders(train))
        return root if is_trained_on or len(classes) > 1 else None

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the folders."""
        parts = self._parts()
        if "train" not in parts:
            problems.fail(self, f"there is no folder {self.root / 'train'}")
        notes = self._unused(parts, problems)
        classes = self._classes({"train": parts["train"]})
        unknown = self._unknown_sets(classes, problems)
        if unknown:
            folders = listed([f"{UNKNOWN}{name}/" for name in unknown])
            notes.append(f"{folders}: images of unknown classes, to see whether the model notices")
        sets = {name: self._images(name, parts[name], classes, problems) for name in parts}
        shifts = {n.removeprefix(SHIFT): sets.pop(n)[""] for n in parts if n not in SPELLINGS}
        trained = self.trained_of(tuple(sets["train"]), problems)
        self._check_domains(parts, sets, trained, problems)
        if "val" not in sets:
            notes += self._hold_out(sets, trained, classes, problems)
        elif "test" not in sets:
            val = parts["val"]
            notes.append(f"there is no test/: one half of {val.name}/ is id_val, the other id_test")
            sets |= self._halves(val, sets["val"], trained, problems)
        for domain, images in _untrained(sets, trained).items():
            if domain in shifts:
                problems.add(f"{self.root / SHIFT}{domain} has the name of a domain: rename it")
            shifts[domain] = images
        if not shifts:
            notes.append(f"there is no {SHIFT}<name>/: only corruptions, if any, to test on")
        notes += self._hint(parts["train"]) if self.layout == "classes" else training_note(trained)
        problems.settle(self)
        train, id_val, id_test = joined_parts(
            {d: (sets["train"][d], sets["val"][d], sets["test"][d]) for d in trained}, problems
        )
        return Benchmark(
            name=str(self),
            classes=tuple(classes),
            train=train,
            id_val=id_val,
            id_test=id_test,
            shifts=shifts,
            unknown=unknown,
            notes=tuple(notes),
        )

    def load_tests(self) -> ImageBenchmark:
        """Return every image as a test image: in sets of their folders, or in one called `all`.

        Raises:
            DataError: As `check`, or there are no images.
        """
        problems = Problems()
        self._check_root(problems)
        parts = self._parts()
        if not parts:
            problems.fail(self, f"there is no folder of images in {self.root}")
        classes = self._classes(parts)
        sets = {
            ALL if folder == self.root else name.removeprefix(SHIFT): self._images(
                name, folder, classes, problems
            )
            for name, folder in parts.items()
        }
        if len(sets) < len(parts):
            taken = [ALL] if self.root in parts.values() else SPELLINGS
            problems.add(f"a shift is called {' or '.join(taken)}: rename its folder")
        unknown = self._unknown_sets(classes, problems)
        problems.settle(self)
        found = self.tests_alone(
            tuple(classes), {name: joined(domains) for name, domains in sets.items()}
        )
        return replace(found, unknown=unknown, notes=problems.notes)

    def _unknown_sets(self, classes: Sequence[str], problems: Problems) -> dict[str, ImageSet]:
        """Return the images of classes that training does not know, by the names of their sets."""
        found: dict[str, ImageSet] = {}
        for name in subfolders(self.root):
            if not _starts(name, UNKNOWN):
                continue
            folder = self.root / name
            inside = subfolders(folder)
            for known in sorted({*inside} & {*classes}):
                problems.add(f"{folder / known} is the folder of a class that training has")
            if not (paths := pictures(folder, problems)):
                problems.add(f"{folder} holds no image")
            own = (*inside, UNSORTED)
            labels = [own.index(p.partition("/")[0]) if "/" in p else len(inside) for p in paths]
            space = LabelSpace(own, ((),) * len(own))
            listing = Listing(folder, paths, labels)
            found[name.removeprefix(UNKNOWN)] = listing.images(space, upright=True)
        return found

    def _parts(self) -> dict[str, Path]:
        """Return the folders in use: train, val and test, in any spelling, and the shifts.

        If there is none of the three, the root is the training folder.
        """
        named = {part: find(self.root, *names) for part, names in SPELLINGS.items()}
        found = {name: folder for name, folder in named.items() if folder is not None}
        inside = subfolders(self.root)
        if not found and not all(map(_is_beside, inside)):
            found["train"] = self.root
        return found | {name: self.root / name for name in inside if _is_shift(name)}

    def _inside(self, folder: Path) -> list[str]:
        """Return the names of the class or domain folders in a folder.

        Beside class folders of the root there may be anything; elsewhere an empty one is a mistake.
        """
        names = subfolders(folder)
        if folder != self.root:
            return names
        return [n for n in names if not _is_beside(n) and pictures(folder / n)]

    def _unused(self, parts: Mapping[str, Path], problems: Problems) -> list[str]:
        """Return notes on what is in the root and is not used."""
        used = {folder.name for folder in parts.values()}
        unused = {n for n in subfolders(self.root) if n not in used and not _starts(n, UNKNOWN)}
        if parts["train"] == self.root:
            unused -= {*self._inside(self.root)}
            return [f"{name}/ holds no image: left out" for name in sorted(unused)]
        pass_over_beside(self.root, problems)
        return [f"{name}/ is not used" for name in sorted(unused)]

    def _folders(self, part: str, folder: Path) -> dict[str, Path]:
        """Return the folders of classes in one of `_parts`, by domain."""
        if self.layout == "classes" or part not in SPELLINGS:
            return {"": folder}
        return {name: folder / name for name in self._inside(folder)}

    def _classes(self, parts: Mapping[str, Path]) -> list[str]:
        """Return the names of the class folders in some of `_parts`, sorted."""
        folders = [f for part, top in parts.items() for f in self._folders(part, top).values()]
        if len(folders) == 1:
            return self._inside(folders[0])
        # a Mac writes the same name in another form of Unicode than most others
        named = {normalize("NFC", name): name for each in folders for name in self._inside(each)}
        return sorted(named.values())

    def _images(
        self, part: str, top: Path, classes: list[str], problems: Problems
    ) -> dict[str, ImageSet]:
        """Return the images of one of `_parts`, by domain."""
        labels = {each: label for label, each in enumerate(classes)}
        found: dict[str, ImageSet] = {}
        for domain, folder in self._folders(part, top).items():
            if not self._inside(folder):
                count = len(pictures(folder))
                problems.add(f"{folder} holds {count:,} images and no folders: sort them by class")
            names = self._inside(folder)
            if part != "train":  # an empty folder is a class that the set lacks
                names = [name for name in names if pictures(folder / name)]
            listing = read_classes(folder, labels, problems, names)
            found[domain] = listing.images(upright=True)
        return found

    def _check_domains(
        self,
        parts: Mapping[str, Path],
        sets: Mapping[str, Mapping[str, ImageSet]],
        trained: Sequence[str],
        problems: Problems,
    ) -> None:
        """Raise if val or test lacks a domain that is trained on, or has one that train lacks."""
        for part, domains in sets.items():
            for domain in sorted({*trained} - domains.keys()):
                problems.add(f"there is no {parts[part] / domain}, and {domain} is trained on")
            for domain in sorted(domains.keys() - sets["train"].keys()):
                problems.add(f"{parts[part] / domain} is a domain that {parts['train']} lacks")
        problems.settle(self)

    def _hold_out(
        self,
        sets: dict[str, dict[str, ImageSet]],
        trained: Sequence[str],
        classes: Sequence[str],
        problems: Problems,
    ) -> list[str]:
        """Move training images to val, and to test if it is missing, and return notes on it."""
        shares = {"val": self.id_val_share, "test": self.id_test_share}
        held = HeldOut({n: s for n, s in shares.items() if n not in sets}, classes, problems)
        sets |= {part: {} for part in held.shares}
        for domain in trained:
            parts, sets["train"][domain] = held.split(sets["train"][domain], domain)
            for part, images in parts.items():
                sets[part][domain] = images
        return held.notes

    def _halves(
        self,
        folder: Path,
        domains: Mapping[str, ImageSet],
        trained: Sequence[str],
        problems: Problems,
    ) -> dict[str, dict[str, ImageSet]]:
        """Split the images of `val/` into val and test; keep them together for a shift."""
        val, test = dict(domains), {}
        for domain in trained:
            images = domains[domain]
            halves = stratified(images.labels, (0.5,), SPLIT_SEED)
            val[domain], test[domain] = (images.subset(half) for half in halves)
            if not (len(val[domain]) and len(test[domain])):
                problems.add(
                    f"{folder / domain} has too few images of each class to give one half to "
                    "id_val and one to id_test: add images, or a folder test/"
                )
        return {"val": val, "test": test}

    @staticmethod
    def _hint(train: Path) -> list[str]:
        """Return a note if the folders of `train/` may be domains (their subfolders agree)."""
        inside = [train / name for name in subfolders(train)]
        for folder in inside:
            with reading(folder, "a folder"):
                if any(path.is_file() for path in folder.iterdir()):
                    return []
        common = set.intersection(*({*subfolders(folder)} for folder in inside))
        if len(inside) < 2 or len(common) < 2:
            return []
        listed = ", ".join(sorted(common)[:3])
        return [
            f"each folder of {train.name}/ holds folders {listed} and no image: its folders are "
            "classes here; if they are domains, use --layout domains"
        ]


def _is_shift(name: str) -> bool:
    return _starts(name, SHIFT)


def _is_beside(name: str) -> bool:
    """Return whether a folder stands beside the classes: a shift, or unknown classes."""
    return _starts(name, SHIFT) or _starts(name, UNKNOWN)


def _starts(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name != prefix


def _untrained(
    sets: Mapping[str, Mapping[str, ImageSet]], trained: Sequence[str]
) -> dict[str, ImageSet]:
    """Return all images of each domain that is not trained on."""
    found: dict[str, dict[str, ImageSet]] = {}
    for part, domains in sets.items():
        for domain in domains.keys() - {*trained}:
            found.setdefault(domain, {})[part] = domains[domain]
    return {domain: joined(found[domain]).grouped(None) for domain in sorted(found)}
