"""Records over seeds: one cell for each setting of a method, with its mean and its spread."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.special import stdtrit

from gmixout.errors import StateError
from gmixout.evaluation.records import Record


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with what is known of its uncertainty."""

    values: tuple[float, ...]
    """One for each seed."""

    @classmethod
    def of(cls, values: Iterable[float]) -> "Estimate":
        """Gathers one value a seed; there must be one at least."""
        return cls(tuple(values))

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds, with n - 1 in the denominator.

        One seed has no spread: None then, never 0.
        """
        return stdev(self.values) if self.n > 1 else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Student's t interval of the mean; None when there is one seed only."""
        if self.sd is None:
            return None
        half = stdtrit(self.n - 1, (1 + confidence) / 2) * self.sd / self.n**0.5
        return self.mean - half, self.mean + half

    def bootstrap(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Percentile bootstrap interval of the mean; None when there is one seed only.

        With the few seeds of a study it is narrower than it should be (with n values it never
        leaves their range), which is why `clear` asks Student's interval as well.

        Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
        """
        return _bootstrap(self.values, confidence) if self.n > 1 else None

    @property
    def clear(self) -> bool:
        """Whether a difference stands out of the noise: no 95% interval of it reaches 0.

        Two seeds are not enough to say: they may well agree to a single image.
        """
        intervals = (self.interval(), self.bootstrap())
        excluded = [each is not None and (each[0] > 0 or each[1] < 0) for each in intervals]
        return self.n > 2 and all(excluded)


@cache
def _bootstrap(values: tuple[float, ...], confidence: float) -> tuple[float, float]:
    """The same for the same values; a page asks for most of them several times."""
    from scipy.stats import bootstrap  # a second, which --help should not pay

    drawn = bootstrap((values,), np.mean, confidence_level=confidence, method="percentile", rng=0)
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


@dataclass(frozen=True)
class Cell:
    """One setting of one method, run with one or several seeds."""

    method: str
    variant: str
    """What tells this curve of the method from its others ("mask_rate=0.95"); mostly empty."""
    lr: float | None
    alpha: float | None
    records: tuple[Record, ...]
    """One for each seed, in the order of seeds."""

    @property
    def series(self) -> tuple[str, str]:
        """The curve this cell lies on."""
        return self.method, self.variant

    @property
    def id_val(self) -> float:
        """The official figure of in-domain validation, mean over seeds."""
        # rounded, so that means equal on paper are a tie for a selection rule too
        return round(fmean(record.id_val for record in self.records), 9)

    @property
    def ood(self) -> float:
        """The official figure under shift, mean over the shift groups and over seeds."""
        return round(fmean(record.ood for record in self.records), 9)

    @property
    def step(self) -> int:
        """Optimizer steps that led to the models."""
        return self.records[0].step

    def estimate(self, value: Callable[[Record], float]) -> Estimate:
        """Mean and spread of any figure of the records: `cell.estimate(lambda r: r.ood)`."""
        return Estimate.of(value(record) for record in self.records)


def summarise(records: Iterable[Record]) -> list[Cell]:
    """Finished models gathered over seeds, by learning rate and alpha within each curve.

    Curves keep the order in which they first occur. A model that was evaluated again counts once,
    with its latest record.

    Raises:
        StateError: If the records are of several benchmarks or official metrics, of other test sets
            or images under one benchmark's name, or two runs of one cell have the same seed, so
            that something differs between them that no cell shows.
    """
    return _cells(record for record in records if record.final)


def learning_curves(records: Iterable[Record]) -> list[list[Cell]]:
    """The way of every setting through its training: its cells by rising step, the end included.

    Settings that were evaluated at their end alone are left out. Raises as `summarise`.
    """
    lines: dict[tuple[tuple[str, str], float | None, float | None], list[Cell]] = {}
    for cell in sorted(_cells(records), key=lambda cell: cell.step):
        lines.setdefault((cell.series, cell.lr, cell.alpha), []).append(cell)
    return [line for line in lines.values() if len(line) > 1]


def by_series(cells: Iterable[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """The cells of each curve."""
    series: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        series.setdefault(cell.series, []).append(cell)
    return series


def complete(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that as many seeds reached as any: the others owe their mean to lucky seeds."""
    most = max((len(cell.records) for cell in cells), default=0)
    return [cell for cell in cells if len(cell.records) == most]


def _cells(records: Iterable[Record]) -> list[Cell]:
    # a stable sort: of records of one second the one that was written last counts
    in_time = sorted(records, key=lambda record: record.time)
    unique = list({record.model: record for record in in_time}.values())
    benchmarks = sorted({record.benchmark for record in unique})
    if len(benchmarks) > 1:
        raise StateError(f"records of several benchmarks {benchmarks}: report on one at a time")
    metrics = sorted({record.metric for record in unique})
    if len(metrics) > 1:
        raise StateError(
            f"records of several official metrics of one benchmark, {', '.join(metrics)}: its "
            "definition has changed in between; keep such runs in folders of their own"
        )
    _refuse_different_data(unique)
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record, variant in zip(unique, _variants(unique), strict=True):
        key = (record.method, variant, record.lr, record.alpha, record.step)
        groups.setdefault(key, []).append(record)
    cells = [
        Cell(method, variant, lr, alpha, tuple(sorted(group, key=lambda record: record.seed)))
        for (method, variant, lr, alpha, _), group in groups.items()
    ]
    for cell in cells:
        _refuse_repeated_seeds(cell)
    order = list(dict.fromkeys(cell.series for cell in cells))
    return sorted(cells, key=lambda c: (order.index(c.series), c.lr or 0.0, c.alpha or 0.0, c.step))


def _refuse_different_data(records: Sequence[Record]) -> None:
    """Figures over other test sets, or other images in them, have no common mean."""
    seen: dict[str, Record] = {}
    for record in records:
        first = records[0]
        if differing := dict(record.examples.items() ^ first.examples.items()):
            raise StateError(
                f"runs {first.run} and {record.run} of {record.benchmark} were evaluated on "
                f"different test sets: they differ in {_shorten(sorted(differing))}. {_KEEP_APART}"
            )
        if (data := record.digests.get("data")) is None:  # older records do not say
            continue
        seen.setdefault(data, record)
        if len(seen) > 1:
            runs = " and ".join(each.run for each in seen.values())
            raise StateError(
                f"runs {runs} of {record.benchmark} were trained or evaluated on different images "
                f"in sets of the same names. {_KEEP_APART}"
            )


_KEEP_APART = "Such runs have no common mean: make a report on each of their folders"


def _shorten(names: Sequence[str], shown: int = 5) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _variants(records: Sequence[Record]) -> list[str]:
    """For each record the settings in which its method's records differ; rate and alpha aside."""
    settings = [
        {
            (key, json.dumps(value))
            for key, value in {**record.options, **record.training, **_numbers(record)}.items()
            if key != "alpha"
        }
        for record in records
    ]
    common: dict[str, set[tuple[str, str]]] = {}
    for record, setting in zip(records, settings, strict=True):
        common[record.method] = common.get(record.method, setting) & setting
    return [
        ", ".join(f"{key}={value}" for key, value in sorted(setting - common[record.method]))
        for record, setting in zip(records, settings, strict=True)
    ]


def _numbers(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("steps", "batch_size", "head_lr")}


def _refuse_repeated_seeds(cell: Cell) -> None:
    seeds = Counter(record.seed for record in cell.records)
    repeated = {seed for seed, count in seeds.items() if count > 1}
    if repeated:
        runs = sorted({record.run for record in cell.records if record.seed in repeated})
        raise StateError(
            f"several runs of {cell.method} (lr={cell.lr}, alpha={cell.alpha}) with seed "
            f"{sorted(repeated)[0]}: {', '.join(runs)}. They differ in something that records "
            "do not show (the code's version, say); keep such runs in folders of their own."
        )
