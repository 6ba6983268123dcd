"""Temperature scaling: probabilities that are as often right as they say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.utils.data import Dataset
from typing_extensions import NotRequired, TypedDict

from gmixout.errors import StateError
from gmixout.evaluation.detection import detector_scores, known_threshold
from gmixout.evaluation.metrics import predict, score
from gmixout.files import write_text
from gmixout.plain import checked, printable, read_json
from gmixout.results.folder import RunFolder
from gmixout.tasks import DEFAULT_TASK, LearningTask

COLDEST, HOTTEST = 0.01, 100.0
"""Bounds of the temperature."""
_LARGEST_FILE = 2**16


class FittedTemperature(TypedDict):
    """The temperature of a model and what it does on the images that it was fitted to."""

    model: str
    """Digest of the model file; the temperature of other weights is not used."""
    temperature: Annotated[float, Gt(0)]
    images: int
    nll: list[float]
    """Mean negative log-likelihood before and after, in nats."""
    ece: list[float]
    """Expected calibration error before and after."""
    thresholds: NotRequired[dict[str, float]]
    """Of each score in `evaluation.detection.DETECTORS` the value that 95% of the images reach: an
    image below may be of an unknown class. There are none of other tasks than one class an image;
    older files lack them."""


def fit_temperature(logits: Tensor, labels: Tensor, task: LearningTask = DEFAULT_TASK) -> float:
    """Return the temperature T that minimises the mean of `-log softmax(logits / T)[label]`.

    Of several labels an image it is the mean over all classes of the loss of a sigmoid.

    The loss is convex in 1/T, so there is one minimum. If every image is classified right it lies
    at T = 0, which would claim certainty from a few images: 1 is returned.

    Source: Guo et al., "On FittedTemperature of Modern Neural Networks", ICML 2017, section 4.2.

    Args:
        logits: `[N, classes]`, finite.
        labels: `[N]`, or `[N, classes]`.
        task: What the model says of an image, which has classes.

    Returns:
        The temperature, from `COLDEST` to `HOTTEST`.
    """
    from scipy.optimize import minimize_scalar

    if task.are_right(logits, labels):
        return 1.0
    wide = logits.double()

    def loss(log_temperature: float) -> float:
        outputs = wide / torch.tensor(log_temperature).exp()
        return float(task.fit_loss(outputs, labels) / len(labels))

    bounds = torch.tensor([COLDEST, HOTTEST], dtype=torch.float64).log().tolist()
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    return float(torch.tensor(found.x).exp())


def calibrate_model(
    path: Path,
    digest: str,
    model: nn.Module,
    validation: Dataset[Any],
    num_workers: int | None = None,
    task: LearningTask = DEFAULT_TASK,
) -> FittedTemperature:
    """Fit a model's temperature, and write it beside the model file.

    Args:
        path: The run's folder or its model file.
        digest: The digest in the metadata of the model file.
        model: The model, on its device.
        validation: In-domain images, preprocessed, that it was not trained on, and their labels.
        num_workers: Processes that load images.
        task: What the model says of an image, which has classes.

    Raises:
        DataError: As `evaluation.metrics.predict`.
        TrainingError: As `evaluation.metrics.predict`.
        StateError: The file cannot be written.
    """
    logits, labels = predict(model, validation, num_workers=num_workers, task=task)
    temperature = fit_temperature(logits, labels, task)
    before, after = (score(each, labels, task=task) for each in (logits, logits / temperature))
    scores = detector_scores(logits) if task == DEFAULT_TASK else {}
    found = FittedTemperature(
        model=digest,
        temperature=temperature,
        images=len(labels),
        nll=[before.nll or 0.0, after.nll or 0.0],
        ece=[before.ece or 0.0, after.ece or 0.0],
        thresholds={name: known_threshold(each) for name, each in scores.items()},
    )
    write_text(_file(path), json.dumps(found, indent=1) + "\n")
    return found


def temperature_of(path: Path, about: Mapping[str, Any]) -> tuple[float, tuple[str, ...]]:
    """Return the temperature of a model, and notes on it for users.

    Args:
        path: The run's folder or its model file.
        about: The metadata of the model file.

    Returns:
        The fitted temperature; 1 if there is none, or if it is that of other weights.

    Raises:
        StateError: Its file cannot be read.
    """
    held, note = _held(path, about)
    return (
        (1.0, (f"probabilities are not calibrated: {note}",))
        if held is None
        else (float(held["temperature"]), ())
    )


def threshold_of(path: Path, about: Mapping[str, Any], score_name: str) -> float:
    """Return the score that 95% of the in-domain validation images reach.

    Args:
        path: The run's folder or its model file.
        about: The metadata of the model file.
        score_name: A name in `evaluation.detection.DETECTORS`.

    Raises:
        StateError: The file of the temperature cannot be read, or lacks it.
    """
    held, note = _held(path, about)
    found = {} if held is None else held.get("thresholds", {})
    if score_name not in found:
        note = note or f"{_file(path)} is of an older version: {_way(path)}"
        raise StateError(f"there is no threshold of {score_name}: {note}")
    return found[score_name]


def _held(path: Path, about: Mapping[str, Any]) -> tuple[FittedTemperature | None, str]:
    """Return what was fitted to a model; None and the way to it, if nothing was.

    Raises:
        StateError: Its file cannot be read.
    """
    file = _file(path)
    if not file.exists():
        return None, _way(path)
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE} bytes")
        held: FittedTemperature = checked(read_json(file.read_bytes()), FittedTemperature)
    except (OSError, ValueError) as error:
        said = printable(str(error))[:300]
        raise StateError(f"{file} cannot be read ({said}): delete it, {_way(path)}") from error
    if held["model"] != about["digest"]:
        return None, f"{file} is of other weights; {_way(path)}"
    return held, ""


def _way(path: Path) -> str:
    return f"gmixout calibrate {path} fits it"


def _file(path: Path) -> Path:
    return RunFolder(path if path.is_dir() else path.parent).calibration
