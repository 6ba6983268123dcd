"""ImageNet and its shifts: V2, R, A, Sketch, ObjectNet."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from gmixout.data.base import Benchmark
from gmixout.data.folders import (
    Listing,
    find,
    pictures,
    read_class,
    read_classes,
    subfolders,
)
from gmixout.data.images import ImageFiles, LabelSpace
from gmixout.data.reading import json_of, lines_of
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.source import ImageBenchmark, Problems, Source
from gmixout.errors import ConfigError, DataError, needs
from gmixout.plain import whole_number
from gmixout.settings import shown

_CLASS_NAME_FILES = ("LOC_synset_mapping.txt", "classnames.txt", "words.txt")
"""Files beside `train/` that may give class names: lines of a wnid, white space, and names."""
OBJECTNET_BORDER = 2
"""Pixels of red frame around every ObjectNet image, by its authors' instructions."""
OBJECTNET_FILES = (
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "pytorch_to_imagenet_2012_id.json",
    "imagenet_to_label_2012_v2",
)
"""Files of ObjectNet: its folders' labels, the names of the ImageNet classes of a label, and
the position among the sorted wnids of each line of the list of ImageNet names."""
_ARCHIVE = (
    "https://image-net.org/download-images (ILSVRC2012, sorted into train/<wnid>, val/<wnid>)"
)


@dataclass(frozen=True)
class ImageNet(Source):
    """Base of ImageNet and the benchmarks built on it."""

    corruption_summary: ClassVar[str] = "mce_alexnet"
    official: ClassVar[Mapping[str, int]] = {"classes": 1000, "train": 1_281_167, "val": 50_000}

    @property
    def prompts(self) -> tuple[str, ...]:
        """OpenAI's 80, as open_clip has them.

        Raises:
            ConfigError: open_clip is not installed.
        """
        with needs("open_clip_torch", "vision"):
            from open_clip import OPENAI_IMAGENET_TEMPLATES
        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)

    def imagenet_root(self, problems: Problems) -> Path:
        """Return the folder that holds `train/`: the root, or `imagenet` or `ILSVRC2012` in it."""
        for folder in (self.root, find(self.root, "imagenet", "ILSVRC2012", "imagenet-1k")):
            if folder is not None and find(folder, "train") is not None:
                return folder
        problems.fail(self, f"there is no train/ in {self.root} or in {self.root / 'imagenet'}")

    def in_domain(
        self, val_share: float, problems: Problems
    ) -> tuple[dict[str, int], ImageBenchmark]:
        """Return the label of each wnid, and ImageNet's benchmark without shifts.

        Args:
            val_share: Share of the training images, stratified by a fixed seed, that is held out
                for in-domain validation, so that ImageNet's own validation images stay a test set.
            problems: Collects what is wrong.
        """
        root = self.imagenet_root(problems)
        wnids = subfolders(root / "train")
        self._count(problems, "classes", len(wnids), f"number of class folders in {root / 'train'}")
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        train = read_classes(root / "train", labels, problems)
        self._count(problems, "train", len(train), "number of training images")
        val = find(root, "val", "val_in_folder", "val_dirs", "validation")
        if val is None:
            problems.fail(self, f"there is no val/ in {root}")
        if not subfolders(val):
            problems.fail(
                self,
                f"{val} holds {len(pictures(val)):,} images and no folders: sort them into "
                "val/<wnid>/ (valprep.sh of the PyTorch examples does)",
            )
        test = self.all_classes(val, labels, problems)
        self._count(problems, "val", len(test), f"number of images in {val}")
        names = class_names(root)
        images = train.images()
        held, rest = stratified(images.labels, (val_share,), SPLIT_SEED)
        return labels, Benchmark(
            name=str(self),
            classes=tuple(names.get(wnid, wnid) for wnid in wnids),
            train=images.subset(rest),
            id_val=images.subset(held),
            id_test=test.images(),
            shifts={},
        )

    def all_classes(self, folder: Path, labels: Mapping[str, int], problems: Problems) -> Listing:
        """Return the images of a folder that must have a subfolder for every class."""
        listing = read_classes(folder, labels, problems)
        absent = sorted(set(labels) - set(subfolders(folder)))
        if absent:
            problems.add(
                f"{folder} has no folder of {len(absent)} of {len(labels)} classes, "
                f"{absent[0]} among them"
            )
        return listing


