"""Methods compared over several benchmarks: each domain as the source in turn, for instance.

One benchmark says little where its test sets are small. The comparisons of
`gmixout.results.curves` are made within each benchmark and paired by seed, as ever; only their
differences are averaged, so that a benchmark that is easier than the others moves nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gmixout.errors import StateError
from gmixout.methods import REFERENCE
from gmixout.results.curves import against_reference_curve, compare_at_matched_id, id_range_of
from gmixout.results.record import Record
from gmixout.results.statistics import Estimate, Pooled
from gmixout.results.study import Series, Setting, Study, place_of, series_named

PLACES = (0.25, 0.5, 0.75)
"""Where in the reference's ID range methods are compared: a share of the way from its lowest to its
highest ID accuracy in each benchmark, as accuracies themselves do not compare between them."""


@dataclass(frozen=True)
class AcrossRow:
    """One method over all benchmarks, each time at the setting that ID validation chooses there."""

    chosen: Mapping[str, Setting]
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
        """Return any figure of the records of the chosen settings."""
        return Pooled({name: setting.estimate(value) for name, setting in self.chosen.items()})


@dataclass(frozen=True)
class Across:
    """Every method against a reference, over several benchmarks."""

    reference: Series | None
    """None where nothing, or more than one, was run that the name fits."""
    benchmarks: list[str]
    id_levels: dict[str, list[float]]
    """The ID accuracies that `PLACES` are in each benchmark; empty where the reference has none."""
    rows: list[AcrossRow]


def compare_across(studies: Sequence[Study], reference: str = REFERENCE) -> Across:
    """Compare every method with the reference in each benchmark and over all of them.

    Args:
        studies: Of several benchmarks, on which the same methods, rates and seeds were run. A
            method or seed that is missing in some is averaged over the others, and its
            `Pooled.parts` show it.
        reference: What the others are compared with, see `study.series_named`.

    Raises:
        StateError: There are no studies, or the benchmarks' official metrics differ: points of
            accuracy and of F1 have no mean.
    """
    metrics = {study.first.benchmark.metric for study in studies}
    if len(metrics) != 1:
        raise StateError(
            f"a comparison over benchmarks needs records of one official metric, found "
            f"{', '.join(sorted(metrics)) or 'no finished model'}"
        )
    by_name = {study.benchmark: study for study in studies}
    levels = {name: _levels(study, reference) for name, study in by_name.items()}
    matched = {name: _at_levels(s, reference, levels[name]) for name, s in by_name.items()}
    at_own_id = {
        name: against_reference_curve(study, reference)
        for name, study in by_name.items()
        if matched[name]
    }
    found = {series: each for study in studies for series, each in study.selected.items()}
    every = sorted(found, key=lambda series: place_of(found[series]))
    base = series_named(reference, every)
    rows = [
        AcrossRow(
            {n: s.selected[series] for n, s in by_name.items() if series in s.selected},
            at_own_id=None
            if series == base
            else _pooled({name: own.get(series) for name, own in at_own_id.items()}),
            at_places=[
                _pooled({name: each[place].get(series) for name, each in matched.items() if each})
                for place in range(len(PLACES))
            ],
        )
        for series in every
    ]
    return Across(base, list(by_name), levels, rows)


def _levels(study: Study, reference: str) -> list[float]:
    base = study.trained_series(reference)
    covered = id_range_of(list(study.curves_of[base].values())) if base else None
    if covered is None:
        return []
    low, high = covered
    return [low + place * (high - low) for place in PLACES]


def _at_levels(
    study: Study, reference: str, levels: Sequence[float]
) -> list[dict[Series, Estimate | None]]:
    """Return the differences at each level, by series; none where there is nothing to compare."""
    compared = compare_at_matched_id(study, reference, levels) if levels else None
    if compared is None:
        return []
    # levels that are equal count once there
    index = [compared.id_levels.index(level) for level in levels]
    return [{series: d[at] for series, d in compared.differences.items()} for at in index]


def _pooled(parts: Mapping[str, Estimate | None]) -> Pooled | None:
    there = {name: each for name, each in parts.items() if each is not None}
    return Pooled(there) if there else None
