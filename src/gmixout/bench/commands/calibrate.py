"""`gmixout calibrate`: temperature scaling of a finished model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from gmixout.bench.benchmarks import load_benchmark
from gmixout.bench.task import Task
from gmixout.bench.threads import few_threads
from gmixout.data import Source
from gmixout.errors import ConfigError, StateError
from gmixout.use.calibration import FittedTemperature, calibrate_model
from gmixout.use.classifier import Classifier
from gmixout.use.loaded import load


def calibrate(
    model: Path, data_root: Path | None = None, num_workers: int | None = None
) -> FittedTemperature:
    """Fit the temperature of a model's probabilities to in-domain validation images.

    `gmixout finetune` does so at its end. The classes that are predicted stay the same; the
    probabilities become as often right as they say, in domain. The temperature is written to
    calibration.json beside the model, where predict and `gmixout.load` find it.

    Args:
        model: `gmixout calibrate RUN`: folder of a run, or a model.safetensors.
        data_root: Current folder of the run's data, if it has moved.
        num_workers: Processes that load images; by default none on a CPU or for images in memory,
            else one per CPU thread, at most eight.

    Returns:
        The temperature, with negative log-likelihood and calibration error before and after.

    Raises:
        ConfigError: The model predicts numbers.
        StateError: There is no model, or its data has other classes now.
        DataError: The data is unavailable.
    """
    classifier = load(model)
    assert classifier.origin is not None
    about, learned = classifier.origin.about, classifier.task
    if not learned.has_classes:
        raise ConfigError(
            f"{model} predicts {learned.title}, and there are no probabilities to calibrate"
        )
    validation = validation_of(classifier, about, data_root)
    with few_threads(classifier):
        found = calibrate_model(
            model, about["digest"], classifier.model, validation, num_workers, learned
        )
    console = Console(highlight=False, markup=False)
    console.print(told(found), soft_wrap=True)
    return found


def told(found: FittedTemperature) -> str:
    """Return a sentence on a calibration."""
    (nll, new_nll), (ece, new_ece) = found["nll"], found["ece"]
    return (
        f"temperature {found['temperature']:.3f} from {found['images']:,} validation images: "
        f"NLL {nll:.4f} to {new_nll:.4f}, ECE {ece:.4f} to {new_ece:.4f}"
    )


def validation_of(
    classifier: Classifier, about: Mapping[str, Any], data_root: Path | None = None
) -> Any:
    """Return the in-domain validation images of a model, as it sees them.

    Args:
        classifier: The model.
        about: The metadata of its file.
        data_root: Current folder of the run's data, if it has moved.

    Raises:
        StateError: The data has other classes now.
        DataError: The data is unavailable.
    """
    task = Task.of(about["task"]).with_data(None, data_root)
    if isinstance(task.benchmark, Source):
        benchmark: Any = task.benchmark.load(classifier.transform)
    else:
        benchmark, _ = load_benchmark(task.benchmark)
    if tuple(benchmark.classes) != classifier.classes:
        raise StateError(
            f"{benchmark.name} has the classes {', '.join(benchmark.classes)[:200]} now, and the "
            f"model knows {', '.join(classifier.classes)[:200]}"
        )
    return benchmark.id_val
