"""What the page of a run says, computed from its record and its predictions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist, fmean

import torch
from torch import Tensor

from gmixout.data.base import UNKNOWN_PREFIX
from gmixout.evaluation.official import metric_named
from gmixout.reports.names import scale_of
from gmixout.results.predictions import RunPredictions, SetPredictions
from gmixout.results.record import ID_SETS, Record

MATRIX_CLASSES = 20
"""Most classes of a confusion matrix; with more, only the pairs are listed."""
PAIRS = 30
"""Confused pairs that are listed."""
BINS = 15
"""Bins of a reliability diagram, as those of `Scores.ece`."""


@dataclass(frozen=True)
class Proportion:
    """A share of some images, with its 95% interval."""

    hits: int
    n: int

    @property
    def share(self) -> float:
        """The share in [0, 1]; nan of no images."""
        return self.hits / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval (JASA 1927); all of [0, 1] of no images.

        Unlike the usual normal approximation it stays in [0, 1] and is not empty at 0 or 1.
        """
        if not self.n:
            return 0.0, 1.0
        z, n, p = NormalDist().inv_cdf(0.975), self.n, self.share
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        return 0.0 if not self.hits else middle - half, 1.0 if self.hits == n else middle + half


@dataclass(frozen=True)
class SetRow:
    """Accuracy on one set before and after finetuning."""

    name: str
    after: Proportion
    before: Proportion | None
    official: float
    """The benchmark's official metric after finetuning."""

    @property
    def change(self) -> float | None:
        """Difference in accuracy; None without a start."""
        return None if self.before is None else self.after.share - self.before.share


def set_rows(record: Record, found: RunPredictions) -> list[SetRow]:
    """Return every set scored by accuracy, in the order of the record."""
    rows = []
    for name, scores in record.scores.items():
        if scores.accuracy is None:
            continue
        own = found.sets.get(name)
        before = None
        if own is not None and own.start is not None:
            before = Proportion(int((own.start == own.labels).sum()), len(own.labels))
        hits = round(scores.accuracy * scores.examples)
        rows.append(SetRow(name, Proportion(hits, scores.examples), before, record.official[name]))
    return rows


@dataclass(frozen=True)
class Measured:
    """What was measured by one metric."""

    title: str
    """Heading of a column, with the unit."""
    values: Mapping[str, str]
    """As text, by the sets that have it."""


def measured(record: Record) -> list[Measured]:
    """Return the metrics of all sets: the official one, the others, NLL and calibration error."""
    every = record.scores.values()
    names = dict.fromkeys([record.benchmark.metric, *(n for each in every for n in each.figures)])
    found = []
    for name in names:
        metric = metric_named(name)
        title = f"{metric.title} (%)" if metric.is_share else metric.title
        form = ".2f" if metric.is_share else ".4g"
        found.append(_measured(title, record.of(name), scale_of(metric), form))
    nll = {name: each.nll for name, each in record.scores.items() if each.nll is not None}
    ece = {name: each.ece for name, each in record.scores.items() if each.ece is not None}
    found += [_measured("NLL", nll, 1, ".3f"), _measured("ECE (%)", ece, 100, ".1f")]
    return [each for each in found if each.values]


def _measured(title: str, values: Mapping[str, float], scale: float, form: str) -> Measured:
    return Measured(title, {name: f"{scale * value:{form}}" for name, value in values.items()})


@dataclass(frozen=True)
class ClassRow:
    """Accuracy on one class, in domain and over all shifts together."""

    name: str
    id_test: Proportion
    id_before: Proportion | None
    shifted: Proportion | None
    shifted_before: Proportion | None

    @property
    def worst(self) -> float:
        """The lower of both shares; 2 where there are no images."""
        shares = [each.share for each in (self.id_test, self.shifted) if each and each.n]
        return min(shares, default=2.0)


def class_rows(found: RunPredictions) -> list[ClassRow]:
    """Return the classes, the worst first; sets with classes of their own do not count."""
    known = {n: s for n, s in found.sets.items() if not n.startswith(UNKNOWN_PREFIX)}
    shifts = [s for n, s in known.items() if n not in ID_SETS and not s.classes]
    count = len(found.classes)
    own = _by_class([s for n, s in known.items() if n == "id_test" and not s.classes], count)
    moved = _by_class(shifts, count)
    nothing = [Proportion(0, 0)] * count
    (after, before), (far, far_before) = own or (nothing, None), moved or (None, None)
    rows = [
        ClassRow(
            name,
            after[label],
            before[label] if before else None,
            far[label] if far else None,
            far_before[label] if far_before else None,
        )
        for label, name in enumerate(found.classes)
    ]
    return sorted(rows, key=lambda row: row.worst)


_Proportions = list[Proportion]


def _by_class(
    sets: list[SetPredictions], classes: int
) -> tuple[_Proportions, _Proportions | None] | None:
    """Return the accuracy on each class over some sets, and that of the start."""
    if not sets:
        return None
    labels = torch.cat([each.labels for each in sets]).long()
    counts = labels.bincount(minlength=classes).tolist()

    def shares(right: list[Tensor]) -> _Proportions:
        hits = labels[torch.cat(right)].bincount(minlength=classes).tolist()
        return [Proportion(hit, n) for hit, n in zip(hits, counts, strict=True)]

    starts = [each.start == each.labels for each in sets if each.start is not None]
    before = shares(starts) if len(starts) == len(sets) else None
    return shares([each.right for each in sets]), before


