"""The predictions of a finished model on every test set, kept in its run folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from typing_extensions import TypedDict

from gmixout.errors import StateError
from gmixout.files import write_atomically
from gmixout.plain import bounded, checked, printable, read_json

MOST_IMAGES = 2**20
"""Images whose predictions are kept; sets beyond that have their scores in the record alone."""
LARGEST_THUMBNAIL = 2**15
"""Most bytes of the small picture of a mistake."""


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction that the model was sure of, with a small picture of the image."""

    index: int
    """Position of the image in its set."""
    name: str
    """Its file, without the folder of the data."""
    thumbnail: bytes = b""
    """A JPEG; empty if there is none."""


@dataclass(frozen=True)
class SetPredictions:
    """What a model predicted for one set of N images, and what its start predicted."""

    labels: Tensor
    """`[N]`, int32."""
    predicted: Tensor
    """`[N]`, int32."""
    confidence: Tensor
    """Softmax probability of the prediction, `[N]`, float32."""
    calibrated: Tensor
    """The same with the logits divided by the temperature, `[N]`, float32."""
    start: Tensor | None = None
    """Predictions of the pretrained model, `[N]`, int32."""
    classes: tuple[str, ...] = ()
    """Class names of the labels, where they are not the model's."""
    mistakes: tuple[Mistake, ...] = ()
    """The mistakes that the model was most sure of; of unknown classes, every prediction is one."""

    @property
    def right(self) -> Tensor:
        """True where the prediction is the label, `[N]`."""
        return self.predicted == self.labels


_COLUMNS = {
    "labels": torch.int32,
    "predicted": torch.int32,
    "confidence": torch.float32,
    "calibrated": torch.float32,
    "start": torch.int32,
}


@dataclass(frozen=True)
class RunPredictions:
    """The predictions of a model by the names of the sets."""

    model: str
    """Digest of the model file."""
    temperature: float
    """Temperature of `SetPredictions.calibrated`."""
    classes: tuple[str, ...]
    """Class names of the model."""
    start: str
    """Origin of the head of the pretrained model: zero_shot, pretrained, linear_probe; empty:
    its predictions say nothing, as the head is random."""
    sets: Mapping[str, SetPredictions] = field(default_factory=dict)


class _AboutMistake(TypedDict):
    index: Annotated[int, Ge(0)]
    name: str


class _AboutSet(TypedDict):
    name: str
    classes: list[str]
    mistakes: list[_AboutMistake]


class _About(TypedDict):
    model: str
    temperature: Annotated[float, Gt(0)]
    classes: list[str]
    start: str
    sets: list[_AboutSet]


def save_predictions(path: Path, predictions: RunPredictions) -> None:
    """Write predictions; the file is complete or absent.

    Raises:
        StateError: It cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    about: dict[str, Any] = {name: getattr(predictions, name) for name in _About.__annotations__}
    about["sets"] = []
    for number, (name, each) in enumerate(predictions.sets.items()):
        for column, kind in _COLUMNS.items():
            values = getattr(each, column)
            if values is not None:
                tensors[f"{number}.{column}"] = values.to(kind).contiguous()
        for place, mistake in enumerate(each.mistakes):
            tensors[f"{number}.mistake.{place}"] = torch.tensor([*mistake.thumbnail]).byte()
        named = [{"index": each.index, "name": each.name} for each in each.mistakes]
        about["sets"].append({"name": name, "classes": each.classes, "mistakes": named})
    content = save(tensors, {"predictions": json.dumps(bounded(about), sort_keys=True)})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_predictions(path: Path) -> RunPredictions | None:
    """Read predictions; None if there is no file.

    Raises:
        StateError: `save_predictions` did not write it, or it was changed since.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as opened:
            about = (opened.metadata() or {}).get("predictions", "null")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        held = checked(read_json(about), _About)
        sets = {each["name"]: _set_of(n, each, tensors) for n, each in enumerate(held["sets"])}
        for name, each in sets.items():
            _check_set(name, each, held["classes"])
    except Exception as error:  # on a foreign file its reader may fail in any way
        said = printable(str(error))[:300]
        raise StateError(
            f"{path} cannot be read ({said}): delete it; `gmixout evaluate {path.parent}` writes it"
        ) from error
    classes = tuple(held["classes"])
    return RunPredictions(held["model"], held["temperature"], classes, held["start"], sets)


def _set_of(number: int, about: _AboutSet, tensors: Mapping[str, Tensor]) -> SetPredictions:
    columns: dict[str, Any] = {
        column: tensors[f"{number}.{column}"]
        for column in _COLUMNS
        if column != "start" or f"{number}.start" in tensors
    }
    mistakes = []
    for place, each in enumerate(about["mistakes"]):
        thumbnail = tensors[f"{number}.mistake.{place}"]
        if thumbnail.dtype != torch.uint8 or thumbnail.numel() > LARGEST_THUMBNAIL:
            raise ValueError(f"the picture of {each['name']} is not one")
        mistakes.append(Mistake(each["index"], each["name"], bytes(thumbnail.tolist())))
    classes = tuple(about["classes"])
    return SetPredictions(**columns, classes=classes, mistakes=tuple(mistakes))


def _check_set(name: str, found: SetPredictions, classes: Sequence[str]) -> None:
    """Check the columns of a set against each other.

    Raises:
        ValueError: They do not fit.
    """
    count = len(found.labels)
    own = len(found.classes or classes)
    for column, kind in _COLUMNS.items():
        values = getattr(found, column)
        if values is None:
            continue
        if values.dtype != kind or values.shape != (count,) or not count:
            raise ValueError(f"{column} of {name} has another form")
        if kind == torch.float32:
            fits = (values >= 0).all() and (values <= 1).all()
        else:
            # of unknown classes the labels are of their own, and predictions the model's
            most = own if column == "labels" else max(own, len(classes))
            fits = (values >= 0).all() and (values < most).all()
        if not fits:
            raise ValueError(f"{column} of {name} has a value out of range")
    if any(each.index >= count for each in found.mistakes):
        raise ValueError(f"a mistake of {name} is none of its {count} images")
