"""Metrics of a model on a data set, and on all data sets of a benchmark."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from gmixout.data import Benchmark
from gmixout.errors import ConfigError, DataError, DivergedError, TrainingError
from gmixout.evaluation.official import METRICS, SUMMARIES
from gmixout.loading import make_loader
from gmixout.ranks import ALONE, Ranks, current, together
from gmixout.tasks import DEFAULT_TASK, LearningTask

MAX_BATCH = 512
"""Most images in a forward pass."""
MAX_BATCH_VALUES = 2**24
"""Most values in a batch of images, 64 MiB of float32: 111 images of 3 x 224 x 224, whose
activations in a ViT-B/16 take about 1 GB."""

Share: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
Amount: TypeAlias = Annotated[float, Interval(ge=0, le=1e100)]
Count: TypeAlias = Annotated[int, Ge(0)]
Figure: TypeAlias = Annotated[float, Interval(ge=-1e100, le=1e100)]
OnPredictions: TypeAlias = Callable[[str, Dataset[Any], Tensor, Tensor], None]
"""Gets the name of a data set, the set, logits `[N, classes]`, and labels `[N]` or as the task has
them."""


@dataclass(frozen=True)
class Scores:
    """Metrics of a model on one data set."""

    accuracy: Share | None
    """Share of images whose largest logit is that of their label, in [0, 1]; None for other tasks
    than one class an image."""
    nll: Amount | None
    """Mean negative log-likelihood of the labels, in nats; None for numbers."""
    ece: Share | None
    """Expected calibration error in [0, 1]: the mean distance of confidence and accuracy over 15
    bins of equal width (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3);
    of several labels that of all single decisions; None for numbers.
    """
    examples: Count
    """Number of images."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """The benchmark's other metrics by their names in `METRICS`, where the set has them."""

    def of(self, metric: str) -> float | None:
        """Return a metric by its name, including accuracy; None if the set lacks it."""
        return self.accuracy if metric == "accuracy" else self.figures.get(metric)


def evaluate(
    model: nn.Module,
    benchmark: Benchmark,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    num_workers: int | None = None,
    seen: OnPredictions | None = None,
) -> dict[str, Scores]:
    """Return scores on `id_val`, `id_test` and every shift of the benchmark.

    Additional metrics that need groups are left out for sets without groups.

    Args:
        model: Maps images [B, C, H, W] to logits [B, classes].
        benchmark: Its sets give (image, label) pairs.
        batch_size: Images in a forward pass; by default as `batch_size_for` says of each set.
        device: Where the batches go; by default to where the model's first parameter is.
        num_workers: Processes that decode images; by default see `loading_processes`.
        seen: Called with the predictions on each set.

    Raises:
        ConfigError: See `check_metrics`.
        DataError: See `check_metrics` and `predict`; the latter's message names the set.
        TrainingError: See `predict`; the message names the set.
    """
    check_metrics(benchmark)
    return evaluate_sets(
        model,
        benchmark.tests,
        benchmark.metrics,
        batch_size,
        device,
        num_workers,
        seen,
        benchmark.task,
    )


def evaluate_sets(
    model: nn.Module,
    sets: Mapping[str, Dataset[Any]],
    metrics: Sequence[str] = (),
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    num_workers: int | None = None,
    seen: OnPredictions | None = None,
    task: LearningTask = DEFAULT_TASK,
) -> dict[str, Scores]:
    """Return scores on data sets by name, with the same arguments and errors as `evaluate`.

    Args:
        model: See `evaluate`.
        sets: Data sets of (image, label) pairs.
        metrics: Names in `METRICS` of metrics besides accuracy.
        batch_size: See `evaluate`.
        device: See `evaluate`.
        num_workers: See `evaluate`.
        seen: See `evaluate`.
        task: What the model was trained to say.
    """
    names = [name for name in metrics if name != "accuracy"]
    results = {}
    for name, dataset in sets.items():
        try:
            predictions = predict(model, dataset, batch_size, device, num_workers, task)
        except (DataError, TrainingError) as error:
            raise type(error)(f"evaluating on `{name}`: {error}") from error
        results[name] = score(*predictions, names, _groups(dataset), task)
        if seen is not None:
            seen(name, dataset, *predictions)
    return results


