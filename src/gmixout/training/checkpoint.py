"""Files that are there as a whole or not at all, and the checkpoint of a training run."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gmixout.errors import StateError

_FORMAT = "gmixout checkpoint 1"


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


def save_checkpoint(path: Path, run: str, state: dict[str, Any]) -> None:
    """Writes the state of a training run.

    Args:
        path: The checkpoint file.
        run: What the run is (its hash); `load_checkpoint` compares it.
        state: Tensors and plain values.
    """
    content = {"format": _FORMAT, "run": run, **state}
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def load_checkpoint(path: Path, run: str) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote, on the CPU.

    Raises:
        StateError: The file is truncated, is no checkpoint, or is one of another run.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on a foreign file an unpickler fails in any way it can
        raise StateError(
            f"{path} cannot be read as a checkpoint: it is truncated or another kind of file. "
            "Delete it, or start over with --overwrite"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise StateError(f"{path} is no checkpoint of gmixout; start over with --overwrite")
    if content["run"] != run:
        raise StateError(
            f"{path} is the checkpoint of another run ({content['run']}, this one is {run}); "
            "use another folder, or start over with --overwrite"
        )
    return content


def _flush_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
