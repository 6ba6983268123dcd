"""How well a model does on a data set, and on all the data sets of a benchmark."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from gmixout.errors import DataError, TrainingError


class Splits(Protocol):
    """What `evaluate` needs to know of a benchmark."""

    @property
    def id_val(self) -> Dataset[Any]:
        """In-domain validation set."""

    @property
    def id_test(self) -> Dataset[Any]:
        """In-domain test set."""

    @property
    def shifts(self) -> Mapping[str, Dataset[Any]]:
        """Shifted test sets by name."""


@dataclass(frozen=True)
class Scores:
    """How well a model does on one data set."""

    accuracy: float
    """Share of the images whose largest logit is that of their label, in [0, 1]."""
    nll: float
    """Mean negative log-likelihood of the labels, in nats."""
    ece: float
    """Expected calibration error in [0, 1]: the mean distance of confidence and accuracy over 15
    bins of equal width (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3).
    """
    examples: int
    """Number of images."""


def evaluate(
    model: nn.Module,
    benchmark: Splits,
    batch_size: int = 512,
    device: torch.device | str | None = None,
) -> dict[str, Scores]:
    """Scores on `id_val`, `id_test` and every shift of the benchmark.

    Args:
        model: Maps images [B, C, H, W] to logits [B, classes].
        benchmark: Its sets give (image, label) pairs.
        batch_size: Images in a forward pass.
        device: Where the batches go; by default to where the model's first parameter is.

    Raises:
        DataError: See `predict`; the message names the set.
        TrainingError: See `predict`; the message names the set.
    """
    sets = {"id_val": benchmark.id_val, "id_test": benchmark.id_test, **benchmark.shifts}
    results = {}
    for name, dataset in sets.items():
        try:
            results[name] = score(*predict(model, dataset, batch_size, device))
        except (DataError, TrainingError) as error:
            raise type(error)(f"evaluating on `{name}`: {error}") from error
    return results


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Scores of predictions.

    Args:
        logits: `[N, classes]`, finite.
        labels: `[N]`, from 0 to classes - 1.
    """
    # Takes seconds to import, of which a command's --help should know nothing.
    from torchmetrics.functional import calibration_error

    classes = logits.shape[1]
    ece = calibration_error(
        logits.softmax(1), labels, task="multiclass", num_classes=classes, n_bins=15, norm="l1"
    )
    return Scores(
        accuracy=float((logits.argmax(1) == labels).sum()) / len(labels),
        nll=float(cross_entropy(logits.double(), labels)),
        ece=float(ece.clamp(0, 1)),
        examples=len(labels),
    )


def accuracy(model: nn.Module, dataset: Dataset[Any], batch_size: int = 512) -> float:
    """Share of the images whose largest logit is that of their label; raises as `predict`."""
    return score(*predict(model, dataset, batch_size)).accuracy


def predict(
    model: nn.Module,
    dataset: Dataset[Any],
    batch_size: int = 512,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """A model's logits on a data set, and the labels.

    The model is in eval mode meanwhile, and each of its modules gets back the mode it had. The
    global random state is left alone.

    Args:
        model: Maps images [B, C, H, W] to logits [B, classes].
        dataset: Items are (image [C, H, W], label). A data set with classes of its own (ImageNet-R
            has 200 of the model's 1,000) has a method `project`: the model's logits to its own.
        batch_size: Images in a forward pass.
        device: Where the batches go; by default to where the model's first parameter is.

    Returns:
        Logits `[N, classes]` and labels `[N]`, on the CPU.

    Raises:
        DataError: If the data set is empty or a label has no logit.
        TrainingError: If a logit is not finite.
    """
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise DataError("the data set is empty: there is no accuracy of no images")
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    # a generator of its own: an unshuffled DataLoader draws from the global one all the same
    loader = DataLoader(dataset, batch_size=batch_size, generator=torch.Generator())
    batches = []
    project = getattr(dataset, "project", _as_they_are)
    with evaluating(model), torch.inference_mode():
        for images, labels in loader:
            logits = project(model(images.to(device)).float())
            _check(logits, labels)
            batches.append((logits.cpu(), labels))
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return logits, labels


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is back in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _as_they_are(logits: Tensor) -> Tensor:
    return logits


def _check(logits: Tensor, labels: Tensor) -> None:
    if not torch.isfinite(logits).all():
        raise TrainingError(
            "the model gives logits that are not finite: its weights are broken, most often by "
            "a diverged training run. Train again with a lower learning rate."
        )
    classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0].item()
        raise DataError(
            f"label {wrong} is out of range: the model has {classes} classes, "
            f"so labels go from 0 to {classes - 1}"
        )
