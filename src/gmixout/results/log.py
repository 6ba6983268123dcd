"""The file of a run folder that holds its records, one line of JSON each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from filelock import FileLock

from gmixout.errors import StateError
from gmixout.plain import read_json
from gmixout.results.record import Record


class RecordLog:
    """The records of a run folder, in one file that only ever grows.

    Several processes may append; a lock file beside it keeps their lines apart.

    A writer that is killed can leave one torn line at the end. Reading passes over it, and the
    next `append` cuts it off; anything else that is broken is an error, not a silent loss.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, record: Record) -> None:
        """Write one record and return when it is on the disk.

        Raises:
            StateError: It cannot be written; the file is as before then.
        """
        line = record.to_json().encode() + b"\n"
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        with _named(self.path), lock, open(self.path, "a+b", buffering=0) as file:
            file.seek(0)
            content = file.read()
            lines, torn = _split(content)
            end = len(content) - len(torn)
            if torn:
                file.truncate(end)
            elif lines and content[-1:] not in _ENDS:  # an editor left out the last line break
                line = b"\n" + line
            try:
                _write_all(file, line)
            except OSError:
                file.truncate(end)
                raise
            os.fsync(file.fileno())

    def read(self, run: str = "") -> list[Record]:
        """The records in the order they were written; none when there is no file yet.

        Args:
            run: Hash of the training run whose records are wanted; empty: all.

        Raises:
            StateError: If the file cannot be read, or a line other than a torn last one is broken;
                names file and line.
        """
        if not self.path.exists():
            return []
        with _named(self.path):
            lines, _ = _split(self.path.read_bytes())
        records = []
        for number, line in enumerate(lines, start=1):
            if run.encode() not in line:
                continue
            try:
                record = Record.from_json(line)
                records += [record] if run in ("", record.run) else []
            except StateError as error:
                raise StateError(
                    f"{self.path}, line {number}: {error}. Correct or remove that line; "
                    "the others stay as they are."
                ) from None
        return records


_ENDS = (b"\n", b"\r")  # an editor may have written the line breaks of any system


def _split(content: bytes) -> tuple[list[bytes], bytes]:
    """The lines of a log, and what a killed writer left of one at its end."""
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    if lines and content[-1:] not in _ENDS and _is_torn(lines[-1]):
        return lines[:-1], lines[-1]
    return lines, b""


def _is_torn(tail: bytes) -> bool:
    """Whether a last line without line break is the beginning of a record, and no more."""
    try:
        read_json(tail)
    except ValueError:
        return True
    return False


def _write_all(file: FileIO, content: bytes) -> None:
    """Writes every byte: on a full disk the system takes some of them without an error."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names the file in an error of the system."""
    try:
        yield
    except OSError as error:
        raise StateError(f"{path} cannot be used: {error.strerror or error}") from error
