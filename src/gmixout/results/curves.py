"""Comparison of methods as curves: out-of-domain accuracy at matched in-domain accuracy.

Accuracy stands for the benchmark's official metric throughout (`Record.official`).

The learning rate moves every finetuning method along an ID-OOD trade-off (interpolation with the
pretrained weights does the same), so two points do not compare: one may simply have trained more.

Definitions used everywhere in this project:

- The *points* of a method are (ID test accuracy, mean OOD accuracy) of all its models of one seed:
  every learning rate and every alpha.
- Its *Pareto front* (front for short) are the points that no other point of it beats or equals in
  both. Along the front OOD falls strictly as ID rises, and the line through neighbouring points is
  an upper envelope: no point of the method lies above it.
- Its *OOD at matched ID* is that line's height at an ID level: what the method offers at that ID
  accuracy or more. Left of the front, where the front's first model beats all its models, that is
  the first one's OOD. Outside of the ID range of its models it is undefined: nothing is
  extrapolated.
- Methods are compared *paired by seed*: the difference to the reference at the level, seed by seed,
  then mean, standard deviation (n - 1) and a 95% Student t interval over seeds.

- The *area of the front* summarizes a curve in one number: the share of the box between the lowest
  and the highest ID and OOD accuracy of all fronts that the method's front dominates.
- A method that is a single point (a soup) has no curve; `against_reference_curve` compares the
  model that ID validation selects for each method with the reference's front at that model's own ID
  accuracy.
- *Effective robustness* is OOD accuracy above what a line through baseline models predicts from ID
  accuracy, both on the logit scale (Taori et al., "Measuring Robustness to Natural Distribution
  Shifts in Image Classification", NeurIPS 2020, section 3, arXiv 2007.00644).

The front is drawn from test accuracies: it describes what a method offers with a perfect choice of
learning rate, and slightly favours methods with many points. `gmixout.results.selection` covers
realistic choices.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gmixout.methods import BASELINES, REFERENCE
from gmixout.results.record import ID_SETS, Record
from gmixout.results.statistics import Estimate
from gmixout.results.study import Curve, Point, Series, Study


@dataclass(frozen=True)
class MatchedComparison:
    """Every trained method against a reference, over the seeds that both have."""

    reference: Series
    id_levels: list[float]
    reference_ood: list[Estimate]
    """OOD accuracy of the reference at each level."""
    differences: dict[Series, list[Estimate | None]]
    """OOD of each other series minus the reference's at each level, paired by seed; None where no
    seed of it reached the level."""


def compare_at_matched_id(
    study: Study, reference: str = REFERENCE, id_levels: Sequence[float] | None = None
) -> MatchedComparison | None:
    """Compare every trained method with the reference, seed by seed.

    Args:
        study: The models of one benchmark.
        reference: The method to compare with, see `Study.trained_series`.
        id_levels: ID accuracies to compare at; `id_levels_of` the reference by default. Levels
            that the reference itself reached in no seed are left out.

    Returns:
        None if the reference was not run, was run in several variants (and none is named), or has
        no level of ID accuracy that all its seeds reached.
    """
    base = study.trained_series(reference)
    if base is None:
        return None
    references = study.curves_of[base]
    if id_levels is None:
        id_levels = id_levels_of(list(references.values()))
    height = {
        (seed, level): curve.ood_at(level)
        for seed, curve in references.items()
        for level in id_levels
    }
    reference_ood = {
        level: estimate
        for level in id_levels
        if (estimate := _estimate(height[seed, level] for seed in references)) is not None
    }
    if not reference_ood:
        return None
    differences = {
        series: [
            _estimate(
                _difference(curve.ood_at(level), height.get((seed, level)))
                for seed, curve in own.items()
            )
            for level in reference_ood
        ]
        for series, own in study.curves_of.items()
        if series != base
    }
    return MatchedComparison(base, list(reference_ood), list(reference_ood.values()), differences)


def front_area(study: Study) -> dict[Series, Estimate]:
    """Return the area under each trained method's front, as a share of the box of all fronts.

    The hypervolume indicator of multi-objective optimization (Zitzler and Thiele, IEEE Transactions
    on Evolutionary Computation 3(4), 1999) with the box's lower left corner as reference point: a
    point dominates the rectangle from that corner to itself. All methods and seeds share one box,
    so areas compare within one set of records only.

    Returns:
        Share in [0, 1] by series, over seeds; empty where the fronts span no box.
    """
    points = [point for curve in study.curves for point in curve.front]
    if not points:
        return {}
    low = Point(min(p.id for p in points), min(p.ood for p in points))
    high = Point(max(p.id for p in points), max(p.ood for p in points))
    box = (high.id - low.id) * (high.ood - low.ood)
    if box == 0:
        return {}

    def area(curve: Curve) -> float:
        edges = [low.id, *(point.id for point in curve.front)]
        return sum(
            (right - left) * (point.ood - low.ood)
            for left, right, point in zip(edges, edges[1:], curve.front, strict=False)
        )

    return {
        series: Estimate.of(area(curve) / box for curve in own.values())
        for series, own in study.curves_of.items()
    }


def against_reference_curve(
    study: Study, reference: str = REFERENCE
) -> dict[Series, Estimate | None]:
    """Compare the model that ID validation selects of each method with the reference's curve.

    This is the comparison for methods that are a point rather than a curve. The reference's curve
    uses test accuracies (a perfect choice of its learning rate), while the method's model is
    chosen by validation: if anything, the difference is biased against the method.

    Returns:
        OOD minus the reference's at the same ID accuracy, over the seeds at whose ID accuracy the
        reference has a front; None where there is no such seed.
    """
    base = study.trained_series(reference)
    fronts = study.curves_of[base] if base else {}

    def height(record: Record) -> float | None:
        curve = fronts.get(record.seed)
        return curve.ood_at(record.id) if curve else None

    return {
        series: _estimate(_difference(record.ood, height(record)) for record in setting.records)
        for series, setting in study.selected.items()
        if setting.trained
    }


def effective_robustness(
    study: Study, baselines: Sequence[str] = BASELINES
) -> dict[Series, Estimate]:
    """Return OOD accuracy above the line through the baselines, of each method's selected model.

    The line is fitted by least squares to logit(OOD) over logit(ID) of every model of the baseline
    methods (one variant or many, every rate, every seed); see the module's docstring. Among
    finetuned models of one pretrained model OOD falls as ID rises, so the line falls too.

    Returns:
        A difference of accuracies by series, for the model that ID validation selects; empty where
        fewer than two ID accuracies of baselines are known, and without curves.
    """
    if not study.has_curves:
        return {}
    base = [
        record for each in study.settings if each.method in baselines for record in each.records
    ]
    id = np.array([_logit(record.id, record.scores["id_test"].examples) for record in base])
    if len(set(id.tolist())) < 2:
        return {}
    ood = np.array([_logit(record.ood, _ood_examples(record)) for record in base])
    slope, intercept = np.polyfit(id, ood, 1)

    def above(record: Record) -> float:
        predicted = intercept + slope * _logit(record.id, record.scores["id_test"].examples)
        return record.ood - float(1 / (1 + np.exp(-predicted)))

    return {series: setting.estimate(above) for series, setting in study.selected.items()}


def _ood_examples(record: Record) -> int:
    return sum(each.examples for name, each in record.scores.items() if name not in ID_SETS)


def _logit(accuracy: float, examples: int) -> float:
    """Return log(a / (1 - a)) with half an image on either side, so that 0 and 1 stay finite."""
    right = accuracy * examples + 0.5
    return float(np.log(right / (examples + 1 - right)))


def id_range_of(references: Sequence[Curve]) -> tuple[float, float] | None:
    """Return the ID accuracies that the reference's front covers in every seed, if any."""
    if not references:
        return None
    fronts = [curve.front for curve in references]
    low, high = max(front[0].id for front in fronts), min(front[-1].id for front in fronts)
    return (low, high) if low <= high else None


def id_levels_of(references: Sequence[Curve], count: int = 3) -> list[float]:
    """Return levels evenly spaced inside the ID range that the reference covers in every seed.

    Inside, not at its ends, the other methods more often have models on both sides. Rounded
    to tenths of a percent where that stays inside.
    """
    covered = id_range_of(references)
    if covered is None:
        return []
    low, high = covered
    levels = {round(float(x), 3) for x in np.linspace(low, high, count + 2)[1:-1]}
    return sorted(level for level in levels if low <= level <= high) or [(low + high) / 2]


def _difference(own: float | None, reference: float | None) -> float | None:
    return None if own is None or reference is None else own - reference


def _estimate(values: Iterable[float | None]) -> Estimate | None:
    reached = [value for value in values if value is not None]
    return Estimate.of(reached) if reached else None