@dataclass(frozen=True, kw_only=True)
class imagenet(ImageNet):
    """ImageNet with ImageNet-V2, -R, -A, -Sketch and ObjectNet as shifts.

    - Input: RGB photographs of many sizes. Labels: 1000 classes, wnids in sorted order.
    - Files: `<root>/imagenet/{train,val}/<wnid>/*` (or `train/` and `val/` in the root itself), and
      in the root `imagenetv2-*/<0..999>/*`, `imagenet-r/<wnid>/*`, `imagenet-a/<wnid>/*`,
      `sketch/<wnid>/*`, `objectnet-1.0/{images,mappings}`; symbolic links do. Class names are read
      from `LOC_synset_mapping.txt` or `classnames.txt` beside `train/`; without, they are wnids.
    - Splits: id_val is held out from train (see `val_share`), id_test is ImageNet's own validation
      set of 50,000. Metric: accuracy.
    - `v2`: 10,000 new images by ImageNet's recipe; the folder's number is the label.
    - `r`, `a`: 30,000 renditions and 7,500 adversarially filtered photographs of 200 classes each.
      Their folders say which 200; a model is scored over these 200 alone (`space`).
    - `sketch`: 50,889 drawings of all classes.
    - `objectnet`: 18,574 photographs from odd angles, of the 113 of its 313 classes that ImageNet
      has; a class's logit is the largest among its ImageNet classes', and 2 pixels of frame are cut
      off. Which is which is read from the four files that come with it.
    - Licence: ImageNet's terms of access (non-commercial research); V2: MIT; R and A: MIT; Sketch:
      MIT; ObjectNet: its own, which forbids training on it. Size: 150 GB and about 70 GB.

    Args:
        val_share: Share of the training images for in-domain validation.
        shifts: Which shifts to use.
        missing: What to do if one of them is not there: stop (`refuse`), or go on without it and
            say so in the notes (`leave_out`).
        v2: Which of the three samples of ImageNet-V2.

    Source: Deng et al., CVPR 2009; Recht et al., ICML 2019 (V2); Hendrycks et al., ICCV 2021 (R)
        and CVPR 2021 (A); Wang et al., NeurIPS 2019 (Sketch); Barbu et al., NeurIPS 2019
        (ObjectNet). The protocol of label spaces is that of Wortsman et al. (WiSE-FT), CVPR 2022.
    """

    val_share: float = 0.02
    shifts: tuple[str, ...] = ("v2", "r", "a", "sketch", "objectnet")
    missing: Literal["refuse", "leave_out"] = "refuse"
    v2: Literal["matched-frequency", "threshold-0.7", "top-images"] = "matched-frequency"

    download_hint = (
        f"{_ARCHIVE}; https://imagenetv2.org; https://github.com/hendrycks/imagenet-r; "
        "https://github.com/hendrycks/natural-adv-examples; "
        "https://github.com/HaohanWang/ImageNet-Sketch; https://objectnet.dev"
    )
    official: ClassVar[Mapping[str, int]] = {
        **ImageNet.official,
        "v2": 10_000,
        "r": 30_000,
        "r classes": 200,
        "a": 7_500,
        "a classes": 200,
        "sketch": 50_889,
        "objectnet": 18_574,
        "objectnet classes": 113,
    }
    folders: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "r": ("imagenet-r",),
        "a": ("imagenet-a",),
        "sketch": ("sketch", "imagenet-sketch"),
        "objectnet": ("objectnet-1.0", "objectnet"),
    }
    """Names of each shift's folder in the root."""

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        known = ("v2", *self.folders)
        unknown = set(self.shifts) - set(known)
        if unknown:
            raise ConfigError(
                f"imagenet(shifts={self.shifts}): {', '.join(sorted(unknown))} is not one of: "
                f"{', '.join(known)}"
            )

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at ImageNet and the shifts."""
        labels, benchmark = self.in_domain(self.val_share, problems)
        readers: dict[str, Callable[[Path, dict[str, int], Problems], ImageFiles]] = {
            "v2": self._v2,
            "r": lambda *args: self._part_of_the_classes("r", *args),
            "a": lambda *args: self._part_of_the_classes("a", *args),
            "sketch": lambda *args: self.all_classes(*args).images(),
            "objectnet": self._objectnet,
        }
        found, notes = {}, []
        for name in self.shifts:
            spellings = self._folders(name)
            folder = find(self.root, *spellings)
            if folder is None:
                said = f"shift {name}: there is no folder {spellings[0]}"
                if self.missing == "leave_out":
                    notes.append(f"{said}: left out")
                else:
                    problems.add(f"{said} (missing=leave_out goes on without it)")
                continue
            found[name] = readers[name](folder, labels, problems)
            self._count(problems, name, len(found[name]), f"number of images in {folder}")
        return replace(benchmark, shifts=found, notes=tuple(notes))

    def _folders(self, shift: str) -> tuple[str, ...]:
        if shift == "v2":
            return (f"ImageNetV2-{self.v2}", f"imagenetv2-{self.v2}-format-val")
        return self.folders[shift]

    def _v2(self, folder: Path, labels: dict[str, int], problems: Problems) -> ImageFiles:
        """Read the number of a folder as the label: sorted as text, 10 would come before 2."""
        names = subfolders(folder)
        if names and all(name in labels for name in names):
            return self.all_classes(folder, labels, problems).images()
        listing = Listing(folder)
        for name in names:
            if (label := whole_number(name)) is not None:
                read_class(listing, name, label, problems)
            else:
                problems.add(f"{folder / name} is neither the number of a class nor a wnid")
        absent = set(range(len(labels))) - set(listing.labels)
        if absent:
            problems.add(
                f"{folder} has no images of {len(absent)} classes, {min(absent)} among them"
            )
        return listing.images()

    def _part_of_the_classes(
        self, key: str, folder: Path, labels: dict[str, int], problems: Problems
    ) -> ImageFiles:
        """Read a set whose folders are some of the wnids, which become its label space."""
        wnids = [name for name in subfolders(folder) if name in labels]
        for name in sorted(set(subfolders(folder)) - set(wnids)):
            problems.add(f"{folder / name} is not a class of ImageNet's train/")
        self._count(problems, f"{key} classes", len(wnids), f"number of classes in {folder}")
        space = LabelSpace(tuple(wnids), tuple((labels[wnid],) for wnid in wnids))
        listing = Listing(folder)
        for label, wnid in enumerate(wnids):
            read_class(listing, wnid, label, problems)
        return listing.images(space=space)

    def _objectnet(self, folder: Path, labels: dict[str, int], problems: Problems) -> ImageFiles:
        images = find(folder, "images") or folder
        listing = Listing(images)
        try:
            members = objectnet_classes(folder)
        except DataError as error:
            problems.add(str(error))
            return listing.images()
        self._count(problems, "objectnet classes", len(members), "number of ObjectNet classes")
        out = [name for name, ids in members.items() if not all(0 <= i < len(labels) for i in ids)]
        if out:
            problems.add(f"{folder}: {out[0]} is mapped to a class that ImageNet's train/ lacks")
        present = set(subfolders(images))
        for label, name in enumerate(members):
            if name in present:
                read_class(listing, name, label, problems)
            else:
                problems.add(f"there is no folder {images / name}")
        space = LabelSpace(tuple(members), tuple(members.values()))
        return listing.images(space=space, border=OBJECTNET_BORDER)


def class_names(root: Path) -> dict[str, str]:
    """Names of the wnids, from the first of the class-name files in a folder; empty if none.

    All synonyms, as first ones are not distinct: two classes are called "crane".
    """
    for file in (root / name for name in _CLASS_NAME_FILES):
        if file.exists():
            lines = (line.split(maxsplit=1) for _, line in lines_of(file))
            return {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}
    return {}


def objectnet_classes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return ImageNet's classes of each ObjectNet class folder that has some, folders sorted.

    Args:
        folder: Holds, itself or in `mappings/`, the four files that come with ObjectNet.

    Raises:
        DataError: One is missing, or they do not fit each other.
    """
    *tables, list_of_names = (_mapping(folder, name) for name in OBJECTNET_FILES)
    folder_to_label, label_to_imagenet, place_to_line = map(json_of, tables)
    _check_mapping(tables[0], folder_to_label, str)
    _check_mapping(tables[1], label_to_imagenet, str)
    _check_mapping(tables[2], place_to_line, int)
    names = list(lines_of(list_of_names))
    try:
        place = {line: int(place) for place, line in place_to_line.items()}
        if len(place) < len(place_to_line):
            raise ValueError(f"{tables[2].name} has a line twice")
        by_name = {name: place[line - 1] for line, name in names}
        classes = {
            name: tuple(sorted(by_name[each] for each in label_to_imagenet[label].split("; ")))
            for name, label in folder_to_label.items()
            if label in label_to_imagenet
        }
    except (KeyError, ValueError) as error:
        raise DataError(
            f"the files in {folder} that map ObjectNet to ImageNet do not fit together "
            f"({shown(error)})"
        ) from error
    return dict(sorted(classes.items()))


def _check_mapping(file: Path, held: Any, kind: type) -> None:
    """Check that a file holds an object of values of one kind; JSON's keys are text."""
    wrong = isinstance(held, dict) and [value for value in held.values() if type(value) is not kind]
    if wrong or not isinstance(held, dict):
        raise DataError(f"{file} does not map names to {kind.__name__}: {shown(wrong or held)}")


def _mapping(folder: Path, name: str) -> Path:
    for file in (folder / "mappings" / name, folder / name):
        if file.exists():
            return file
    raise DataError(f"there is no {folder / 'mappings' / name}, which comes with ObjectNet")
