"""Explanations of library errors that a user can fix."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from gmixout.errors import ConfigError, GmixoutError, TrainingError
from gmixout.plain import printable
from gmixout.training.arguments import TrainingArguments

_NO_MEMORY = r"out of memory|not enough memory|can't allocate memory|bad_alloc|MemoryError"
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
    r"Connection (closed|reset) by peer|DistBackendError|DistNetworkError|Broken pipe": (
        TrainingError,
        "another process of this run ended; its own message says why. " + f"{_GO_ON}",
    ),
    _NO_MEMORY: (
        TrainingError,
        f"there is not enough memory. {{savings}} {_GO_ON}",
    ),
}
"""Explanations by a pattern of the error's type and text."""
_SAVINGS = (
    "Lower the memory of a step: a larger accumulate, checkpointing, mixed_precision=bf16, a "
    "smaller image_size or a smaller batch_size; or use fewer workers or num_workers."
)
_HANDED_ON = "in DataLoader worker process"


def explained(
    error: BaseException, arguments: TrainingArguments | None = None
) -> GmixoutError | None:
    """Return an error that explains how to fix another one; None if that is unknown.

    Of an error of ours that a loading process handed on, with its traceback as text, the text.

    Args:
        error: The error.
        arguments: Settings of the run, which decide the way to save memory.
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
            ways = _SAVINGS if arguments is None else savings(arguments)
            text = f"{advice.replace('{savings}', ways)}. ({printable(first)[:200]})"
            return kind(text)
    return None


def savings(arguments: TrainingArguments) -> str:
    """Return the settings that lower the memory of a step, the one with the least side effects
    first, as a sentence.
    """
    ways = []
    images = -(-arguments.batch_size // arguments.accumulate)
    if images > 1:
        more = min(2 * arguments.accumulate, arguments.batch_size)
        now, then = _images(images), _images(-(-arguments.batch_size // more))
        ways.append(f"--accumulate {more} (passes of {then}, now {now}; steps stay the same)")
    if not arguments.checkpointing:
        ways.append("--checkpointing (same gradients, about a third more time)")
    if arguments.mixed_precision == "no":
        ways.append("--mixed-precision bf16")
    if arguments.batch_size > 1:
        ways.append("a smaller batch_size")
    listed = "; ".join([*ways, "a smaller image_size", "fewer workers or num_workers"])
    return f"Lower the memory of a step, in this order: {listed}."


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''}"


@contextmanager
def foreseen(arguments: TrainingArguments) -> Iterator[None]:
    """Explain known errors of libraries and what to do about them.

    Args:
        arguments: Settings of the run.

    Raises:
        GmixoutError: See `explained`.
    """
    try:
        yield
    except Exception as error:
        if (known := explained(error, arguments)) is None:
            raise
        raise known from error
