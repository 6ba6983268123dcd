"""The checkpoint of a training run: the latest one, and the one before it.

A checkpoint is what `torch.save` writes, with the SHA-256 of all its bytes in the comment that ends
a ZIP file. Hashing takes a fifth of the time that writing does.
"""

import hashlib
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from gmixout.errors import GmixoutError, StateError
from gmixout.files import write_atomically
from gmixout.plain import printable

_FORMAT = "gmixout checkpoint 2"
_SEAL = b"gmixout sha256 "
_SEAL_BYTES = len(_SEAL) + 64
_NEW_START = "Start over with --overwrite"


def previous(path: Path) -> Path:
    """Return the file of the checkpoint before the latest."""
    return path.with_stem(f"{path.stem}.previous")


def is_there(path: Path) -> bool:
    """Return whether there is a checkpoint to resume from, even a damaged one."""
    return path.exists() or previous(path).exists()


def delete_checkpoint(path: Path) -> None:
    """Delete the checkpoints, the latest one last: it describes the run until then.

    Raises:
        StateError: It cannot be deleted.
    """
    try:
        for file in (previous(path), path):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"cannot delete {path}: {error.strerror or error}") from error


def save_checkpoint(path: Path, run: str, state: dict[str, Any]) -> None:
    """Write the state of a training run and keep the previous one.

    Args:
        path: The checkpoint file.
        run: The hash of the run; `load_checkpoint` compares it.
        state: Tensors and plain values.

    Raises:
        StateError: It cannot be written; the previous one is untouched.
    """
    content = {"format": _FORMAT, "run": run, **state}

    def write(temporary: Path) -> None:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what torch makes of an error of the system
            raise OSError(
                "it cannot be written completely. Most often the disk is full, or a quota or a "
                "limit on the size of files is reached: make room, then use --resume"
            ) from error
        _seal(temporary)
        if path.exists():
            os.replace(path, previous(path))

    write_atomically(path, write)


