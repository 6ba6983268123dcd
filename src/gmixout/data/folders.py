"""Folders of images: found under any spelling, listed, and checked against lists."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize

from gmixout.data.decoding import suffixes
from gmixout.data.images import ImageFiles, LabelSpace
from gmixout.data.reading import lines_of, reading, stays_inside
from gmixout.data.source import Problems, Reason
from gmixout.errors import DataError
from gmixout.plain import whole_number
from gmixout.settings import shown

JUNK = (
    "__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "#recycle",
    "system volume information", "lost+found",
)  # fmt: skip
"""Files and folders, in lower case, that operating systems and storage devices leave in folders;
hidden ones are skipped, too."""
SYSTEM = Reason(
    "hidden file or folder, or one of an operating system",
    "hidden files and folders, or ones of operating systems",
)
DEAD_LINK = Reason("link that leads nowhere", "links that lead nowhere")
CLASSLESS = Reason("image that lies in no class folder", "images that lie in no class folder")

GAPS = 10
"""Labels allowed for each one that occurs: lists skip a class here and there."""


@dataclass
class Listing:
    """Paths from one folder, and labels: the contents of a set of images."""

    root: Path
    paths: list[str] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    """The class of each; or, for each, a list of a number per output."""

    def __len__(self) -> int:
        return len(self.paths)

    def images(
        self, space: LabelSpace | None = None, border: int = 0, upright: bool = False
    ) -> ImageFiles:
        """Return the set of images."""
        return ImageFiles(
            self.root, self.paths, self.labels, space=space, border=border, upright=upright
        )


def folded_name(name: str) -> str:
    """Return a name without case and separators: "Real World" and "real_world" are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones do not count."""
    with reading(folder, "a folder"), os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not _is_junk(e.name))


def pictures(folder: Path, problems: Problems | None = None) -> list[str]:
    """Return the image files below a folder, as sorted paths from it.

    Args:
        folder: The folder; links are followed, but no folder is entered twice.
        problems: Collects the other files, which are skipped.

    Raises:
        DataError: A folder cannot be read.
    """
    found, entered = [], set()
    with reading(folder, "a folder"):
        for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
            itself = os.stat(place)
            if (itself.st_dev, itself.st_ino) in entered:
                folders.clear()
                continue
            entered.add((itself.st_dev, itself.st_ino))
            below = "" if place == str(folder) else f"{Path(place).relative_to(folder).as_posix()}/"
            inside = []
            for name in (*folders, *names):
                if _is_junk(name):
                    if problems is not None:
                        pass_over_junk(f"{place}/{name}", problems)
                # a folder that is called like an image is a broken image
                elif name.lower().endswith(suffixes()):
                    found.append(f"{below}{name}")
                elif name in folders:
                    inside.append(name)
                elif problems is not None:
                    problems.pass_over(f"{place}/{name}")
            folders[:] = sorted(inside)
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def find(folder: Path, *names: str) -> Path | None:
    """Return the subfolder with one of some names, in any spelling; None if there is none.

    Raises:
        DataError: More than one has.
    """
    present = subfolders(folder)
    for name in names:
        fitting = [folder / found for found in present if folded_name(found) == folded_name(name)]
        if len(fitting) > 1:
            listed = " and ".join(str(path) for path in fitting)
            raise DataError(f"{listed} may both be {name}: keep one of them in {folder}")
        if fitting:
            return fitting[0]
    return None


def read_class(listing: Listing, folder: str, label: int, problems: Problems) -> None:
    """Add the images of one class folder, a path from the listing's root, at any depth."""
    found = pictures(listing.root / folder, problems)
    if not found:
        problems.add(f"{listing.root / folder} holds no image")
    listing.paths += [f"{folder}/{name}" for name in found]
    listing.labels += [label] * len(found)


def read_classes(
    folder: Path,
    labels: Mapping[str, int],
    problems: Problems,
    names: Sequence[str] | None = None,
) -> Listing:
    """Return the images of `<folder>/<class>/*`.

    Args:
        folder: Holds the class folders.
        labels: Label of each class by its folder's name.
        problems: Takes empty folders, folders of classes that are not in `labels`, and files that
            are passed over.
        names: The class folders; by default all folders in it.
    """
    listing = Listing(folder)
    pass_over_beside(folder, problems)
    # a Mac writes the same name in another form of Unicode than most others
    composed = {normalize("NFC", name): label for name, label in labels.items()}
    for name in subfolders(folder) if names is None else names:
        label = labels.get(name, composed.get(normalize("NFC", name)))
        if label is not None:
            read_class(listing, name, label, problems)
        else:
            problems.add(f"{folder / name} is the folder of a class that training does not have")
    return listing


