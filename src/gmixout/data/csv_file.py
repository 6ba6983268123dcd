"""A user's images in a table: one row per image, with its target, and optional split and domain."""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gmixout.data.base import Benchmark
from gmixout.data.folders import Listing, absent_files
from gmixout.data.imagefolder import ALL, SPELLINGS
from gmixout.data.images import ImageSet
from gmixout.data.parquet import parquet_columns, parquet_rows
from gmixout.data.reading import stays_inside, table_rows
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.several import Parts, SeveralDomains, joined, joined_parts, training_note
from gmixout.data.source import ImageBenchmark, Problems
from gmixout.data.target_columns import (
    LABEL,
    TARGETS,
    TargetColumns,
    column_names,
    target_columns_of,
)
from gmixout.errors import ConfigError, DataError
from gmixout.named import changed
from gmixout.settings import require, shown
from gmixout.tasks import TASKS, single_label
from gmixout.tasks.base import Cells

MOST_SETS = 1000
"""Splits and domains that a table may name; more are the values of another column."""


TABLES = (".csv", ".tsv", ".tab", ".parquet")
"""Endings of tables."""

USUAL = {
    "path": (
        "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path",
        "img", "img_path",
    ),
    "split": ("split", "set", "subset", "partition"),
    "domain": ("domain",),
}  # fmt: skip
"""Names of columns, in lower case, that are understood where none is given."""

_NAME = re.compile(r"[^\0-\x1f\x7f]{0,200}")
"""What a label, split or domain may be, as it comes to stand in tables and names of files."""


class CsvRow(NamedTuple):
    """An image of the table."""

    line: int
    path: str
    cells: Cells
    """Of the columns that hold what is to be predicted."""
    split: str
    """`train`, `val`, `test` or the name of a shift; "" in a table without splits."""
    domain: str
    """"" in a table without domains."""


