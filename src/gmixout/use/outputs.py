"""Files of predictions: CSV, JSON lines, Parquet, and text."""

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gmixout.errors import ConfigError, StateError, needs
from gmixout.files import write_atomically
from gmixout.plain import spreadsheet_cell
from gmixout.tasks import DEFAULT_TASK, LearningTask
from gmixout.tasks.base import rounded
from gmixout.use.predictions import FilePrediction


class Output(ABC):
    """Takes predictions batch by batch; what it has taken survives an interruption."""

    @property
    def is_wanted(self) -> bool:
        """False if further predictions would be of no use."""
        return True

    @abstractmethod
    def write(self, rows: Sequence[FilePrediction]) -> None:
        """Take the next predictions."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""


OOD_COLUMNS = ("ood_score", "unknown")
"""Columns beside `error`, where a score of known classes is asked for."""


@dataclass(frozen=True)
class PredictionForm:
    """What a row of predictions holds."""

    top_k: int
    """Number of classes."""
    task: LearningTask = DEFAULT_TASK
    """What the model says of an image."""
    classes: tuple[str, ...] = ()
    """Names of its outputs."""

    has_ood_score: bool = False
    """True if a score of known classes is asked for."""

    @property
    def columns(self) -> list[str]:
        """Names of a table's columns."""
        first = self.task.columns(self.classes, 0)
        rest = self.task.columns(self.classes, self.top_k)[len(first) :]
        ood = OOD_COLUMNS if self.has_ood_score else ()
        return ["file", "status", *first, "error", *ood, *rest]

    def values(self, row: FilePrediction) -> list[Any]:
        """Return the values of a row of a table; None where there is nothing."""
        first = len(self.task.columns(self.classes, 0))
        values: list[Any] = [None] * len(self.task.columns(self.classes, self.top_k))
        if row.top:
            values = self.task.cells(row.top, row.threshold, self.top_k)
        ood = self._ood(row).values()
        return [row.file, row.status, *values[:first], row.error or None, *ood, *values[first:]]

    def fields(self, row: FilePrediction) -> dict[str, Any]:
        """Return a row as named values, for JSON."""
        first = self.task.columns(self.classes, 0)
        held = dict.fromkeys(first) | {"top": []} if self.task.has_classes else dict.fromkeys(first)
        if row.top:
            held = self.task.fields(row.top, row.threshold, self.top_k)
        top = {"top": held.pop("top")} if "top" in held else {}
        whole = {"file": row.file, "status": row.status, **held}
        return {**whole, "error": row.error or None, **self._ood(row), **top}

    def _ood(self, row: FilePrediction) -> dict[str, Any]:
        """Return the values of the columns of a score of known classes, if it is asked for."""
        if not self.has_ood_score:
            return {}
        score = None if row.ood_score is None else rounded(row.ood_score)
        unknown = None if row.unknown is None else "yes" if row.unknown else "no"
        return dict(zip(OOD_COLUMNS, (score, unknown), strict=True))

    def is_number(self, column: str) -> bool:
        """Return whether a column holds numbers."""
        return column.startswith(("confidence", "probability_", "predicted_", "ood_score"))


