"""A user's images in folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unicodedata import normalize

from gmixout.data.base import Benchmark
from gmixout.data.folders import find, pictures, read_classes, subfolders
from gmixout.data.images import ImageSet
from gmixout.data.reading import reading
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.several import SeveralDomains, joined, joined_parts, training_note
from gmixout.data.source import ImageBenchmark, Problems
from gmixout.errors import ConfigError

SHIFT = "shift_"
SPELLINGS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Names of the folders that are not shifts, in any case."""


@dataclass(frozen=True, kw_only=True)
class imagefolder(SeveralDomains):
    """Your own images: `train/`, `val/`, and any number of `shift_<name>/`.

    - Input: image files that Pillow can read, in any size; read as RGB and rotated by their EXIF
      data.
    - Labels: the class folders of `train/`, sorted.
    - Files: `<root>/{train,val,shift_<name>}/<class>/*` and, if there is one, `test/<class>/*`;
      images may lie in folders in a class's folder. Other files are skipped with a note.
      `valid/` and `validation/` also work for `val/`. With `layout=domains`, train, val and test
      hold one folder per domain, `train/<domain>/<class>/*`, and shifts are as before.
    - Domains: each `shift_<name>` is a shift called `<name>`; a shift may lack classes, and is
      still scored over all of them. A domain that is not trained on is a shift, with its images
      of all three folders.
    - Splits: id_val is `val/`, id_test is `test/`. Without `test/`, a fixed stratified half of
      `val/` (of each domain) is id_val and the other half id_test. Metric: accuracy.

    Args:
        layout: `train/` holds folders of `classes`, or of `domains` with folders of classes in
            them.
        train_domains: With `layout=domains`: the domains that are finetuned on; empty: all.
        test_domain: With `layout=domains`: leave this domain out: finetune on all others, and test
            on it.
    """

    layout: Literal["classes", "domains"] = "classes"

    download_hint = (
        "your own images, laid out as train/<class>/*, val/<class>/*, shift_<name>/<class>/* and "
        "optionally test/<class>/*; or, with layout=domains, as train/<domain>/<class>/* and so on"
    )

    def __post_init__(self) -> None:
        """Check that domains are named only where there are folders of them."""
        super().__post_init__()
        option, named = self.choice
        if named and self.layout == "classes":
            raise ConfigError(f"imagefolder({option}={','.join(named)}) goes with layout=domains")

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the folders."""
        parts = self._parts()
        for name in ("train", "val"):
            if name not in parts:
                problems.add(f"there is no folder {self.root / name}")
        problems.settle(self)
        classes = self._classes({"train": parts["train"]})
        sets = {name: self._images(name, parts[name], classes, problems) for name in parts}
        used = {folder.name for folder in parts.values()}
        notes = [f"{name}/ is not used" for name in subfolders(self.root) if name not in used]
        shifts = {n.removeprefix(SHIFT): sets.pop(n)[""] for n in parts if n not in SPELLINGS}
        for name in ("val", "test"):
            if absent := _absent(sets.get(name), classes):
                notes.append(f"{name} has no image of {absent}")
        trained = self.trained_of(tuple(sets["train"]), problems)
        self._check_domains(parts, sets, trained, problems)
        if "test" not in sets:
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
            notes=tuple(notes),
        )

    def load_tests(self) -> ImageBenchmark:
        """Return the test sets: of `val/`, `test/` and the shifts, all that are there.

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
        classes = self._classes(parts)
        sets = {
            name.removeprefix(SHIFT): self._images(name, folder, classes, problems)
            for name, folder in parts.items()
        }
        if len(sets) < len(parts):
            problems.add(f"a shift is called {' or '.join(SPELLINGS)}: rename its folder")
        problems.settle(self)
        return self.tests_alone(
            tuple(classes), {name: joined(domains) for name, domains in sets.items()}
        )

    def _parts(self) -> dict[str, Path]:
        """Return the folders in use: train, val and test, in any spelling, and the shifts."""
        found = {part: find(self.root, *names) for part, names in SPELLINGS.items()}
        shifts = (n for n in subfolders(self.root) if n.startswith(SHIFT) and n != SHIFT)
        found |= {name: self.root / name for name in shifts}
        return {name: folder for name, folder in found.items() if folder is not None}

    def _folders(self, part: str, folder: Path) -> dict[str, Path]:
        """Return the folders of classes in one of `_parts`, by domain."""
        if self.layout == "classes" or part not in SPELLINGS:
            return {"": folder}
        return {name: folder / name for name in subfolders(folder)}

    def _classes(self, parts: Mapping[str, Path]) -> list[str]:
        """Return the names of the class folders in some of `_parts`, sorted."""
        folders = [f for part, top in parts.items() for f in self._folders(part, top).values()]
        if len(folders) == 1:
            return subfolders(folders[0])
        # a Mac writes the same name in another form of Unicode than most others
        named = {normalize("NFC", name): name for each in folders for name in subfolders(each)}
        return sorted(named.values())

    def _images(
        self, part: str, top: Path, classes: list[str], problems: Problems
    ) -> dict[str, ImageSet]:
        """Return the images of one of `_parts`, by domain."""
        labels = {each: label for label, each in enumerate(classes)}
        found: dict[str, ImageSet] = {}
        for domain, folder in self._folders(part, top).items():
            if not subfolders(folder):
                count = len(pictures(folder))
                problems.add(f"{folder} holds {count:,} images and no folders: sort them by class")
            found[domain] = read_classes(folder, labels, problems).images(upright=True)
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


def _untrained(
    sets: Mapping[str, Mapping[str, ImageSet]], trained: Sequence[str]
) -> dict[str, ImageSet]:
    """Return all images of each domain that is not trained on."""
    found: dict[str, dict[str, ImageSet]] = {}
    for part, domains in sets.items():
        for domain in domains.keys() - {*trained}:
            found.setdefault(domain, {})[part] = domains[domain]
    return {domain: joined(found[domain]).grouped(None) for domain in sorted(found)}


def _absent(domains: Mapping[str, ImageSet] | None, classes: list[str]) -> str:
    """Return the classes without an image in val or test, for a note."""
    if not domains:
        return ""
    present = {label for images in domains.values() for label in images.labels.tolist()}
    return ", ".join(name for label, name in enumerate(classes) if label not in present)
