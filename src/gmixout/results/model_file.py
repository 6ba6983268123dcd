"""The file of a finished model: weights, with what they are of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from gmixout.errors import ConfigError, StateError
from gmixout.files import write_atomically
from gmixout.named import from_spec
from gmixout.plain import bounded, checked, printable, read_json
from gmixout.results.folder import RunFolder
from gmixout.results.record import Record
from gmixout.tasks import DEFAULT_TASK, LearningTask
from gmixout.weightspace import fingerprint


class AboutModel(TypedDict):
    """The metadata of a model file."""

    benchmark: str
    run: str
    method: str
    options: dict[str, Any]
    pretrained: str
    task: dict[str, Any]
    classes: list[str]
    digest: str
    architecture: NotRequired[dict[str, Any]]
    """`Pretrained.architecture`; older files lack it."""
    learning_task: NotRequired[dict[str, Any]]
    """What the model says of an image, as `named.spec_of` writes it; absent: one class."""


def save_model(path: Path, state: Mapping[str, Tensor], about: dict[str, Any]) -> str:
    """Write weights as safetensors, with their digest, and return the digest.

    Args:
        path: The file.
        state: Tensors by name; tied ones are written once each.
        about: Identity of the model as plain values, for the file's metadata.

    Raises:
        StateError: The file cannot be written.
    """
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    about = bounded(about)
    about["digest"] = _digest(tensors, about)
    # One metadata entry: safetensors does not keep an order of several, so bytes would differ
    metadata = {"gmixout": json.dumps(about, sort_keys=True)}
    content = save(tensors, metadata)  # its own writer makes files that only the owner can read
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return str(about["digest"])


def load_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a model file, or the one in a run folder; return the weights and their identity.

    Raises:
        StateError: There is none, `save_model` did not write it, or it was changed since.
    """
    file = RunFolder(path).model if path.is_dir() else path
    if not file.exists():
        raise StateError(f"{path} holds no model: {_way_to_a_model(path)}")
    try:
        with safe_open(file, framework="pt") as opened:
            about = (opened.metadata() or {}).get("gmixout")
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:  # on a foreign file its reader may fail in any way
        text = printable(str(error))[:300]
        raise StateError(f"{file} cannot be read as a model: {text}.") from error
    if about is None:
        raise StateError(f"{file} was not written by gmixout: it has no metadata.")
    try:
        known = checked(read_json(about), AboutModel)
    except ValueError as error:
        raise StateError(
            f"{file} was not written by gmixout, or changed since: its metadata is not valid "
            f"({error})."
        ) from None
    if known["digest"] != _digest(state, known):
        raise StateError(f"{file} is damaged: its weights do not match their digest.")
    return state, known


def learning_task_of(about: Mapping[str, Any]) -> LearningTask:
    """Return what a model says of an image, from the metadata of its file.

    Raises:
        StateError: The file holds another task than those that there are, or one that does not fit
            its classes.
    """
    held = about.get("learning_task")
    if held is None:
        return DEFAULT_TASK
    try:
        found = from_spec(held, LearningTask)  # type: ignore[type-abstract]
        found.check_outputs(len(about["classes"]))
    except ConfigError as error:
        raise StateError(f"the model's task cannot be used: {error}") from error
    return found


def model_metadata(path: Path) -> dict[str, Any] | None:
    """Return what a model file says of its model, without its weights; None if there is no file.

    Raises:
        StateError: It cannot be read, or `save_model` did not write it.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as opened:
            return dict(checked(read_json((opened.metadata() or {})["gmixout"]), AboutModel))
    except Exception as error:  # on a foreign file its reader may fail in any way
        text = printable(str(error))[:300]
        raise StateError(f"{path} cannot be read as a model: {text}.") from error


def find_record(path: Path, about: Mapping[str, Any]) -> Record | None:
    """Return the latest record of a model file, from its folder or its comparison's.

    Args:
        path: The run's folder or its model file.
        about: The metadata of the model file.
    """
    folder = RunFolder(path if path.is_dir() else path.parent)
    for place in (folder, folder.comparison):
        for record in reversed(place.log.read()):
            if record.final and about_model(record).items() <= about.items():
                return record
    return None


def about_model(record: Record) -> dict[str, Any]:
    """Return what a model file says of its record, enough to find it again."""
    method = record.method
    return {
        "benchmark": record.benchmark.name,
        "run": record.run,
        "method": method.name,
        "options": method.spelled,
    }


def _digest(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """Return a digest of the weights and their metadata."""
    said = json.dumps({**about, "digest": None}, sort_keys=True)
    return hashlib.sha256(f"{fingerprint(state, digits=64)} {said}".encode()).hexdigest()


def _way_to_a_model(path: Path) -> str:
    if runs := [run.path for run in RunFolder(path).runs if run.model.exists()]:
        return f"it holds {len(runs)} runs; choose one, for example {runs[0]}"
    if RunFolder(path).checkpoint.exists():
        return "its run is not finished; repeat its command with --resume"
    return f"make one with: gmixout finetune --out {path}"