class Lines(Output):
    """A file that gets whole lines, batch by batch."""

    def __init__(self, path: Path, form: PredictionForm) -> None:
        self._path, self._form = path, form
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise StateError(f"cannot write {path}: {error.strerror or error}") from error
        self.begin()

    def begin(self) -> None:
        """Write what is above the rows."""

    @abstractmethod
    def put(self, row: FilePrediction) -> None:
        """Write a row."""

    def write(self, rows: Sequence[FilePrediction]) -> None:
        """Take the next predictions."""
        try:
            for row in rows:
                self.put(row)
            self._file.flush()
        except OSError as error:
            raise StateError(f"cannot write {self._path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class CsvLines(Lines):
    """A table with commas, which spreadsheets open and whose cells they do not run."""

    def begin(self) -> None:
        """Write the names of the columns."""
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(map(spreadsheet_cell, self._form.columns))

    def put(self, row: FilePrediction) -> None:
        """Write a row."""
        self._writer.writerow(map(spreadsheet_cell, self._form.values(row)))


class JsonLines(Lines):
    """An object a line."""

    def put(self, row: FilePrediction) -> None:
        """Write a row."""
        self._file.write(json.dumps(self._form.fields(row), ensure_ascii=False) + "\n")


class Parquet(Output):
    """A Parquet file, complete or absent, with the columns of the CSV file."""

    def __init__(self, path: Path, form: PredictionForm) -> None:
        with needs("pyarrow", "hub", f"writing {path.name}"):
            import pyarrow
        self._path, self._form = path, form
        self._tables: list[Any] = []
        self._schema = pyarrow.schema(
            [
                (n, pyarrow.float32() if form.is_number(n) else pyarrow.string())
                for n in form.columns
            ]
        )

    def write(self, rows: Sequence[FilePrediction]) -> None:
        """Take the next predictions."""
        import pyarrow

        names = self._form.columns
        values = [dict(zip(names, self._form.values(row), strict=True)) for row in rows]
        self._tables.append(pyarrow.Table.from_pylist(values, self._schema))

    def close(self) -> None:
        """Finish the file."""
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.concat_tables([self._schema.empty_table(), *self._tables])
        write_atomically(self._path, lambda temporary: parquet.write_table(table, temporary))


class Text(Output):
    """Lines for a terminal, in columns; or, for a program that reads them, between tabs.

    Args:
        file: The stream.
        files: All names, for the width of their column.
        aligned: For a terminal.
        top_k: Number of classes.
    """

    WIDEST = 60

    def __init__(self, file: IO[str], files: Iterable[str], aligned: bool, top_k: int = 5) -> None:
        self._file, self._aligned, self._top_k = file, aligned, top_k
        self._width = min(self.WIDEST, max(map(len, files), default=0))
        self._is_read = True

    def write(self, rows: Sequence[FilePrediction]) -> None:
        """Print the next predictions, unless nobody reads them any more (`| head`)."""
        if not self._is_read:
            return
        try:
            self._print(rows)
        except BrokenPipeError:
            self._is_read = False
            # or the interpreter complains when it flushes the stream at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())

    @property
    def is_wanted(self) -> bool:
        """False once nobody reads the stream."""
        return self._is_read

    def _print(self, rows: Sequence[FilePrediction]) -> None:
        for row in rows:
            said = row.label if row.status == "ok" else f"({row.status})"
            rest = row.error or ", ".join((row.task.told(row.top, self._top_k), *_ood_text(row)))
            if self._aligned:
                print(f"{row.file:<{self._width}}  {said:<20}  {rest}", file=self._file)
            else:
                print(row.file, said, rest, sep="\t", file=self._file)
        self._file.flush()

    def close(self) -> None:
        """Leave the stream open."""


def _ood_text(row: FilePrediction) -> list[str]:
    """Return the score of known classes in words, if it is asked for."""
    if row.ood_score is None:
        return []
    return [f"score {row.ood_score:.4g}{' (unknown class)' if row.unknown else ''}"]


OUTPUTS: dict[str, type[CsvLines] | type[JsonLines] | type[Parquet]] = {
    ".csv": CsvLines,
    ".jsonl": JsonLines,
    ".parquet": Parquet,
}
"""The output of each file ending."""


def open_output(path: Path, form: PredictionForm, overwrite: bool = False) -> Output:
    """Return the output for a file's ending.

    Raises:
        ConfigError: As `check_output`.
        StateError: As `check_output`, or the file cannot be written.
    """
    check_output(path, overwrite)
    return OUTPUTS[path.suffix.lower()](path, form)


def check_output(path: Path, overwrite: bool = False) -> None:
    """Check, before any work, that predictions can go to a file.

    Raises:
        ConfigError: It has none of the known endings.
        StateError: There is a file, and `overwrite` is not given.
    """
    if path.suffix.lower() not in OUTPUTS:
        raise ConfigError(f"out={path} must end in one of: {', '.join(OUTPUTS)}")
    if path.is_dir():
        raise StateError(f"out={path} is a folder: give a file")
    if path.exists() and not overwrite:
        raise StateError(f"{path} exists already: --overwrite replaces it, or give another --out")
