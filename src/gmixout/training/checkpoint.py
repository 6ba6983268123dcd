"""The checkpoint of a training run."""

from pathlib import Path
from typing import Any

import torch

from gmixout.errors import StateError
from gmixout.files import write_atomically

_FORMAT = "gmixout checkpoint 1"


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
