"""Methods compared over several benchmarks: each domain as the source in turn, for instance.

One benchmark says little where its test sets are small. The comparisons of
`gmixout.evaluation.curves` are made within each benchmark and paired by seed, as ever; only their
differences are averaged, so that a benchmark that is easier than the others moves nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.special import stdtrit

from gmixout.errors import StateError
from gmixout.evaluation.curves import (
    Series,
    against_reference_curve,
    compare_at_matched_id,
    curves,
    id_range_of,
    series_named,
)
from gmixout.evaluation.records import Record
from gmixout.evaluation.selection import id_validation
from gmixout.evaluation.summary import Cell, Estimate, by_series, complete, summarise

PLACES = (0.25, 0.5, 0.75)
"""Where in the reference's ID range methods are compared: a share of the way from its lowest to its
highest ID accuracy in each benchmark, as accuracies themselves do not compare between them."""


@dataclass(frozen=True)
class Pooled:
    """A figure in several benchmarks, and its mean over them.

    The mean is over benchmarks of the mean over seeds, so each benchmark weighs the same however
    many seeds it has.
    """

    parts: Mapping[str, Estimate]
    """By benchmark; one that does not have the figure is not there. There is one at least."""

    @property
    def mean(self) -> float:
        """Mean over benchmarks."""
        return fmean(each.mean for each in self.parts.values())

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Interval of the mean over these very benchmarks, for new seeds.

        Student's t with the benchmarks as strata of one spread, as in an analysis of variance:

            s^2 = 1/df sum_b sum_i (d_bi - mean d_b)^2,   df = sum_b (n_b - 1)
            SE^2 = s^2 / B^2 sum_b 1/n_b

        Pairs of benchmark and seed are not taken as one sample: what differs between benchmarks is
        no noise of the seeds. Nor is it a bootstrap within benchmarks: that of three seeds never
        leaves their range and is far too narrow. Strata share their spread as two seeds, or the one
        that reached a level, say next to nothing of it.

        Returns:
            None where every benchmark has one seed only.
        """
        parts = self.parts.values()
        freedom = sum(each.n - 1 for each in parts)
        if freedom == 0:
            return None
        variance = sum((each.n - 1) * (each.sd or 0.0) ** 2 for each in parts) / freedom
        error = (variance * sum(1 / each.n for each in parts)) ** 0.5 / len(parts)
        half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
        return self.mean - half, self.mean + half

    @property
    def n(self) -> int:
        """Number of pairs of benchmark and seed."""
        return sum(each.n for each in self.parts.values())

    @property
    def over_benchmarks(self) -> Estimate:
        """The benchmarks' means as one sample, for what a benchmark like these would show.

        Its interval holds all there is to be unsure of (seeds, the images of each test set, what
        suits which benchmark), and it is wide, as benchmarks are few.
        """
        return Estimate.of(each.mean for each in self.parts.values())

    @property
    def clear(self) -> bool:
        """Whether a difference stands out of the noise: neither interval of it reaches 0.

        Neither that over seeds nor Student's over benchmarks, of which it takes three.
        """
        intervals = (self.interval(), self.over_benchmarks.interval())
        excluded = [each is not None and (each[0] > 0 or each[1] < 0) for each in intervals]
        return len(self.parts) > 2 and all(excluded)


@dataclass(frozen=True)
class AcrossRow:
    """One method over all benchmarks, each time at the setting that ID validation chooses there."""

    chosen: Mapping[str, Cell]
    """By benchmark: the setting."""
    at_own_id: Pooled | None
    """OOD of the chosen model minus the reference's on its curve at the same ID accuracy; None
    where no benchmark has it."""
    at_places: list[Pooled | None]
    """OOD on the method's curve minus the reference's at each of `PLACES`."""

    @property
    def series(self) -> Series:
        """The curve this row is of."""
        return next(iter(self.chosen.values())).series

    def estimate(self, value: Callable[[Record], float]) -> Pooled:
        """Any figure of the records of the chosen settings."""
        return Pooled({name: cell.estimate(value) for name, cell in self.chosen.items()})


@dataclass(frozen=True)
class Across:
    """Every method against a reference, over several benchmarks."""

    reference: Series | None
    """None where nothing, or more than one, was run that the name fits."""
    benchmarks: list[str]
    id_levels: dict[str, list[float]]
    """The ID accuracies that `PLACES` are in each benchmark; empty where the reference has none."""
    rows: list[AcrossRow]


def by_benchmark(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each benchmark, by its name in alphabetical order."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.benchmark):
        found.setdefault(record.benchmark, []).append(record)
    return found


def compare_across(records: Iterable[Record], reference: str = "full") -> Across:
    """Compares every method with the reference in each benchmark and over all of them.

    Args:
        records: Of several benchmarks, on which the same methods, rates and seeds were run. A
            method or seed that is missing in some is averaged over the others, and its
            `Pooled.parts` show it.
        reference: What the others are compared with, see `curves.series_named`.

    Raises:
        StateError: There are no finished models, or the benchmarks' official metrics differ: points
            of accuracy and of F1 have no mean.
    """
    groups = by_benchmark(record for record in records if record.final)
    metrics = {record.metric for own in groups.values() for record in own}
    if len(metrics) != 1:
        raise StateError(
            f"a comparison over benchmarks needs records of one official metric, found "
            f"{', '.join(sorted(metrics)) or 'no finished model'}"
        )
    chosen = {name: _chosen(own) for name, own in groups.items()}
    levels = {name: _levels(own, reference) for name, own in groups.items()}
    matched = {name: _at_levels(own, reference, levels[name]) for name, own in groups.items()}
    at_own_id = {
        name: against_reference_curve(own, reference)
        for name, own in groups.items()
        if matched[name]
    }
    base = series_named(reference, (series for cells in chosen.values() for series in cells))
    rows = [
        AcrossRow(
            {name: cells[series] for name, cells in chosen.items() if series in cells},
            at_own_id=None
            if series == base
            else _pooled(
                {name: own[series].difference for name, own in at_own_id.items() if series in own}
            ),
            at_places=[
                _pooled({name: each[place].get(series) for name, each in matched.items() if each})
                for place in range(len(PLACES))
            ],
        )
        for series in dict.fromkeys(series for cells in chosen.values() for series in cells)
    ]
    return Across(base, list(groups), levels, rows)


def _chosen(records: Sequence[Record]) -> dict[Series, Cell]:
    """Of each curve the setting that ID validation chooses."""
    series = by_series(summarise(records))
    return {name: id_validation.choose(complete(cells)) for name, cells in series.items()}


def _levels(records: Sequence[Record], reference: str) -> list[float]:
    trained = curves(record for record in records if record.steps > 0)
    base = series_named(reference, (curve.series for curve in trained))
    covered = id_range_of([curve for curve in trained if curve.series == base])
    if covered is None:
        return []
    low, high = covered
    return [low + place * (high - low) for place in PLACES]


def _at_levels(
    records: Sequence[Record], reference: str, levels: Sequence[float]
) -> list[dict[Series, Estimate | None]]:
    """The differences at each level, by series; none where there is nothing to compare."""
    compared = compare_at_matched_id(records, reference, levels) if levels else None
    if compared is None:
        return []
    # levels that are equal count once there
    index = [compared.id_levels.index(level) for level in levels]
    return [{series: d[at] for series, d in compared.differences.items()} for at in index]


def _pooled(parts: Mapping[str, Estimate | None]) -> Pooled | None:
    there = {name: each for name, each in parts.items() if each is not None}
    return Pooled(there) if there else None