@dataclass(frozen=True)
class Pair:
    """A class that is taken for another one."""

    true: str
    taken: str
    count: int
    of: int
    """Number of images of the class."""


@dataclass(frozen=True)
class Confusion:
    """Confusions on one set, or on several together."""

    title: str
    classes: tuple[str, ...]
    matrix: list[list[int]] | None
    """Number of images by class and prediction; None with more than `MATRIX_CLASSES` classes."""
    pairs: list[Pair]
    """The most frequent confusions."""


def confusions(found: RunPredictions) -> list[Confusion]:
    """Return the confusions in domain, and over all shifts with the model's classes."""
    shifts = {
        name: each
        for name, each in found.sets.items()
        if name not in ID_SETS and not name.startswith(UNKNOWN_PREFIX) and not each.classes
    }
    made = []
    if (own := found.sets.get("id_test")) is not None:
        made.append(_confusion("in-domain test", [own], own.classes or found.classes))
    if shifts:
        names = f"all {len(shifts)} shifts" if len(shifts) > 1 else next(iter(shifts))
        made.append(_confusion(names, list(shifts.values()), found.classes))
    return made


def _confusion(title: str, sets: list[SetPredictions], classes: tuple[str, ...]) -> Confusion:
    size = len(classes)
    labels = torch.cat([each.labels for each in sets]).long()
    taken = torch.cat([each.predicted for each in sets]).long()
    # of a thousand classes most of a matrix is empty: only the pairs that occur are counted
    keys, counts = torch.unique(labels * size + taken, return_counts=True)
    totals = labels.bincount(minlength=size).tolist()
    wrong = keys // size != keys % size
    order = counts[wrong].argsort(descending=True, stable=True)[:PAIRS]
    pairs = [
        Pair(classes[key // size], classes[key % size], count, totals[key // size])
        for key, count in zip(
            keys[wrong][order].tolist(), counts[wrong][order].tolist(), strict=True
        )
    ]
    matrix = None
    if size <= MATRIX_CLASSES:
        flat = torch.zeros(size * size, dtype=torch.long)
        flat[keys] = counts
        matrix = flat.reshape(size, size).tolist()
    return Confusion(title, classes, matrix, pairs)


@dataclass(frozen=True)
class Reliability:
    """Accuracy against confidence on one set, before and after the temperature."""

    name: str
    before: list[tuple[float, float, int]]
    """Mean confidence, accuracy and number of images of each bin that has images."""
    after: list[tuple[float, float, int]]
    ece_before: float
    ece_after: float


def reliability(name: str, found: SetPredictions) -> Reliability:
    """Return the reliability diagram of a set, and its expected calibration errors."""
    # seconds to import, which only this page pays
    from torchmetrics.functional.classification import binary_calibration_error

    right = found.right.int()

    def error(confidence: Tensor) -> float:
        value = binary_calibration_error(confidence, right, n_bins=BINS, norm="l1")
        return float(value.clamp(0, 1))

    return Reliability(
        name,
        _bins(found.confidence, found.right),
        _bins(found.calibrated, found.right),
        error(found.confidence),
        error(found.calibrated),
    )


def _bins(confidence: Tensor, right: Tensor) -> list[tuple[float, float, int]]:
    places = (confidence * BINS).long().clamp(0, BINS - 1)
    found = []
    for place in range(BINS):
        inside = places == place
        if count := int(inside.sum()):
            mean, accuracy = confidence[inside].double().mean(), right[inside].double().mean()
            found.append((float(mean), float(accuracy), count))
    return found


def mean_change(rows: Iterable[SetRow]) -> tuple[float, float] | None:
    """Return accuracy before and after, the mean over the shift groups; None without either."""
    groups: dict[str, list[SetRow]] = {}
    for row in rows:
        if row.name not in ID_SETS:
            groups.setdefault(row.name.split("/")[0], []).append(row)
    if not groups or any(row.before is None for each in groups.values() for row in each):
        return None
    before = fmean(fmean(r.before.share for r in each if r.before) for each in groups.values())
    after = fmean(fmean(row.after.share for row in each) for each in groups.values())
    return before, after


def costs(record: Record) -> Mapping[str, str]:
    """Return what the run cost, in words."""
    trained = record.training
    found = {"parameters": f"{record.parameters:,}"}
    if trained is not None:
        share = trained.trainable / record.parameters
        found["trained in a step"] = f"{trained.trainable:,} values ({share:.1%} of the parameters)"
        found["training"] = f"{trained.taken:,} steps in {_duration(trained.seconds)}"
        if trained.step_seconds is not None:
            found["median step"] = f"{1e3 * trained.step_seconds:.1f} ms"
        if trained.peak_memory_bytes is not None:
            found["peak memory of training above the model"] = (
                f"{trained.peak_memory_bytes / 1e6:,.0f} MB"
            )
        if trained.lr is not None:
            found["learning rate"] = f"{trained.lr:g}"
        found["batch size"] = f"{trained.batch_size}"
        found["seed"] = f"{trained.seed}"
    machine = record.machine
    found["machine"] = f"{machine.device}, {machine.threads} threads"
    found["software"] = ", ".join(f"{name} {value}" for name, value in machine.versions.items())
    found["evaluated"] = record.time
    return found


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
