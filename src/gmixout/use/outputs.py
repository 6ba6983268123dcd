"""Files of predictions: CSV, JSON lines, Parquet, and text."""

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from gmixout.errors import ConfigError, StateError, needs
from gmixout.files import write_atomically
from gmixout.plain import spreadsheet_cell
from gmixout.use.predictions import FilePrediction

_DIGITS = 6
"""Significant digits of a probability."""


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


def prediction_columns(top_k: int, ood: bool = False) -> list[str]:
    """Return the names of a table's columns."""
    ranks = range(1, top_k + 1)
    each = (name for rank in ranks for name in (f"class_{rank}", f"probability_{rank}"))
    own = OOD_COLUMNS if ood else ()
    return ["file", "status", "label", "confidence", "error", *own, *each]


def values_of(row: FilePrediction, top_k: int, ood: bool = False) -> list[Any]:
    """Return the values of a row of a table; None where there is nothing."""
    top = [value for name, share in row.top for value in (name, rounded(share))]
    confidence = None if row.confidence is None else rounded(row.confidence)
    first = [row.file, row.status, row.label or None, confidence, row.error or None]
    if ood:
        unknown = None if row.unknown is None else "yes" if row.unknown else "no"
        first += [None if row.ood_score is None else rounded(row.ood_score), unknown]
    return [*first, *top, *[None] * (2 * top_k - len(top))]


def rounded(share: float) -> float:
    """Return a probability without digits that float32 does not have."""
    return float(f"{share:.{_DIGITS}g}")


class Lines(Output):
    """A file that gets whole lines, batch by batch."""

    def __init__(self, path: Path, top_k: int, ood: bool = False) -> None:
        self._path, self._top_k, self._ood = path, top_k, ood
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
        self._writer.writerow(prediction_columns(self._top_k, self._ood))

    def put(self, row: FilePrediction) -> None:
        """Write a row."""
        values = values_of(row, self._top_k, self._ood)
        self._writer.writerow(map(spreadsheet_cell, values))


class JsonLines(Lines):
    """An object a line."""

    def put(self, row: FilePrediction) -> None:
        """Write a row."""
        names = prediction_columns(0, self._ood)
        first = dict(zip(names, values_of(row, 0, self._ood), strict=False))
        top = [{"class": name, "probability": rounded(share)} for name, share in row.top]
        self._file.write(json.dumps({**first, "top": top}, ensure_ascii=False) + "\n")


class Parquet(Output):
    """A Parquet file, complete or absent, with the columns of the CSV file."""

    def __init__(self, path: Path, top_k: int, ood: bool = False) -> None:
        with needs("pyarrow", "hub", f"writing {path.name}"):
            import pyarrow
        self._path, self._top_k, self._ood = path, top_k, ood
        self._tables: list[Any] = []
        self._schema = pyarrow.schema(
            [
                (n, pyarrow.float32() if _is_number(n) else pyarrow.string())
                for n in prediction_columns(top_k, ood)
            ]
        )

    def write(self, rows: Sequence[FilePrediction]) -> None:
        """Take the next predictions."""
        import pyarrow

        names = prediction_columns(self._top_k, self._ood)
        values = [
            dict(zip(names, values_of(row, self._top_k, self._ood), strict=True)) for row in rows
        ]
        self._tables.append(pyarrow.Table.from_pylist(values, self._schema))

    def close(self) -> None:
        """Finish the file."""
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.concat_tables([self._schema.empty_table(), *self._tables])
        write_atomically(self._path, lambda temporary: parquet.write_table(table, temporary))


def _is_number(column: str) -> bool:
    return column.startswith(("confidence", "probability", "ood_score"))


class Text(Output):
    """Lines for a terminal, in columns; or, for a program that reads them, between tabs.

    Args:
        file: The stream.
        files: All names, for the width of their column.
        aligned: For a terminal.
    """

    WIDEST = 60

    def __init__(self, file: IO[str], files: Iterable[str], aligned: bool) -> None:
        self._file, self._aligned = file, aligned
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
            top = [f"{name} {100 * share:.1f}%" for name, share in row.top]
            if row.ood_score is not None:
                top.append(f"score {row.ood_score:.4g}{' (unknown class)' if row.unknown else ''}")
            rest = row.error or ", ".join(top)
            if self._aligned:
                print(f"{row.file:<{self._width}}  {said:<20}  {rest}", file=self._file)
            else:
                print(row.file, said, rest, sep="\t", file=self._file)
        self._file.flush()

    def close(self) -> None:
        """Leave the stream open."""


OUTPUTS: dict[str, type[CsvLines] | type[JsonLines] | type[Parquet]] = {
    ".csv": CsvLines,
    ".jsonl": JsonLines,
    ".parquet": Parquet,
}
"""The output of each file ending."""


def open_output(path: Path, top_k: int, overwrite: bool = False, ood: bool = False) -> Output:
    """Return the output for a file's ending, with the columns of a score of known classes or not.

    Raises:
        ConfigError: As `check_output`.
        StateError: As `check_output`, or the file cannot be written.
    """
    check_output(path, overwrite)
    return OUTPUTS[path.suffix.lower()](path, top_k, ood)


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