def check_metrics(benchmark: Benchmark) -> None:
    """Check before training that the benchmark's sets support its metrics.

    Raises:
        ConfigError: A metric or summary is unknown, or of another task; or the task has no unknown
            classes, and the benchmark has images of them.
        DataError: The official metric needs groups and a set has none, or another metric needs them
            and no set has any.
    """
    asked = {"metric": (benchmark.metric,), "extra_metrics": benchmark.extra_metrics}
    for field_name, names in asked.items():
        for name in names:
            if name not in METRICS:
                raise ConfigError(f"{field_name}={name!r} must be one of: {', '.join(METRICS)}")
            if METRICS[name].task != benchmark.task.name:
                raise ConfigError(
                    f"{field_name}={name!r} is for the task {METRICS[name].task}, and this data is "
                    f"{benchmark.task.name}: leave it out, or take {benchmark.task.metric!r}"
                )
    if benchmark.unknown and benchmark.task != DEFAULT_TASK:
        raise ConfigError(
            f"unknown={sorted(benchmark.unknown)} (images of classes that the task does not have) "
            f"is for {DEFAULT_TASK.title}, and this data is {benchmark.task.name} "
            f"({benchmark.task.title}): leave these sets out"
        )
    if benchmark.summary is not None and benchmark.summary not in SUMMARIES:
        raise ConfigError(f"summary={benchmark.summary!r} must be one of: {', '.join(SUMMARIES)}")
    for name, each in benchmark.tests.items():
        labels = getattr(each, "labels", None)
        if isinstance(labels, Tensor) and (said := benchmark.task.unmeasured(labels)):
            raise DataError(f"`{name}`: {said}")
    without = [name for name, each in benchmark.tests.items() if _groups(each) is None]
    if METRICS[benchmark.metric].needs_groups and without:
        raise DataError(
            f"metric={benchmark.metric!r} needs groups, and these sets have none: "
            f"{', '.join(without)}. Give each a tensor `groups`, or put it into extra_metrics."
        )
    for name in benchmark.extra_metrics:
        if METRICS[name].needs_groups and len(without) == len(benchmark.tests):
            raise DataError(
                f"extra_metrics={name!r} needs groups, and no set has any (a tensor `groups`)"
            )


def summarise_shifts(
    name: str | None, scores: Mapping[str, Scores]
) -> tuple[dict[str, float], list[str]]:
    """Return the official summary over all shifts.

    Args:
        name: In `SUMMARIES`; None: the benchmark has no such summary.
        scores: As `evaluate` returns them.

    Returns:
        The summary by its name, if there is one, and notes on why it is missing if shifts that it
        needs were left out.
    """
    if name is None:
        return {}, []
    known = {shift: each.accuracy for shift, each in scores.items()}
    accuracies = {shift: value for shift, value in known.items() if value is not None}
    try:
        return {name: SUMMARIES[name](accuracies)}, []
    except DataError as error:
        return {}, [f"without its {SUMMARIES[name].title}: {error}"]


def _groups(dataset: Dataset[Any]) -> Tensor | None:
    """Return the groups of a data set, `[N]`; None if it has none."""
    groups: Tensor | None = getattr(dataset, "groups", None)
    return groups


