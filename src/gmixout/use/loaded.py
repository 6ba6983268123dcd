"""A model from its file, without hub, network or pretrained weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gmixout.errors import GmixoutError, StateError
from gmixout.use.classifier import Classifier, Origin

if TYPE_CHECKING:
    from gmixout.models import Pretrained


def load(
    path: str | Path, device: torch.device | str = "cpu", pretrained: str | None = None
) -> Classifier:
    """Load a finetuned model with its classes, preprocessing, temperature and task.

    The file holds the architecture: no hub, network or pretrained weights are needed. No code in it
    runs. A model of your own function, `--benchmark module:function`, is made by calling it:
    `with gmixout.allowed.allowing(["module"]): gmixout.load(path)`.

    Args:
        path: The folder of a run, its model.safetensors, or an exported delta.
        device: Where to put the model.
        pretrained: Name of the pretrained model that a delta changes, `FAMILY:NAME@FILE`; by
            default the one that the file names.

    Returns:
        The model, in eval mode and without gradients (`requires_grad_()` brings them back).

    Raises:
        StateError: There is no model, it is damaged, or its weights do not fit its architecture.
        ConfigError: A library that it needs is missing or too old.
        DataError: It was made before files held the architecture, and the files of its pretrained
            model are missing.

    Example:
        >>> model = gmixout.load("runs/mine")
        >>> model.classes
        ('cat', 'dog')
        >>> model.predict(["a.jpg"])
        tensor([[0.9812, 0.0188]])
    """
    from gmixout.results.model_file import learning_task_of, load_model
    from gmixout.use.calibration import temperature_of
    from gmixout.use.delta_file import is_delta, read_delta

    path = Path(path).expanduser()
    notes: tuple[str, ...] = ()
    if path.is_file() and is_delta(path):
        state, about, temperature = read_delta(path, pretrained)
    else:
        state, about = load_model(path)
        temperature, notes = temperature_of(path, about)
    learned = learning_task_of(about)
    try:
        start = _architecture(about)
    except GmixoutError as error:
        raise type(error)(f"{path}: {error}") from error
    try:
        start.model.load_state_dict(state)
    except RuntimeError as error:
        raise StateError(f"{path}: its weights do not fit {_named(about)}: {error}") from error
    return Classifier(
        start.model.to(device).eval().requires_grad_(False),
        about["classes"],
        start.transform,
        temperature,
        start.size,
        Origin(path, about, notes if learned.has_classes else ()),
        start.architecture,
        (start.mean, start.std),
        start.interpolation,
        learned,
    ).eval()


def _architecture(about: Mapping[str, Any]) -> "Pretrained":
    """Return the model that the weights are of, with other weights."""
    from gmixout.models import load_pretrained, rebuild_pretrained

    classes, task = tuple(about["classes"]), about["task"]
    if held := about.get("architecture"):
        return rebuild_pretrained(held, classes)
    benchmark, name, size = task.get("benchmark"), task.get("model"), task.get("image_size")
    if isinstance(benchmark, str):
        return _of_function(benchmark) if ":" in benchmark else _of_package(benchmark, classes)
    if not isinstance(name, str):
        raise StateError("it does not say which pretrained model it was made of")
    return load_pretrained(name, classes, head="random", image_size=size)


def _of_function(name: str) -> "Pretrained":
    """Return the model of the user's own `module:function`, if that is allowed.

    Raises:
        NotAllowedError: It is not.
        StateError: It gives no model.
    """
    from gmixout.allowed import allowed_object
    from gmixout.models import Pretrained

    found = allowed_object(name, "benchmark")()
    for part in found if isinstance(found, tuple) else (found,):
        if isinstance(part, Pretrained):
            return part.copy()
    raise StateError(f"its model is of your own function {name}, which gives no Pretrained now")


def _of_package(benchmark: str, classes: tuple[str, ...]) -> "Pretrained":
    """Return the model of a benchmark that brings its own, for a file that does not hold it."""
    from gmixout.models import rebuild_pretrained

    if benchmark == "digits":
        return rebuild_pretrained({"family": "digits_vit"}, classes)
    raise StateError(f"benchmark {benchmark!r:.80} brings its own model, which its file lacks")


def _named(about: Mapping[str, Any]) -> str:
    name = about["task"].get("model") or about["task"].get("benchmark")
    return f"the model {name!s:.200} of {len(about['classes'])} classes"