def pass_over_beside(folder: Path, problems: Problems) -> None:
    """Note the files of a folder of class folders, which belong to no class."""
    with reading(folder, "a folder"), os.scandir(folder) as entries:
        beside = sorted(e.name for e in entries if not e.is_dir() or _is_junk(e.name))
    for name in beside:
        path = f"{folder}/{name}"
        if _is_junk(name):
            pass_over_junk(path, problems)
        elif not os.path.exists(path):
            problems.pass_over(path, DEAD_LINK)
        elif name.lower().endswith(suffixes()):
            problems.pass_over(path, CLASSLESS)
        else:
            problems.pass_over(path)


def pass_over_junk(path: str, problems: Problems) -> None:
    """Note a file or folder of an operating system."""
    name = path.rpartition("/")[2]
    problems.pass_over(path, SYSTEM, "._*" if name.startswith("._") else name)


def read_list(file: Path, root: Path, problems: Problems) -> Listing:
    """Return the images of a list file: on each line a folder's image, a space and a label.

    Args:
        file: The list; paths `<folder>/<file>` may hold spaces, the label comes after the last.
        root: The folder that its paths start from, and do not leave.
        problems: Takes lines that cannot be read, and images that are listed but not there.

    Raises:
        DataError: The file is not text.
    """
    listing = Listing(root)
    for number, line in lines_of(file):
        path, _, digits = line.rpartition(" ")
        path, label = path.strip(), whole_number(digits)
        if "/" not in path or label is None:
            problems.add(f"{file}, line {number}: {shown(line)} is not `<folder>/<file> <label>`")
        elif not stays_inside(path):
            problems.add(f"{file}, line {number}: {shown(path)} leads out of {root}")
        else:
            listing.paths.append(path)
            listing.labels.append(label)
    report_absent(listing, f"{file.name} lists", problems)
    return listing


def classes_of_lists(listings: Mapping[str, Listing], problems: Problems) -> tuple[str, ...]:
    """Return the class name of each label in lists, from the folder of its images.

    The number in the list is the label, whatever the order of the folders: lists may leave out a
    class, and a folder's position would then be wrong for all later ones.

    Args:
        listings: Images by the name of their list, each below the folder of its class.
        problems: Takes labels with two folders, folders with two labels, and labels far above the
            number of folders.

    Returns:
        A name for each number up to the highest; those that no list has are called `class <n>`.
    """
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for listed, listing in listings.items():
        for path, label in zip(listing.paths, listing.labels, strict=True):
            name = path.split("/")[-2]
            if names.setdefault(label, name) != name or labels.setdefault(name, label) != label:
                problems.add(
                    f"{listed}: {path} has label {label}; elsewhere label {label} is "
                    f"{names[label]} and {name} is label {labels.get(name, label)}"
                )
                break
    count = max(names, default=-1) + 1
    if count > GAPS * len(names):
        problems.add(f"label {count - 1} is listed, and {len(names)} labels are in all")
        return ()
    return tuple(names.get(label, f"class {label}") for label in range(count))


def report_absent(listing: Listing, said: str, problems: Problems) -> None:
    """Note a problem if listed images are missing, or outside of their folder.

    Args:
        listing: The images.
        said: Who lists them ("train.txt lists"), the start of the message.
        problems: Takes the problem.
    """
    absent, outside = absent_files(listing.root, listing.paths)
    if absent:
        problems.add(
            f"{said} {len(absent):,} images that are not in {listing.root}, "
            f"the first of them {absent[0]}"
        )
    if outside:
        problems.add(
            f"{said} {len(outside):,} images that links lead out of {listing.root} to, "
            f"the first of them {outside[0]}: put the files there, or link that folder as a whole"
        )


def absent_files(root: Path, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the paths of missing files, and those that links lead out of the root.

    Each folder is read once.
    """
    wanted = defaultdict(list)
    for path in paths:
        folder, _, name = path.rpartition("/")
        wanted[folder].append(name)
    absent, outside, top = [], [], os.path.realpath(root)
    for folder, names in wanted.items():
        try:
            with os.scandir(root / folder) as entries:
                links = {entry.name: entry.is_symlink() for entry in entries}
        except OSError:
            links = {}
        stays = _is_in(os.path.realpath(root / folder), top)
        for name in names:
            path = f"{folder}/{name}".lstrip("/")
            if name not in links:
                absent.append(path)
            elif not stays or (links[name] and not _is_in(os.path.realpath(root / path), top)):
                outside.append(path)
    return absent, outside


def _is_in(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)