def score(
    logits: Tensor,
    labels: Tensor,
    metrics: Sequence[str] = (),
    groups: Tensor | None = None,
    task: LearningTask = DEFAULT_TASK,
) -> Scores:
    """Return scores of predictions.

    Args:
        logits: `[N, classes]`, finite.
        labels: `[N]`, from 0 to classes - 1; or `[N, classes]`, as the task has them.
        metrics: Names in `METRICS` of additional metrics. Those that need groups are left out
            without groups, and so are nan values, which had nothing to measure.
        groups: `[N]`.
        task: What the model was trained to say.
    """
    found = task.basics(logits, labels, max(1, MAX_BATCH_VALUES // logits.shape[1]))
    outputs = task.decoded(logits)
    figures = {
        name: METRICS[name](outputs, labels, groups)
        for name in metrics
        if groups is not None or not METRICS[name].needs_groups
    }
    return Scores(
        **found._asdict(),
        examples=len(labels),
        figures={name: value for name, value in figures.items() if not math.isnan(value)},
    )


def figure(
    model: nn.Module,
    dataset: Dataset[Any],
    metric: str = "accuracy",
    batch_size: int | None = None,
    num_workers: int | None = None,
    task: LearningTask = DEFAULT_TASK,
) -> float:
    """Return one metric, a name in `METRICS`, of a model on a data set; raise as `predict`."""
    logits, labels = predict(model, dataset, batch_size, num_workers=num_workers, task=task)
    return METRICS[metric](task.decoded(logits), labels, _groups(dataset))


def accuracy(model: nn.Module, dataset: Dataset[Any], batch_size: int | None = None) -> float:
    """Return the share of images whose largest logit is that of their label; raise as `predict`."""
    return figure(model, dataset, "accuracy", batch_size)


def batch_size_for(dataset: Dataset[Any]) -> int:
    """Return the number of such images in one forward pass, see `MAX_BATCH_VALUES`."""
    values: int = dataset[0][0].numel()
    return max(1, min(MAX_BATCH, MAX_BATCH_VALUES // values))


def predict(
    model: nn.Module,
    dataset: Dataset[Any],
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    num_workers: int | None = None,
    task: LearningTask = DEFAULT_TASK,
    unknown: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return a model's logits on a data set, and the labels.

    The model is in eval mode meanwhile, and each of its modules gets its mode back. The global
    random state is not touched. Processes that work together (`ranks.together`) predict a part of
    the data set each, and all return the whole.

    Args:
        model: Maps images [B, C, H, W] to logits [B, classes].
        dataset: Items are (image [C, H, W], label). A data set with classes of its own (ImageNet-R
            has 200 of the model's 1,000) has a method `project`: the model's logits to its own.
        batch_size: Images in a forward pass; by default as `batch_size_for` says.
        device: Where the batches go; by default to where the model's first parameter is.
        num_workers: Processes that decode images; by default see `loading_processes`.
        task: What the model was trained to say, for the check of the labels.
        unknown: The images are of classes that the model does not have: return the logits of all of
            the model's classes.

    Returns:
        Logits `[N, classes]` and labels `[N]`, for other tasks `[N, classes]`, on the CPU, in the
        order of the data set.

    Raises:
        DataError: If the data set is empty or a label has no logit.
        DivergedError: If a logit is not finite.
    """
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise DataError("the data set is empty: it has no accuracy")
    if (ranks := current()).count > 1:
        return _shared(ranks, model, dataset, batch_size, device, num_workers, task, unknown)
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    batch_size = batch_size or batch_size_for(dataset)
    loader = make_loader(dataset, device, num_workers, batch_size=batch_size)
    logits = labels = torch.empty(0)
    done = 0
    project = _as_they_are if unknown else getattr(dataset, "project", _as_they_are)
    with evaluating(model), torch.inference_mode():
        for images, own in loader:
            part = project(model(images.to(device, non_blocking=True)).float())
            _check(part, torch.zeros_like(own) if unknown else own, task)
            if not done:  # at once, as joining parts at the end would take the memory twice
                with torch.inference_mode(False):
                    logits = torch.empty(len(dataset), part.shape[1])  # type: ignore[arg-type]
                    labels = torch.empty(len(logits), *own.shape[1:], dtype=own.dtype)
            logits[done : done + len(own)], labels[done : done + len(own)] = part, own
            done += len(own)
    return logits, labels


def _shared(
    ranks: Ranks, model: nn.Module, dataset: Dataset[Any], *settings: Any
) -> tuple[Tensor, Tensor]:
    """Return what `predict` does, each rank predicting its part of the data set."""
    places = ranks.part(len(dataset))  # type: ignore[arg-type]

    def own() -> tuple[Tensor, Tensor] | None:
        with together(ALONE):
            return predict(model, _Part(dataset, places), *settings) if places else None

    parts = [part for part in ranks.every(own) if part is not None]
    return torch.cat([logits for logits, _ in parts]), torch.cat([labels for _, labels in parts])


class _Part(Subset[Any]):
    """Some images of a data set, with its classes and its place in memory."""

    def __init__(self, dataset: Dataset[Any], places: Sequence[int]) -> None:
        super().__init__(dataset, places)
        for name in ("project", "in_memory"):
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set eval mode within the context; restore the mode of every module afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _as_they_are(logits: Tensor) -> Tensor:
    return logits


def _check(logits: Tensor, labels: Tensor, task: LearningTask) -> None:
    if not torch.isfinite(logits).all():
        raise DivergedError(
            "the model returns logits that are not finite: its weights are broken, most often by "
            "a diverged training run. Train again with a lower learning rate."
        )
    classes = logits.shape[1]
    if labels.dim() > 1 or task != DEFAULT_TASK:
        if said := task.problem(labels, [""] * classes):
            raise DataError(f"for the task {task.name} {said}")
        return
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0].item()
        raise DataError(
            f"label {wrong} is out of range: the model has {classes} classes, "
            f"so labels go from 0 to {classes - 1}"
        )
