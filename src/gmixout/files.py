"""Files that are there as a whole or not at all."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gmixout.errors import StateError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file so that a crash at any moment leaves the old one or the new one.

    Args:
        path: The file.
        write: Is called with the temporary path (same folder) to fill.

    Raises:
        StateError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> Path:
    """`write_atomically` of a text, in UTF-8; raises as it does and returns the path."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _flush_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
