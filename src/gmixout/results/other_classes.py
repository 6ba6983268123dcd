"""Accuracy on classes that finetuning never saw, before and after: what a model forgets."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Interval
from typing_extensions import TypedDict

from gmixout.errors import StateError
from gmixout.files import write_text
from gmixout.plain import bounded, checked, printable, read_json

_LARGEST_FILE = 2**20
_MOST = 100


class OtherClasses(TypedDict):
    """Zero-shot accuracy on a data set of other classes."""

    data: str
    """Name of the data set or its folder."""
    classes: Annotated[int, Ge(1)]
    images: Annotated[int, Ge(1)]
    before: Annotated[float, Interval(ge=0, le=1)]
    """Accuracy of the pretrained image tower."""
    after: Annotated[float, Interval(ge=0, le=1)]
    """Accuracy of the finetuned image tower with the same text tower."""


class _File(TypedDict):
    model: str
    measured: list[OtherClasses]


def read_other_classes(path: Path, model: str) -> list[OtherClasses]:
    """Return what was measured of a model; nothing if there is no file, or it is of other weights.

    Args:
        path: The file.
        model: Digest of the model file.

    Raises:
        StateError: The file cannot be read.
    """
    if not path.exists():
        return []
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE} bytes")
        held = checked(read_json(path.read_bytes()), _File)
    except (OSError, ValueError) as error:
        said = printable(str(error))[:300]
        raise StateError(f"{path} cannot be read ({said}): delete it") from error
    return list(held["measured"]) if held["model"] == model else []


def add_other_classes(path: Path, model: str, found: OtherClasses) -> None:
    """Add a measurement; one of the same data is replaced.

    Raises:
        StateError: The file cannot be read or written.
    """
    before: Sequence[OtherClasses] = read_other_classes(path, model)
    others = [each for each in before if each["data"] != found["data"]]
    kept = [*others, found][-_MOST:]
    write_text(path, json.dumps(bounded({"model": model, "measured": kept}), indent=1) + "\n")