@dataclass(frozen=True, kw_only=True)
class csv(SeveralDomains):
    """Your own images, listed in a table (.csv, .tsv or .parquet).

    - Input: image files that Pillow can read, in any size; read as RGB and rotated by their EXIF
      data.
    - Files: the root is the table: text in UTF-8 with commas (semicolons and tabs work, too; values
      that hold them are quoted), whose first line names the columns, or a parquet file. Columns
      come in any order, and others than these are passed over. `path` starts from the table's
      folder and does not leave it; `label` is the class; `split` is train, val, test or the name of
      a shift; `domain` is where the image is from. Where a column has another usual name (`file`,
      `class` ...), that is noted. Every image has one row.
    - Labels: the labels of all rows, sorted: as numbers, if they are.
    - Several labels an image: a column `labels` of `cat|dog` or `cat;dog`, where a cell may be
      empty; or one column of 0 and 1 for each class, `--label-columns cat,dog`.
    - Numbers: a column `value`, or `--target-columns age,weight`. The model learns them
      standardized; metrics and predictions are in their units.
    - Domains: without the options below all are trained on. Those that are not trained on are
      shifts, with their images of train, val and test.
    - Splits: the table's. What it has no rows of, or all of val and test without a column `split`,
      is held out of the training images of each domain, every class in proportion, by a fixed
      seed; with several labels the rarest of each image counts, of numbers their tenths. Metric:
      accuracy; for several labels mean average precision (mAP); for a number mean absolute error
      (MAE), for several R2.

    Args:
        root: The table.
        train_domains: The training domains; empty: all.
        test_domain: Leave this domain out: finetune on all others, and test on it.
        path_column: Name of the path column.
        label_column: Name of the label column.
        task: single_label, multi_label or regression; auto: as the columns say.
        label_columns: Columns of 0 and 1, one for each class, in place of the label column.
        target_columns: Columns of numbers to predict, in place of it.
        split_column: Name of the split column; None: not used.
        domain_column: Name of the domain column; None: not used.
        id_val_share: Share of the training images that is held out for in-domain validation, where
            the table has no val.
        id_test_share: Share of them that is held out for in-domain test, where it has no test.
    """

    path_column: str = "path"
    label_column: str = LABEL
    split_column: str | None = "split"
    domain_column: str | None = "domain"
    task: str = "auto"
    label_columns: tuple[str, ...] = ()
    target_columns: tuple[str, ...] = ()
    id_val_share: float = 0.2
    id_test_share: float = 0.2

    own = True
    tasks = tuple(TASKS)
    download_hint = (
        "your own table beside your images, one row per image, with columns path, label and "
        "optionally split and domain"
    )

    def __post_init__(self) -> None:
        """Check the options, which must agree on the task."""
        super().__post_init__()
        require(self, "task", self.task in ("auto", *TASKS), f"auto or one of: {', '.join(TASKS)}")
        asking = [name for name, columns in self._several.items() if columns]
        if len(asking) > 1:
            options = " and ".join(TASKS[name].columns_option for name in asking)
            raise ConfigError(f"{options} both say what is to be predicted: leave out one")
        for name in asking:
            option, allowed = TASKS[name].columns_option, f"empty: it is for task={name}"
            require(self, option, self.task in ("auto", name), allowed)
            require(self, option, len({*self._several[name]}) == len(self._several[name]), "unique")

    @property
    def _several(self) -> dict[str, tuple[str, ...]]:
        """Columns that the option of a task names, one for each output."""
        kinds = [kind for kind in TASKS.values() if kind.columns_option]
        return {kind.__name__: getattr(self, kind.columns_option) for kind in kinds}

    @property
    def _targets(self) -> TargetColumns:
        """What is to be predicted, and the table's columns of it."""
        return target_columns_of(self.root, self.task, self.label_column, self._several)

    @classmethod
    def recognize(cls, root: Path) -> Path | None:
        """Accept a table, and a folder that holds one table of files and labels."""
        if root.is_file():
            return root if root.suffix.lower() in TABLES and not _holds_images(root) else None
        if not root.is_dir():
            return None
        tables = [each for each in sorted(root.iterdir()) if each.suffix.lower() in TABLES]
        lists = [each for each in tables if each.is_file() and _lists_images(each)]
        return lists[0] if len(lists) == 1 else None

    def read(self, problems: Problems) -> ImageBenchmark:
        """Look at the table and whether its images are there."""
        rows, classes = self._rows(problems)
        trained = self.trained_of(sorted({row.domain for row in rows}), problems)
        # a domain of shifts alone is not one to train on
        tested = {row.domain for row in rows if row.split in ("", *SPELLINGS)}
        trained = [domain for domain in trained if domain in tested] or trained[:1]
        sets = self._sets(rows, classes)
        parts = {}
        for domain in trained:
            own = {part: images for (part, d), images in sets.items() if d == domain}
            if "train" not in own:
                whose = f" and domain {domain}" if domain else ""
                problems.fail(self, f"there is no row of split train{whose}")
            parts[domain] = self._parts(own)
            for part, images in zip(("val", "test"), parts[domain][1:], strict=True):
                if part not in own and not len(images):
                    whose = f" of domain {domain}" if domain else ""
                    problems.add(
                        f"there is no row of split {part}{whose}, and its classes have too few "
                        "images to hold any out of train: add images, or a column split"
                    )
        train, id_val, id_test = joined_parts(parts, problems)
        problems.settle(self)
        task = self._targets.kind.fitted(train.labels)
        shifts = {name: images for (part, name), images in sets.items() if part == "shift"}
        notes = [*self._renamed(), *self._targets.notes(classes)]
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
            metric=task.metric,
            extra_metrics=task.extra_metrics,
            task=task,
        )

    def trains_on(self, domain: str) -> bool:
        """Return whether a domain is trained on; "" (a table without domains) if none is named."""
        return (domain != "" or not self.choice[1]) and super().trains_on(domain)

    def load_tests(self) -> ImageBenchmark:
        """Return every row as a test image: in sets of their split, or in one called `all`.

        Raises:
            DataError: As `check`.
        """
        problems = Problems()
        self._check_root(problems)
        rows, classes = self._rows(problems)
        found = self._sets(rows, classes)
        sets = {name: images for (part, name), images in found.items() if part == "shift"}
        whole = not any(row.split for row in rows)
        for part, name in (("train", ALL if whole else "train"), ("val", "val"), ("test", "test")):
            if own := {domain: images for (p, domain), images in found.items() if p == part}:
                sets[name] = joined(own)
        return self.tests_alone(classes, sets, self._targets.kind())

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
        if not (names := self._targets.names([row.cells for row in rows])):
            problems.fail(self, "no row has a label")
        return rows, names

    def _columns(self) -> dict[str, str]:
        """Return the table's column for each of ours; one that is not there has our name."""
        present = column_names(self.root)
        found = {}
        for name, usual in USUAL.items():
            column = getattr(self, f"{name}_column")
            fitting = [each for each in present if each.strip().lower() in usual]
            if column == name and column not in present and fitting:
                if len(fitting) > 1:
                    raise DataError(
                        f"{self.root} has no column {name}, and {' or '.join(fitting)} may be "
                        f"meant: name it with {name}_column={fitting[0]}"
                    )
                column = fitting[0]
            found[name] = column
        return found

    def _renamed(self) -> list[str]:
        """Return notes on columns that do not have our names."""
        columns, (kind, targets, _) = self._columns(), self._targets
        if kind is single_label:  # of other tasks `TargetColumns.notes` says it
            columns = {"path": columns["path"], LABEL: targets[0], **columns}
        return [
            f"column {column} is read as {name}"
            for name, column in columns.items()
            if column and column != getattr(self, f"{name}_column")
        ]

    def _parsed(self) -> Iterator[tuple[CsvRow, str]]:
        """Yield the table's rows, and what is wrong with each; "": nothing."""
        columns, targets = self._columns(), self._targets
        asked = {"path", *(name.removesuffix("_column") for name in changed(self))}
        needed = [column for name, column in columns.items() if name in asked and column]
        needed += [column for column in targets.columns if column not in needed]
        if self.root.suffix.lower() == ".parquet":
            present = parquet_columns(self.root)
            others = {*columns.values()} & {*present} - {*needed}
            numbers = () if targets.kind.has_classes else targets.columns
            rows = parquet_rows(self.root, [*needed, *others], numbers)
        else:
            rows = table_rows(self.root, needed)
        for line, cells in rows:
            held = {name: cells[column] for name, column in columns.items() if column in cells}
            path = held.pop("path")
            held = {name: value.strip() for name, value in held.items()}
            target = tuple(cells[column].strip() for column in targets.columns)
            lacking, wrong = targets.wrong(target)
            empty = [*([] if path.strip() else [columns["path"]]), *lacking]
            empty += [columns[name] for name, value in held.items() if not value]
            odd = [targets.columns[0]] if not all(map(_fits, targets.names_in(target))) else []
            odd += [columns[name] for name, value in held.items() if not _fits(value)]
            if empty:
                wrong = f"{', '.join(empty)} is empty"
            elif odd:
                wrong = f"{', '.join(odd)} has a line break in it, or more than 200 characters"
            elif not wrong:
                out = f"{shown(path)} leads out of {self.root.parent}"
                wrong = "" if stays_inside(path) else out
            split = held.get("split", "")
            part = next((p for p, names in SPELLINGS.items() if split.lower() in names), split)
            place = posixpath.normpath(path)
            yield CsvRow(line, place, target, part, held.get("domain", "")), wrong

    def _sets(
        self, rows: Sequence[CsvRow], classes: Sequence[str]
    ) -> dict[tuple[str, str], ImageSet]:
        """Return the images by role (train, val, test, shift) and domain or shift."""
        encoded = self._targets.encoder(classes)
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
            listing.labels.append(encoded(row.cells))
        return {key: found[key].images(upright=True) for key in sorted(found)}

    def _parts(self, own: Mapping[str, ImageSet]) -> Parts:
        """Return a domain's training, validation and test images; hold out missing parts."""
        shares = {"val": self.id_val_share, "test": self.id_test_share}
        wanted = {part: share for part, share in shares.items() if part not in own}
        train = own["train"]
        strata = self._targets.kind().strata(train.labels)
        *held, rest = stratified(strata, tuple(wanted.values()), SPLIT_SEED)
        made = {part: train.subset(chosen) for part, chosen in zip(wanted, held, strict=True)}
        both = {**own, **made}
        return train.subset(rest), both["val"], both["test"]


def _lists_images(table: Path) -> bool:
    """Return whether a table has a column of files and one of labels."""
    try:
        names = {name.strip().lower() for name in column_names(table)}
    except DataError:
        return False
    return bool(names & {*USUAL["path"]} and names & TARGETS) and not _holds_images(table)


def _holds_images(table: Path) -> bool:
    """Return whether a parquet file holds the images themselves."""
    if table.suffix.lower() != ".parquet":
        return False
    return any("binary" in kind for kind in parquet_columns(table).values())


def _fits(name: str) -> bool:
    return _NAME.fullmatch(name) is not None
