"""Files that hold what finetuning changed in a pretrained model, to the bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from gmixout.errors import StateError
from gmixout.models import Pretrained, load_pretrained
from gmixout.plain import bounded, checked, printable, read_json
from gmixout.weightspace import State, fingerprint

MARK = "gmixout_delta"
"""Key of the metadata."""
WHOLE, PLACES, VALUES = "whole/", "places/", "values/"
"""Before the name of a tensor: all of its values; where some of them changed; and to what."""


class AboutDelta(TypedDict):
    """The metadata of such a file."""

    base: str
    """Fingerprint of the pretrained model without its head."""
    heads: list[str]
    """Layers that are in the file as a whole: a pretrained model has others, or none."""
    result: str
    """Fingerprint of the finetuned model."""
    about: dict[str, Any]
    """The metadata of the finetuned model's own file."""
    temperature: Annotated[float, Gt(0)]
    """The temperature of its probabilities."""


def write_delta(
    file: Path, base: Pretrained, state: State, about: Mapping[str, Any], temperature: float
) -> dict[str, Tensor]:
    """Write what differs between a pretrained model and finetuned weights.

    Args:
        file: The file.
        base: The pretrained model.
        state: The finetuned weights.
        about: Metadata of the finetuned model's file.
        temperature: The temperature of its probabilities.

    Returns:
        The tensors of the file.
    """
    start = base.model.state_dict()
    body = _without(start, base.heads)
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        tensors |= _changes(name, body.get(name), value.detach().cpu().contiguous())
    held = AboutDelta(
        base=fingerprint(body),
        heads=list(base.heads),
        result=fingerprint(state),
        about=dict(about),
        temperature=temperature,
    )
    save_file(tensors, file, metadata={MARK: json.dumps(bounded(dict(held)), sort_keys=True)})
    return tensors


def is_delta(path: Path) -> bool:
    """Return whether a file holds what `write_delta` writes."""
    try:
        with safe_open(path, framework="pt") as opened:
            return MARK in (opened.metadata() or {})
    except Exception:  # on a foreign file its reader may fail in any way
        return False


def read_delta(
    path: Path, pretrained: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any], float]:
    """Return finetuned weights, their metadata and their temperature.

    Args:
        path: The file.
        pretrained: Name of the pretrained model; by default the one in the file.

    Raises:
        StateError: The file is damaged, or the pretrained model has other weights.
        ConfigError: There is no such pretrained model.
        DataError: Its files are missing.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            held = checked(read_json((opened.metadata() or {})[MARK]), AboutDelta)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:
        said = printable(str(error))[:300]
        raise StateError(f"{path} cannot be read as a delta: {said}") from error
    about = held["about"]
    task, classes = about.get("task") or {}, about.get("classes")
    name = pretrained or task.get("model")
    if not isinstance(name, str) or not isinstance(classes, list):
        raise StateError(f"{path} does not say which pretrained model it changes")
    base = load_pretrained(name, classes, head="random", image_size=task.get("image_size"))
    start = base.model.state_dict()
    body = _without(start, held["heads"])
    if fingerprint(body) != held["base"]:
        raise StateError(
            f"{path} changes a pretrained model with the fingerprint {held['base']}, and {name} "
            f"has {fingerprint(body)}: give the one that it was finetuned from, as FAMILY:NAME@FILE"
        )
    try:
        state = {key: _changed(key, value, tensors) for key, value in start.items()}
    except (RuntimeError, IndexError, KeyError) as error:
        raise StateError(f"{path} is damaged: {error}") from error
    if fingerprint(state) != held["result"]:
        raise StateError(f"{path} is damaged: it does not give the finetuned weights")
    return state, about, float(held["temperature"])


def _without(state: State, heads: Any) -> dict[str, Tensor]:
    """Return the tensors that belong to no head."""
    prefixes = tuple(f"{head}." for head in heads)
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def _changes(name: str, old: Tensor | None, new: Tensor) -> dict[str, Tensor]:
    """Return what a file keeps of a tensor: nothing, its changed values, or all of them."""
    if old is None or old.shape != new.shape or old.dtype != new.dtype:
        return {WHOLE + name: new.clone()}
    # bytes, as 0.0 and -0.0 are equal, and nan is not
    width = new.element_size()
    before, after = (t.contiguous().flatten().view(torch.uint8).view(-1, width) for t in (old, new))
    places = (before != after).any(1).nonzero().flatten()
    if len(places) == 0:
        return {}
    if len(places) * (4 + width) >= new.numel() * width or new.numel() >= 2**31:
        return {WHOLE + name: new.clone()}
    return {PLACES + name: places.int(), VALUES + name: new.flatten()[places]}


def _changed(name: str, old: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return a tensor of the finetuned model."""
    if (whole := tensors.get(WHOLE + name)) is not None:
        return whole
    new = old.detach().clone(memory_format=torch.contiguous_format)
    if (places := tensors.get(PLACES + name)) is not None:
        new.view(-1)[places.long()] = tensors[VALUES + name]
    return new