def load_checkpoint(path: Path, run: str) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, on the CPU.

    If the latest one is damaged, warn and read the one before it.

    Raises:
        StateError: None can be used: truncated, changed since, of another kind or another run.
    """
    before = previous(path)
    try:
        content = _load(path if path.exists() else before)
    except StateError as error:
        if not path.exists():
            raise
        try:
            content = _load(before)
        except StateError:
            raise error from None
        text = f"{error} Going on from the one before it, {before.name}."
        Console(stderr=True, highlight=False, markup=False).print(printable(text), soft_wrap=True)
    if content.get("run") != run:
        raise StateError(
            f"{path} is the checkpoint of another run ({content.get('run')!s:.80}, this one is "
            f"{run}). Use another folder, or start over with --overwrite."
        )
    return dict(content)


def check_form(saved: object, own: object, what: str) -> None:
    """Check that saved values are of the form of a run's own: names, types, shapes, lengths.

    Args:
        saved: What a checkpoint holds.
        own: What the run has at the same place.
        what: The place, for the error.

    Raises:
        StateError: They are not; the message names the place.
    """
    if isinstance(own, Tensor):
        fits = isinstance(saved, Tensor) and (saved.shape, saved.dtype) == (own.shape, own.dtype)
    elif isinstance(own, Mapping):
        fits = isinstance(saved, Mapping) and saved.keys() == own.keys()
    elif isinstance(own, list | tuple):
        fits = type(saved) is type(own) and len(saved) == len(own)
    elif isinstance(own, int | float) and not isinstance(own, bool):
        fits = isinstance(saved, int | float) and math.isfinite(saved)
    else:
        fits = type(saved) is type(own)
    if not fits:
        raise StateError(
            f"the checkpoint holds other values for {what} than this run has. {_NEW_START}."
        )
    if isinstance(own, Mapping):
        for name, value in own.items():
            check_form(saved[name], value, f"{what}.{name}")  # type: ignore[index]
    elif isinstance(own, list | tuple):
        for place, value in enumerate(own):
            check_form(saved[place], value, f"{what}.{place}")  # type: ignore[index]


def check_groups(saved: object, own: Sequence[Mapping[str, Any]]) -> None:
    """Check that saved parameter groups of an optimizer are of the form of a run's own.

    A saved one may hold further counts: some optimizers note there what they have done.

    Args:
        saved: What a checkpoint holds.
        own: The run's groups.

    Raises:
        StateError: They are not.
    """
    if isinstance(saved, list):
        saved = [
            {n: v for n, v in group.items() if n in known or not _is_count(v)}
            if isinstance(group, Mapping)
            else group
            for group, known in zip(saved, [*own, *[{}] * len(saved)], strict=False)
        ]
    check_form(saved, own, "optimizer.param_groups")


def _is_count(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, int | float)


def check_moments(saved: Mapping[int, Any], shapes: Sequence[torch.Size]) -> None:
    """Check that an optimizer's state is of parameters of these shapes.

    Args:
        saved: By the number of the parameter: moments of its shape, means of it over some of its
            dimensions (Adafactor's), counters, by their names. Parameters may have others than
            their neighbours (Muon has AdamW's for vectors).
        shapes: Of all parameters.

    Raises:
        StateError: It is not.
    """
    for number, moments in saved.items():
        fits = isinstance(number, int) and 0 <= number < len(shapes)
        for value in moments.values():
            if isinstance(value, Tensor):
                fits = fits and _is_of(value.shape, shapes[number]) and value.is_floating_point()
        if not fits:
            raise StateError(
                f"the checkpoint's optimizer has other parameters ({number!s:.20}). {_NEW_START}."
            )


def _is_of(shape: torch.Size, whole: torch.Size) -> bool:
    """Return whether a tensor can be a parameter's moment, or a mean over dimensions of it."""
    if shape in (torch.Size(), whole):
        return True
    if len(shape) == len(whole):
        return all(own in (1, all_) for own, all_ in zip(shape, whole, strict=True))
    dropped = (whole[:place] + whole[place + 1 :] for place in range(len(whole)))
    return len(shape) == len(whole) - 1 and shape in dropped


@contextmanager
def taking_up() -> Iterator[None]:
    """Turn whatever a library raises on a state that does not fit into a `StateError`.

    Raises:
        StateError: Something inside failed.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, GmixoutError):
            raise
        text = printable(f"{type(error).__name__}: {error}")
        raise StateError(
            f"the checkpoint does not fit this run ({text:.300}). {_NEW_START}."
        ) from error


def _load(path: Path) -> Any:
    try:
        sealed = _has_seal(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except StateError:
        raise
    except Exception as error:  # on a foreign file an unpickler fails in any way it can
        raise StateError(
            f"{path} cannot be read as a checkpoint: it is truncated or another kind of file. "
            f"{_NEW_START}."
        ) from error
    kind = content.get("format") if isinstance(content, dict) else None
    if kind != _FORMAT:
        raise StateError(
            f"{path} is not a checkpoint of gmixout, or not of this version. {_NEW_START}."
        )
    if not sealed:
        raise StateError(f"{path} has lost its checksum: it is damaged. {_NEW_START}.")
    return content


def _seal(path: Path) -> None:
    """Append the digest of a ZIP file as its comment; its last two bytes are its length."""
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", _SEAL_BYTES))
        file.flush()
        file.write(_SEAL + _digest(path).encode())


def _has_seal(path: Path) -> bool:
    """Return whether a file has a digest, and check it.

    Raises:
        StateError: The digest does not match.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SEAL_BYTES))
        mark, _, digest = file.read().partition(_SEAL)
    if mark or not digest:
        return False
    if digest.decode(errors="replace") != _digest(path, size - _SEAL_BYTES):
        raise StateError(
            f"{path} is damaged: its checksum does not match its content. {_NEW_START}."
        )
    return True


def _digest(path: Path, size: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first bytes."""
    digest = hashlib.sha256()
    left = path.stat().st_size if size is None else size
    with open(path, "rb") as file:
        while block := file.read(min(left, 2**20)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
