"""Explanations of library errors that a user can fix."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from gmixout.errors import ConfigError, GmixoutError, TrainingError
from gmixout.plain import printable

_GO_ON = "Everything saved is untouched; --resume continues from there"
_FAULTS: dict[str, tuple[type[GmixoutError], str]] = {
    r"Expected more than 1 value per channel when training": (
        ConfigError,
        "a batch norm cannot take the statistics of a single value: choose a batch_size of 2 or "
        "more, or freeze_batch_norm",
    ),
    r"DataLoader worker .* (killed|exited)|shared memory|ancdata": (
        TrainingError,
        "a process that loads images died or could not hand them on, most often for lack of "
        "memory, of shared memory (/dev/shm) or of open files (ulimit -n): use fewer num_workers. "
        f"{_GO_ON}",
    ),
    r"out of memory|not enough memory|can't allocate memory|bad_alloc|MemoryError": (
        TrainingError,
        "there is not enough memory: use a smaller batch_size, fewer workers or num_workers, or "
        f"mixed_precision. {_GO_ON}",
    ),
}
"""Explanations by a pattern of the error's type and text."""
_HANDED_ON = "in DataLoader worker process"


def explained(error: BaseException) -> GmixoutError | None:
    """Return an error that explains how to fix another one; None if that is unknown.

    Of an error of ours that a loading process handed on, with its traceback as text, the text.
    """
    if isinstance(error, GmixoutError):
        _, mark, own = str(error).rpartition(f"{type(error).__qualname__}: ")
        return type(error)(own.strip()) if mark and _HANDED_ON in str(error) else None
    if not isinstance(error, Exception):
        return None
    text = f"{type(error).__name__}: {error}"
    for pattern, (kind, advice) in _FAULTS.items():
        if re.search(pattern, text, re.IGNORECASE):
            first = text.strip().splitlines()[0]
            return kind(f"{advice}. ({printable(first)[:200]})")
    return None


@contextmanager
def foreseen() -> Iterator[None]:
    """Explain known errors of libraries and what to do about them.

    Raises:
        GmixoutError: See `explained`.
    """
    try:
        yield
    except Exception as error:
        if (known := explained(error)) is None:
            raise
        raise known from error
