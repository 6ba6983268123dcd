"""iWildCam of WILDS 2.0: animals seen by camera traps, at known and new locations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from gmixout.data.base import Benchmark
from gmixout.data.folders import Listing, find, report_absent
from gmixout.data.images import ImageFiles
from gmixout.data.reading import stays_inside, table_rows
from gmixout.data.source import ImageBenchmark, Problems, Source
from gmixout.plain import whole_number
from gmixout.settings import shown

UNUSED = 99_999
"""The label that `categories.csv` gives to species that occur in no split."""
NAMELESS = (
    "categories.csv with columns y and name is missing: classes are named by their numbers, and "
    "so is a zero-shot head"
)
_COLUMNS = ("split", "filename", "y", "location_remapped")
SPLITS = ("train", "val", "test", "id_val", "id_test")


@dataclass(frozen=True, kw_only=True)
class iwildcam(Source):
    """iWildCam 2020, as WILDS 2.0 has it.

    - Input: RGB, of many sizes. Labels: species of animals, or "empty"; how many is read from the
      files (182: WILDS' own text says 186). Groups: the place of the camera
      (`location_remapped`), in every set, so that training can tell its 243 places apart.
    - Files: `<root>/iwildcam_v2.0/{metadata.csv,train/*}` or the same in the root itself, with all
      images in `train/`; class names are read from `categories.csv`, if it is there.
    - Splits: the file's own. train 129,809 images, id_val 7,314 and id_test 8,154 of the same
      places; `test` (shift) 42,791 of places never seen; `val` 14,961 of others again, on which
      WILDS makes its choices: here a development shift, as choices are made on id_val.
    - Metric: macro F1 over the classes that occur; also accuracy and macro recall.
    - Licence: Community Data License Agreement, permissive, 1.0. Size: 12 GB.

    Source: Beery, Cole and Gjoka, "The iWildCam 2020 Competition Dataset", arXiv:2004.10340; Koh et
        al., "WILDS", ICML 2021.
    """

    # WiSE-FT's (src/templates/iwildcam_template.py)
    prompts = ("a photo of {}.", "{} in the wild.")
    download_hint = (
        "https://wilds.stanford.edu/get_started (iwildcam v2.0), unpacked to "
        "iwildcam_v2.0/{metadata.csv,categories.csv,train/}"
    )
    official: ClassVar[Mapping[str, int]] = {
        "train": 129_809,
        "val": 14_961,
        "test": 42_791,
        "id_val": 7_314,
        "id_test": 8_154,
    }

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the table, and whether its images are there."""
        folder = find(self.root, "iwildcam_v2.0") or self.root
        for path in (folder / "metadata.csv", folder / "train"):
            if not path.exists():
                problems.add(f"there is no {path}")
        problems.settle(self)
        listings = {name: Listing(folder / "train") for name in SPLITS}
        places: dict[str, list[int]] = {name: [] for name in SPLITS}
        table = folder / "metadata.csv"
        for number, row in table_rows(table, _COLUMNS):
            split, name = row["split"], row["filename"]
            label, place = whole_number(row["y"]), whole_number(row["location_remapped"])
            if split not in listings or label is None or place is None:
                problems.add(
                    f"{table}, line {number}: split {shown(split)} must be one of "
                    f"{', '.join(SPLITS)}, y {shown(row['y'])} and location_remapped "
                    f"{shown(row['location_remapped'])} numbers"
                )
            elif not name or not stays_inside(name):
                problems.add(f"{table}, line {number}: {shown(name)} leads out of {folder}/train")
            else:
                listings[split].paths.append(name)
                listings[split].labels.append(label)
                places[split].append(place)
        self._check_labels(listings, problems)
        for name, listing in listings.items():
            self._count(problems, name, len(listing), f"number of images of the split {name}")
            report_absent(listing, f"metadata.csv lists, for {name},", problems)
        problems.settle(self)
        names = _class_names(folder / "categories.csv")
        labels = {label for listing in listings.values() for label in listing.labels}
        count = max(labels | set(names), default=-1) + 1
        numbers = {
            place: number for number, place in enumerate(sorted(set().union(*places.values())))
        }
        sets: dict[str, ImageFiles] = {
            name: listing.images().grouped(
                torch.tensor([numbers[place] for place in places[name]], dtype=torch.int64),
                [f"location {place}" for place in numbers],
            )
            for name, listing in listings.items()
        }
        return Benchmark(
            name=str(self),
            classes=tuple(names.get(label, f"class {label}") for label in range(count)),
            train=sets["train"],
            id_val=sets["id_val"],
            id_test=sets["id_test"],
            shifts={"test": sets["test"]},
            dev_shifts={"val": sets["val"]},
            metric="macro_f1",
            extra_metrics=("accuracy", "macro_recall"),
            notes=() if names else (NAMELESS,),
        )

    def _check_labels(self, listings: Mapping[str, Listing], problems: Problems) -> None:
        unused = sum(label >= UNUSED for listing in listings.values() for label in listing.labels)
        if unused:
            problems.add(
                f"metadata.csv: {unused} images have a label of {UNUSED} or more, which stands for "
                "species that occur in no split"
            )


def _class_names(file: Path) -> dict[int, str]:
    """Return class names by label; empty if the file or its columns are missing."""
    if not file.exists():
        return {}
    named = {}
    for _, row in table_rows(file, ()):
        if not {"y", "name"} <= set(row):
            return {}
        named[whole_number(row["y"])] = row["name"]
    return {label: name for label, name in named.items() if label is not None and label < UNUSED}
