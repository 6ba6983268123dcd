"""A user's images in a table: one row per image, with label and optional split and domain."""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gmixout.data.base import Benchmark
from gmixout.data.folders import Listing, absent_files
from gmixout.data.imagefolder import SPELLINGS
from gmixout.data.images import ImageSet
from gmixout.data.reading import stays_inside, table_rows, whole_number
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.several import Parts, SeveralDomains, joined, joined_parts, training_note
from gmixout.data.source import ImageBenchmark, Problems
from gmixout.named import changed
from gmixout.settings import shown

MOST_SETS = 1000
"""Splits and domains that a table may name; more are the values of another column."""


_NAME = re.compile(r"[^\0-\x1f\x7f]{0,200}")
"""What a label, split or domain may be, as it comes to stand in tables and names of files."""


class CsvRow(NamedTuple):
    """An image of the table."""

    line: int
    path: str
    label: str
    split: str
    """`train`, `val`, `test` or the name of a shift; "" in a table without splits."""
    domain: str
    """"" in a table without domains."""


@dataclass(frozen=True, kw_only=True)
class csv(SeveralDomains):
    """Your own images, listed in a table: `--data-root table.csv`.

    - Input: image files that Pillow can read, in any size; read as RGB and rotated by their EXIF
      data.
    - Files: the root is the table, in UTF-8, with commas (and quotes around values that hold
      commas); its first line names the columns, in any order, and others than these are passed
      over. `path` starts from the table's folder and does not leave it; `label` is the class;
      `split` is train, val, test or the name of a shift; `domain` is where the image is from. Every
      image has one row.
    - Labels: the labels of all rows, sorted: as numbers, if they are.
    - Domains: without the options below all are trained on. Those that are not trained on are
      shifts, with their images of train, val and test.
    - Splits: the table's. What it has no rows of, or all of val and test without a column `split`,
      is held out of the training images of each domain, every class in proportion, by a fixed
      seed. To evaluate on another table as a whole, give it a column `split` of tests and shifts.
      Metric: accuracy.

    Args:
        root: The table.
        train_domains: The training domains; empty: all.
        test_domain: Leave this domain out: finetune on all others, and test on it.
        path_column: Name of the path column.
        label_column: Name of the label column.
        split_column: Name of the split column; None: not used.
        domain_column: Name of the domain column; None: not used.
        id_val_share: Share of the training images that is held out for in-domain validation, where
            the table has no val.
        id_test_share: Share of them that is held out for in-domain test, where it has no test.
    """

    path_column: str = "path"
    label_column: str = "label"
    split_column: str | None = "split"
    domain_column: str | None = "domain"
    id_val_share: float = 0.2
    id_test_share: float = 0.2

    download_hint = (
        "your own table beside your images, one row per image, with columns path, label and "
        "optionally split and domain"
    )

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the table and whether its images are there."""
        rows, classes = self._rows(problems)
        trained = self.trained_of(sorted({row.domain for row in rows}), problems)
        sets = self._sets(rows, classes)
        parts = {}
        for domain in trained:
            own = {part: images for (part, d), images in sets.items() if d == domain}
            if "train" not in own:
                whose = f" and domain {domain}" if domain else ""
                problems.fail(self, f"there is no row of split train{whose}")
            parts[domain] = self._parts(own)
        train, id_val, id_test = joined_parts(parts, problems)
        shifts = {name: images for (part, name), images in sets.items() if part == "shift"}
        notes = []
        for part in ("val", "test"):
            if lacking := [domain for domain in trained if (part, domain) not in sets]:
                whose = "" if lacking == trained else f" of {', '.join(lacking)}"
                notes.append(f"there is no {part}{whose}: it is held out of the training images")
        if not shifts:
            notes.append("there is no shift: only corruptions, if any, to test on")
        return Benchmark(
            name=str(self),
            classes=classes,
            train=train,
            id_val=id_val,
            id_test=id_test,
            shifts=shifts,
            notes=(*notes, *training_note(trained)),
        )

    def trains_on(self, domain: str) -> bool:
        """Return whether a domain is trained on; "" (a table without domains) if none is named."""
        return (domain != "" or not self.choice[1]) and super().trains_on(domain)

    def load_tests(self) -> ImageBenchmark:
        """Return the test sets: all rows, if none is to be trained on.

        Raises:
            DataError: As `check`.
        """
        problems = Problems()
        self._check_root(problems)
        rows, classes = self._rows(problems)
        if any(row.split in ("", "train") and self.trains_on(row.domain) for row in rows):
            return super().load_tests()
        found = self._sets(rows, classes)
        sets = {name: images for (part, name), images in found.items() if part == "shift"}
        for part in ("val", "test"):
            if own := {domain: images for (p, domain), images in found.items() if p == part}:
                sets[part] = joined(own)
        return self.tests_alone(classes, sets)

    def _check_root(self, problems: Problems) -> None:
        if self.root.is_dir():
            problems.fail(self, f"it is a folder: name the table in it, {self.root}/table.csv")
        if not self.root.exists():
            problems.fail(self, f"there is no table {self.root}")

    def _rows(self, problems: Problems) -> tuple[list[CsvRow], tuple[str, ...]]:
        """Return the valid rows and the class names.

        Raises:
            DataError: Something is; the message names the lines.
        """
        rows, first = [], dict[str, int]()
        for row, wrong in self._parsed():
            if not wrong and row.path in first:
                wrong = f"{shown(row.path)} is listed in line {first[row.path]}, too"
            if wrong:
                problems.add(f"line {row.line}: {wrong}")
                continue
            first[row.path] = row.line
            rows.append(row)
        for column in ("split", "domain"):
            if (count := len({getattr(row, column) for row in rows})) > MOST_SETS:
                name = getattr(self, f"{column}_column")
                problems.add(
                    f"column {name} has {count:,} values: more than {MOST_SETS:,} {column}s"
                )
        problems.settle(self)
        absent, outside = absent_files(self.root.parent, first)
        for paths, said in ((absent, "is not there"), (outside, "is a link that leads out of it")):
            for path in paths:
                problems.add(f"line {first[path]}: {shown(path)} in {self.root.parent} {said}")
        if not rows:
            problems.add("it lists no image")
        problems.settle(self)
        return rows, tuple(sorted({row.label for row in rows}, key=_place))

    def _parsed(self) -> Iterator[tuple[CsvRow, str]]:
        """Yield the table's rows, and what is wrong with each; "": nothing."""
        columns = {name: getattr(self, f"{name}_column") for name in CsvRow._fields[1:]}
        asked = {"path", "label", *(name.removesuffix("_column") for name in changed(self))}
        needed = [column for name, column in columns.items() if name in asked and column]
        for line, cells in table_rows(self.root, needed):
            held = {name: cells[column] for name, column in columns.items() if column in cells}
            path = held.pop("path")
            held = {name: value.strip() for name, value in held.items()}
            empty = [columns[n] for n, value in {"path": path.strip(), **held}.items() if not value]
            odd = [columns[name] for name, value in held.items() if not _NAME.fullmatch(value)]
            if empty:
                wrong = f"{', '.join(empty)} is empty"
            elif odd:
                wrong = f"{', '.join(odd)} has a line break in it, or more than 200 characters"
            else:
                out = f"{shown(path)} leads out of {self.root.parent}"
                wrong = "" if stays_inside(path) else out
            split = held.get("split", "")
            part = next((p for p, names in SPELLINGS.items() if split.lower() in names), split)
            place = posixpath.normpath(path)
            yield CsvRow(line, place, held["label"], part, held.get("domain", "")), wrong

    def _sets(
        self, rows: Sequence[CsvRow], classes: Sequence[str]
    ) -> dict[tuple[str, str], ImageSet]:
        """Return the images by role (train, val, test, shift) and domain or shift."""
        labels = {name: label for label, name in enumerate(classes)}
        found: dict[tuple[str, str], Listing] = {}
        for row in rows:
            if row.split not in ("", *SPELLINGS):
                key = "shift", row.split
            elif self.trains_on(row.domain):
                key = row.split or "train", row.domain
            else:
                key = "shift", row.domain or row.split or self.root.stem
            listing = found.setdefault(key, Listing(self.root.parent))
            listing.paths.append(row.path)
            listing.labels.append(labels[row.label])
        return {key: found[key].images(upright=True) for key in sorted(found)}

    def _parts(self, own: Mapping[str, ImageSet]) -> Parts:
        """Return a domain's training, validation and test images; hold out missing parts."""
        shares = {"val": self.id_val_share, "test": self.id_test_share}
        wanted = {part: share for part, share in shares.items() if part not in own}
        train = own["train"]
        *held, rest = stratified(train.labels, tuple(wanted.values()), SPLIT_SEED)
        made = {part: train.subset(chosen) for part, chosen in zip(wanted, held, strict=True)}
        both = {**own, **made}
        return train.subset(rest), both["val"], both["test"]


def _place(label: str) -> tuple[bool, int, str]:
    """Return the sort key of a label: numbers in order, then text."""
    number = whole_number(label)
    return number is None, number or 0, label
