"""The official metrics of benchmarks.

`METRICS` are functions of the logits, labels and groups of one data set. `SUMMARIES` are functions
of the accuracies of many by name (`<kind>/<severity>`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gmixout.errors import ConfigError, DataError
from gmixout.tasks import multi_label, regression, single_label


@dataclass(frozen=True)
class Metric:
    """A metric of one data set, from 0 to 1 and higher is better unless it says otherwise."""

    title: str
    """Its display name, for the middle of a sentence."""
    compute: Callable[[Tensor, Tensor, Tensor | None], float]
    needs_groups: bool = False
    task: str = single_label.__name__
    """Name of the task that it is of."""
    is_share: bool = True
    """True if it is from 0 to 1, and shown in percent."""
    lower: bool = False
    """True if lower is better."""

    def worth(self, value: float) -> float:
        """Return a value such that higher is better."""
        return -value if self.lower else value

    def __call__(self, logits: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
        """Return the metric.

        Args:
            logits: `[N, classes]`; numbers in the units of the labels, `[N, numbers]`.
            labels: `[N]`, or `[N, outputs]`.
            groups: `[N]`.
        """
        return self.compute(logits, labels, groups)


@dataclass(frozen=True)
class ShiftSummary:
    """A summary of many data sets, lower is better."""

    title: str
    """Its display name; shown in percent."""
    note: str
    """Its definition, with its normalization."""
    compute: Callable[[Mapping[str, float]], float]

    def __call__(self, accuracies: Mapping[str, float]) -> float:
        """Return the summary of accuracies by the names of data sets."""
        return self.compute(accuracies)


ALEXNET_ERRORS: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's error on each of the fifteen kinds of ImageNet-C, the mean over the five severities, as
its authors give it: https://github.com/hendrycks/robustness."""

SHOTS = ("many", "medium", "few")
"""Groups 0, 1 and 2 of a long-tailed test set (see `gmixout.data.imagenet_lt`)."""


