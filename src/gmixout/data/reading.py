"""Reading of untrusted files: errors name the file and the place.

A file may be broken, of another kind, or malicious: only regular files are opened, and reading
takes memory in proportion to the file, whatever it claims of its own size.
"""

import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gmixout.errors import DataError
from gmixout.settings import shown

MOST_TEXT = 2**27
"""Bytes of a text file at most: a list of ImageNet's images has 5 MB."""


@contextmanager
def reading(file: Path, kind: str, place: Callable[[], str] = str) -> Iterator[None]:
    """Turn what a parser raises on a broken or hostile file into an error that names the file.

    What they raise has no common base: values, keys, types, struct and zip errors, recursion, no
    memory. Only a parser's calls belong inside, so that no mistake of ours looks like the file's.

    Args:
        file: The file.
        kind: The expected kind of file, for errors.
        place: Where in the file the parser is (", line 7").

    Raises:
        DataError: The parser raised.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(f"{file}{place()} cannot be read as {kind} ({said})") from error


def regular(file: Path) -> Path:
    """Return the path of a regular file, or of a link to one, unchanged.

    Raises:
        DataError: It is a folder, a pipe, a device or a socket, which may never end, or not there.
    """
    try:
        mode = os.stat(file).st_mode
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be opened ({error})") from error
    if stat.S_ISREG(mode):
        return file
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    raise DataError(f"{file} is a {kinds.get(stat.S_IFMT(mode), 'device')} and not a regular file")


def text_of(file: Path) -> str:
    """Return the text of a file, without a byte-order mark.

    Raises:
        DataError: It is not UTF-8, too long, or not a regular file.
    """
    size = os.path.getsize(regular(file))
    if size > MOST_TEXT:
        raise DataError(f"{file} has {size:,} bytes, and text is read up to {MOST_TEXT:,}")
    with reading(file, "text"):
        held = file.read_bytes()
    try:
        return held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = held.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file} is not text in UTF-8: line {line}, {error.reason}") from error


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the number of each line, from 1, and the line, stripped; empty ones are left out.

    Raises:
        DataError: As `text_of`.
    """
    for number, line in enumerate(io.StringIO(text_of(file), newline=None), start=1):
        if line := line.strip():
            yield number, line


def _table_of(file: Path) -> "tuple[csv.DictReader[str], str]":
    """Return a reader of a table's rows, and what separates its values."""
    text = io.StringIO(text_of(file), newline="")
    header = text.readline()
    text.seek(0)
    marks = "\t" if file.suffix.lower() in (".tsv", ".tab") else ",;\t"
    mark = next((mark for mark in marks if mark in header), marks[0])
    # strict: a quote that is never closed is an error, and not a value of all lines after it
    return csv.DictReader(text, restval="", strict=True, delimiter=mark), mark


def table_columns(file: Path) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        DataError: As `text_of`, or it is not a table.
    """
    reader, _ = _table_of(file)
    with reading(file, "a table"):
        return list(reader.fieldnames or ())


def table_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each row's line, from 1, and the row of a table.

    Values are separated by commas; by tabs in .tsv files; and by semicolons or tabs where the first
    line has no comma.

    Args:
        file: Its first line names the columns.
        columns: Those it has to have; a row that is too short has empty text in them.

    Raises:
        DataError: As `text_of`; it is not such a table, lacks a column or has one twice, or a row
            has more values than there are columns.
    """
    reader, mark = _table_of(file)
    with reading(file, "a table", lambda: f", line {reader.reader.line_num}"):
        names = list(reader.fieldnames or ())
        if absent := [name for name in columns if name not in names]:
            raise DataError(f"{file} has no column {', '.join(absent)}; it has: {shown(names)}")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{file} has more than one column {shown(twice)}")
        for row in reader:
            if reader.restkey in row:
                raise DataError(
                    f"{file}, line {reader.reader.line_num} has more values than the table has "
                    f"columns: a value that holds {shown(mark)} needs quotes around it"
                )
            yield reader.line_num, row


def json_of(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: As `text_of`, or it is not JSON.
    """
    text = text_of(file)
    with reading(file, "JSON"):
        return json.loads(text)


def array_of(file: Path) -> "np.ndarray[Any, Any]":
    """Return an array mapped from an .npy file, of numbers; nothing is read into memory.

    Raises:
        DataError: It is not such a file, or shorter than it claims.
    """
    with reading(file, "an array"):
        array = np.lib.format.open_memmap(regular(file), mode="r")
    if array.dtype.kind not in "buif" or array.size == 0:
        raise DataError(f"{file} is not an array of numbers: {shown(array.dtype)} {array.shape}")
    return array


def stays_inside(path: str) -> bool:
    """Check that a relative path with `/` names nothing above or beside the folder it starts in."""
    return not path.startswith("/") and ".." not in path.split("/") and "\0" not in path


def irregular_file(folder: Path) -> Path | None:
    """Return a file below a folder that is not a regular one; None: there is none."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if path.exists() and not path.is_file():
                return path
    return None
