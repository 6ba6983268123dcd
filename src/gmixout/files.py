"""Files that are either complete or absent, and the folder of those that can be made again."""

import glob
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gmixout.errors import StateError


def cache_folder() -> Path:
    """Return the cache of models made on this machine: `gmixout` in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gmixout"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one.

    Leftovers of killed processes are deleted.

    Args:
        path: The file.
        write: Called with the temporary path (same folder) to fill.

    Raises:
        StateError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_leftovers(path)
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
    """Write a text atomically, in UTF-8; raise as `write_atomically` does and return the path."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _delete_leftovers(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        writer = left.name.removesuffix(".tmp").rpartition(".")[2]
        if writer.isdecimal() and not _is_running(int(writer)):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # asking would end the process there
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _flush_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