def top1(logits: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Return the share of images whose largest logit is that of their label.

    Args:
        logits: `[N, classes]`, of the test set's own classes.
        labels: `[N]`.
        groups: Not used.
    """
    del groups
    return float((logits.argmax(1) == labels).double().mean())


def macro_f1(logits: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Return the mean F1 score of the classes that occur among the labels.

    Other classes do not count, even if they are predicted.

    Args:
        logits: `[N, classes]`.
        labels: `[N]`.
        groups: Not used.

    Source: Koh et al., "WILDS", ICML 2021, for iWildCam.
    """
    from torchmetrics.functional.classification import multiclass_f1_score

    del groups
    scores = multiclass_f1_score(logits, labels, num_classes=logits.shape[1], average="none")
    return float(scores[torch.unique(labels)].mean())


def macro_recall(logits: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Return the mean accuracy of the classes that occur among the labels.

    Args:
        logits: `[N, classes]`.
        labels: `[N]`.
        groups: Not used.
    """
    from torchmetrics.functional.classification import multiclass_recall

    del groups
    recalls = multiclass_recall(logits, labels, num_classes=logits.shape[1], average="none")
    return float(recalls[torch.unique(labels)].mean())


def worst_group(logits: Tensor, labels: Tensor, groups: Tensor | None) -> float:
    """Return the accuracy on the group with the lowest one.

    Args:
        logits: `[N, classes]`.
        labels: `[N]`.
        groups: `[N]`.

    Raises:
        DataError: There are no groups.
    """
    return min(_group_accuracies(logits, labels, _given("worst_group", groups)).values())


def mean_average_precision(logits: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Return the mean average precision (mAP) of the classes that an image of the set has.

    Args:
        logits: `[N, classes]`.
        labels: `[N, classes]`, 0 and 1.
        groups: Not used.
    """
    from torchmetrics.functional.classification import binary_average_precision

    del groups
    present = labels.sum(0).nonzero().flatten().tolist()
    each = [binary_average_precision(logits[:, n], labels[:, n].long()) for n in present]
    return float(torch.stack(each).mean()) if each else math.nan


def multi_label_macro_f1(logits: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Return the mean F1 score, at a probability of 0.5, of the classes that an image has.

    Args:
        logits: `[N, classes]`.
        labels: `[N, classes]`, 0 and 1.
        groups: Not used.
    """
    from torchmetrics.functional.classification import binary_f1_score

    del groups
    present, own = labels.sum(0).nonzero().flatten().tolist(), labels.long()
    each = [binary_f1_score(logits[:, n].sigmoid(), own[:, n]) for n in present]
    return float(torch.stack(each).mean()) if each else math.nan


def multi_label_micro_f1(logits: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Return the F1 score of all pairs of an image and a class, at a probability of 0.5.

    Args:
        logits: `[N, classes]`.
        labels: `[N, classes]`, 0 and 1.
        groups: Not used.
    """
    from torchmetrics.functional.classification import binary_f1_score

    del groups
    return float(binary_f1_score(logits.sigmoid().flatten(), labels.long().flatten()))


def mae(values: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Return the mean absolute error, in the units of the labels; of several numbers the mean.

    Args:
        values: `[N, numbers]`.
        labels: `[N, numbers]`.
        groups: Not used.
    """
    del groups
    return float((values - labels).abs().double().mean())


def rmse(values: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Return the root mean squared error of each number, mean over the numbers, in their units.

    Args:
        values: `[N, numbers]`.
        labels: `[N, numbers]`.
        groups: Not used.
    """
    del groups
    return float((values.double() - labels).square().mean(0).sqrt().mean())


def r2(values: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Return R2, 1 minus the squared error over that of the set's mean; of several the mean.

    A number that is the same for the whole set counts 1 if it is predicted exactly, else 0, as in
    scikit-learn.

    Args:
        values: `[N, numbers]`.
        labels: `[N, numbers]`.
        groups: Not used.
    """
    del groups
    own = labels.double()
    error = (values.double() - own).square().sum(0)
    spread = (own - own.mean(0)).square().sum(0)
    constant = (error == 0).double()
    return float(torch.where(spread > 0, 1 - error / spread, constant).mean())


def _shot(shot: str) -> Metric:
    """Return a metric: accuracy on classes with many, medium or few training images, or nan."""
    group = SHOTS.index(shot)

    def compute(logits: Tensor, labels: Tensor, groups: Tensor | None) -> float:
        inside = _given(f"{shot}_shot", groups) == group
        return top1(logits[inside], labels[inside])

    return Metric(f"{shot}-shot accuracy", compute, needs_groups=True)


_MULTI, _NUMBERS = multi_label.__name__, regression.__name__
METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", top1),
    "macro_f1": Metric("macro F1", macro_f1),
    "macro_recall": Metric("macro recall", macro_recall),
    "worst_group": Metric("worst-group accuracy", worst_group, needs_groups=True),
    "many_shot": _shot("many"),
    "medium_shot": _shot("medium"),
    "few_shot": _shot("few"),
    "mean_average_precision": Metric("mAP", mean_average_precision, task=_MULTI),
    "multi_label_macro_f1": Metric("macro F1", multi_label_macro_f1, task=_MULTI),
    "multi_label_micro_f1": Metric("micro F1", multi_label_micro_f1, task=_MULTI),
    "mae": Metric("MAE", mae, task=_NUMBERS, is_share=False, lower=True),
    "rmse": Metric("RMSE", rmse, task=_NUMBERS, is_share=False, lower=True),
    "r2": Metric("R2", r2, task=_NUMBERS, is_share=False),
}
"""Metrics of one data set: `metric(logits [N, classes], labels [N], groups [N] or None)`."""


def metric_named(name: str) -> Metric:
    """Return a metric; of an unknown name, as a record may have it, one that has only its name."""
    return METRICS.get(name) or Metric(name.replace("_", " "), _unknown)


def _unknown(logits: Tensor, labels: Tensor, groups: Tensor | None) -> float:
    raise ConfigError(f"a metric must be one of: {', '.join(METRICS)}")


HARDEST = ("few_shot", "worst_group")
"""Metrics of the worst part of a test set, which take the place of shifts for a benchmark without
other domains."""


def mce_alexnet(accuracies: Mapping[str, float]) -> float:
    """Return the mean corruption error of ImageNet-C: 1 is as bad as AlexNet, 0 is perfect.

        mCE = mean over kinds c of ( sum_s E_{s,c} / sum_s E^AlexNet_{s,c} ),    E = 1 - accuracy

    Args:
        accuracies: By `<kind>/<severity>`; the fifteen kinds at five severities are required,
            anything else does not count.

    Raises:
        DataError: One is missing.

    Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
        and Perturbations", ICLR 2019, section 3.1.
    """
    errors = _errors(accuracies)
    return sum(errors[kind] / ALEXNET_ERRORS[kind] for kind in errors) / len(errors)


def mean_corruption_error_unnormalised(accuracies: Mapping[str, float]) -> float:
    """Return the mean error over the fifteen kinds and five severities, as for CIFAR-C.

    It is not normalized, because no baseline was published for CIFAR. Some code averages 19 kinds,
    including the four extra ones, which their authors set aside for choices: that is the mean OOD
    error if all 19 are the shifts.

    Args:
        accuracies: As for `mce_alexnet`.

    Raises:
        DataError: One is missing.
    """
    errors = _errors(accuracies)
    return sum(errors.values()) / len(errors)


SUMMARIES: dict[str, ShiftSummary] = {
    "mce_alexnet": ShiftSummary(
        "mCE",
        "mean corruption error, the error on each kind divided by AlexNet's: 100 is as bad as "
        "AlexNet",
        mce_alexnet,
    ),
    "mean_corruption_error_unnormalised": ShiftSummary(
        "mean corruption error",
        "over 15 kinds at 5 severities, not normalized, because no baseline was published",
        mean_corruption_error_unnormalised,
    ),
}
"""Summaries of many data sets: `summary(accuracies by name)`."""


def _errors(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Return the mean error over the severities for each of the fifteen kinds."""
    wanted = {kind: [f"{kind}/{severity}" for severity in range(1, 6)] for kind in ALEXNET_ERRORS}
    absent = [name for names in wanted.values() for name in names if name not in accuracies]
    if absent:
        raise DataError(
            f"the mean corruption error needs 15 kinds at 5 severities, and {len(absent)} of these "
            f"75 are missing, {absent[0]} among them"
        )
    return {kind: sum(1 - accuracies[name] for name in names) / 5 for kind, names in wanted.items()}


def _group_accuracies(logits: Tensor, labels: Tensor, groups: Tensor) -> dict[int, float]:
    return {
        int(group): top1(logits[groups == group], labels[groups == group])
        for group in torch.unique(groups)
    }


def _given(metric: str, groups: Tensor | None) -> Tensor:
    if groups is None:
        raise DataError(f"{metric} needs groups, and the data set has none; use accuracy")
    return groups
