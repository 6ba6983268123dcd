"""Exports: a finished model for another library, checked before it is left there."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gmixout.errors import ConfigError, StateError
from gmixout.files import write_text
from gmixout.models.hub import loading
from gmixout.use.card import card_of, draw_accuracy
from gmixout.use.classifier import Classifier
from gmixout.use.export import (
    clip_towers,
    delta,
    huggingface_folder,
    onnx_file,
    timm_folder,
    torch_program,
)

__all__ = ["EXPORTS", "Export", "export_model"]

PICTURE = "accuracy.png"
"""The picture of a model card in a folder."""


@dataclass(frozen=True)
class Export:
    """A form that a model can be exported to."""

    write: Callable[[Classifier, Path, Tensor, str | None], str]
    """Write and check it; return how to use it, as Markdown. The arguments: the model on the CPU,
    a temporary place, preprocessed images to check it on, and the pretrained model's name."""
    suffix: str = ""
    """Ending of its file; empty: it is a folder."""
    pretrained: bool = False
    """True if it needs the pretrained model."""


EXPORTS: dict[str, Export] = {
    "timm": Export(timm_folder.write),
    "open_clip": Export(clip_towers.write_open_clip, pretrained=True),
    "hf": Export(huggingface_folder.write),
    "onnx": Export(onnx_file.write, ".onnx"),
    "torch_export": Export(torch_program.write, ".pt2"),
    "delta": Export(delta.write, ".safetensors", pretrained=True),
}
"""The forms by the names that users type."""


def export_model(
    classifier: Classifier,
    to: str,
    out: Path,
    examples: Tensor,
    pretrained: str | None = None,
) -> Path:
    """Export a model, with a model card beside it.

    It is written to a temporary place, loaded again by the library that it is for, and compared
    with the model on the examples. Only then does it get its name.

    Args:
        classifier: A loaded model.
        to: A name in `EXPORTS`.
        out: A folder or file that does not exist yet.
        examples: Preprocessed images `[B, C, H, W]`, best of the data it was trained on.
        pretrained: Name of the pretrained model, for the forms that need it; by default the one
            that the model was finetuned from.

    Returns:
        `out`.

    Raises:
        ConfigError: There is no such form, the model cannot take it, or a library is missing.
        StateError: `out` exists or cannot be written, or what was written computes something else.
        DataError: The pretrained model is unavailable.
    """
    kind = EXPORTS.get(to)
    if kind is None:
        raise ConfigError(f"to={to!r:.80} must be one of: {', '.join(EXPORTS)}")
    check_place(to, out)
    classifier = classifier.cpu().float().eval()
    classifier.to(memory_format=torch.contiguous_format)  # safetensors takes no other
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp{kind.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not kind.suffix:
            temporary.mkdir()
        with loading(f"{to} export", "give --pretrained FAMILY:NAME@FILE"):
            usage = kind.write(classifier, temporary, examples, pretrained)
        usage = usage.replace("FOLDER", out.name).replace("FILE", out.name)
        if kind.suffix:
            write_text(out.with_name(f"{out.stem}.md"), card_of(classifier, to, usage))
        else:
            picture = PICTURE if draw_accuracy(classifier, temporary / PICTURE) else ""
            write_text(temporary / "README.md", card_of(classifier, to, usage, picture))
        _make_readable(temporary)
        os.replace(temporary, out)
    except OSError as error:
        raise StateError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    return out


def _make_readable(place: Path) -> None:
    """Give files the permissions of new files; some libraries make them the owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in place.rglob("*") if place.is_dir() else (place,):
        if file.is_file():
            file.chmod(0o666 & ~mask)


def check_place(to: str, out: Path) -> None:
    """Check, before any work, that a form can be written to a place.

    Raises:
        ConfigError: It is a file of another ending.
        StateError: It exists.
    """
    if (kind := EXPORTS.get(to)) and kind.suffix and out.suffix != kind.suffix:
        raise ConfigError(f"out={out}: --to {to} writes a file that ends in {kind.suffix}")
    if out.exists() or out.is_symlink():
        raise StateError(f"{out} exists already: delete it, or give another --out")
