"""Methods compared as curves: out-of-domain accuracy at matched in-domain accuracy.

Accuracy stands for the benchmark's official metric throughout (`Record.official`).

The learning rate moves every finetuning method along an ID-OOD trade-off (interpolation with the
pretrained weights does the same), so two points say nothing: one may simply have trained more.

Definitions used everywhere in this project:

- The *points* of a method are (ID test accuracy, mean OOD accuracy) of all its models of one seed:
  every learning rate and every alpha.
- Its *front* are the points that no other point of it beats or equals in both. Along the front
  OOD falls strictly as ID rises, and the line through neighbouring points is an upper envelope:
  no point of the method lies above it.
- Its *OOD at matched ID* is that line's height at an ID level: what the method offers at that ID
  accuracy or more. Left of the front, where all its models are beaten by the front's first one,
  that is the first one's OOD. Outside of the ID range of its models there is none: nothing is
  extrapolated.
- Methods are compared *paired by seed*: the difference to the reference at the level, seed by seed,
  then mean, standard deviation (n - 1) and a 95% Student t interval over seeds.

- The *area of the front* sums a curve up in one number: the share of the box between the lowest and
  the highest ID and OOD accuracy of all fronts that the method's front dominates.
- A method that is a point (a soup) has no curve; `against_reference_curve` compares the model that
  ID validation selects for each method with the reference's front at that model's own ID accuracy.
- *Effective robustness* is OOD accuracy above what a line through baseline models predicts from ID
  accuracy, both on the logit scale (Taori et al., "Measuring Robustness to Natural Distribution
  Shifts in Image Classification", NeurIPS 2020, section 3, arXiv 2007.00644).

The front is drawn from test accuracies: it describes what a method offers to a perfect choice of
rate, and favours methods with many points a little. What an honest choice gets is the business of
`gmixout.evaluation.selection`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gmixout.evaluation.records import ID_SETS, Record
from gmixout.evaluation.selection import id_validation
from gmixout.evaluation.summary import Cell, Estimate, by_series, complete, summarise

Series = tuple[str, str]
"""Method and variant: the name of a curve."""


def series_named(name: str, series: Iterable[Series]) -> Series | None:
    """The one series that a name stands for: "lora", or "gmixout(mask_rate=0.8)" of several.

    Args:
        name: A method; in brackets, of a method run in several variants, as many of the options
            in which they differ as tell this one.
        series: Those there are.

    Returns:
        None where none or several fit.
    """
    method, _, options = name.removesuffix(")").partition("(")
    asked, there = _options(options), set(series)
    fitting = [each for each in there if each[0] == name] or [
        each for each in there if each[0] == method and asked <= _options(each[1])
    ]
    return fitting[0] if len(fitting) == 1 else None


def _options(text: str) -> set[str]:
    """The options that are listed, without quotes, which a shell takes off."""
    return {option.strip() for option in text.replace('"', "").split(",")} - {""}


class Point(NamedTuple):
    """In-domain and mean out-of-domain accuracy of one model."""

    id: float
    ood: float


class Curve(NamedTuple):
    """All models of one method and one seed."""

    method: str
    variant: str
    seed: int
    points: tuple[Point, ...]

    @property
    def series(self) -> Series:
        """Whose curve it is, over the seeds."""
        return self.method, self.variant

    @property
    def front(self) -> list[Point]:
        """The method's trade-off, see `pareto_front`."""
        return pareto_front(self.points)


def curves(records: Iterable[Record]) -> list[Curve]:
    """One curve for each method, variant and seed; none of a benchmark without shifts."""
    points: dict[tuple[str, str, int], list[Point]] = {}
    for cell in summarise(record for record in records if record.shifts):
        for record in cell.records:
            key = (cell.method, cell.variant, record.seed)
            points.setdefault(key, []).append(Point(record.id, record.ood))
    return [Curve(*key, tuple(each)) for key, each in points.items()]


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats or equals in both, by rising ID (and so by falling OOD)."""
    front: list[Point] = []
    for point in sorted(points, reverse=True):
        if not front or point.ood > front[-1].ood:
            front.append(point)
    return front[::-1]


def ood_at_matched_id(points: Iterable[Point], id_level: float) -> float | None:
    """OOD accuracy that `points` offer at an ID accuracy of `id_level` or more.

    Returns:
        The linear interpolation of the front, or None outside of the ID range of the points.
    """
    points = list(points)
    front = pareto_front(points)
    if not front or not min(point.id for point in points) <= id_level <= front[-1].id:
        return None
    return float(np.interp(id_level, [p.id for p in front], [p.ood for p in front]))


@dataclass(frozen=True)
class MatchedComparison:
    """Every method against a reference at a few levels of ID accuracy."""

    reference: Series
    id_levels: list[float]
    reference_ood: list[Estimate]
    """OOD accuracy of the reference at each level."""
    differences: dict[Series, list[Estimate | None]]
    """(method, variant) -> its OOD minus the reference's at each level, paired by seed; None where
    no seed of the method reached the level."""


def compare_at_matched_id(
    records: Iterable[Record],
    reference: str = "full",
    id_levels: Sequence[float] | None = None,
) -> MatchedComparison | None:
    """Compare every trained method with the reference, seed by seed.

    Args:
        records: Records of one benchmark.
        reference: What the others are compared with, see `series_named`.
        id_levels: ID accuracies to compare at; `id_levels_of` the reference by default. Levels
            that the reference itself reached in no seed are left out.

    Returns:
        None when the reference was not run, was run in several variants (and which is not said), or
        has no level of ID accuracy that all its seeds reached.
    """
    all_curves = curves(record for record in records if record.steps > 0)
    base = series_named(reference, (curve.series for curve in all_curves))
    if base is None:
        return None
    references = {curve.seed: curve for curve in all_curves if curve.series == base}
    if id_levels is None:
        id_levels = id_levels_of(list(references.values()))
    height = {
        (seed, level): ood_at_matched_id(curve.points, level)
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
    differences: dict[Series, list[Estimate | None]] = {}
    for series in dict.fromkeys(c.series for c in all_curves if c.series != base):
        own = [curve for curve in all_curves if curve.series == series]
        differences[series] = [
            _estimate(
                _difference(ood_at_matched_id(curve.points, level), height.get((curve.seed, level)))
                for curve in own
            )
            for level in reference_ood
        ]
    return MatchedComparison(base, list(reference_ood), list(reference_ood.values()), differences)


def front_area(records: Iterable[Record]) -> dict[Series, Estimate]:
    """Area under each trained method's front, seed by seed, as a share of the box of all fronts.

    The hypervolume indicator of multi-objective optimization (Zitzler and Thiele, IEEE Transactions
    on Evolutionary Computation 3(4), 1999) with the box's lower left corner as reference point: a
    point dominates the rectangle from that corner to itself. One box for all methods and seeds, so
    the areas compare within one set of records, and with nothing else.

    Returns:
        Share in [0, 1] by series; empty where the fronts span no box.
    """
    fronts = {
        (curve.method, curve.variant, curve.seed): curve.front
        for curve in curves(record for record in records if record.steps > 0)
    }
    points = [point for front in fronts.values() for point in front]
    if not points:
        return {}
    low = Point(min(p.id for p in points), min(p.ood for p in points))
    high = Point(max(p.id for p in points), max(p.ood for p in points))
    box = (high.id - low.id) * (high.ood - low.ood)
    if box == 0:
        return {}
    areas: dict[Series, list[float]] = {}
    for (method, variant, _), front in fronts.items():
        edges = [low.id, *(point.id for point in front)]
        area = sum(
            (right - left) * (point.ood - low.ood)
            for left, right, point in zip(edges, edges[1:], front, strict=False)
        )
        areas.setdefault((method, variant), []).append(area / box)
    return {series: Estimate.of(each) for series, each in areas.items()}


class AgainstCurve(NamedTuple):
    """The selected model of a method against the reference's front at the same ID accuracy."""

    selected: Cell
    difference: Estimate | None
    """OOD minus the reference's, over the seeds at whose ID accuracy the reference has a front;
    None where there is no such seed."""


def against_reference_curve(
    records: Iterable[Record], reference: str = "full"
) -> dict[Series, AgainstCurve]:
    """Compares the model that ID validation selects for each method with the reference's curve.

    This is the comparison for methods that are a point rather than a curve. The reference's curve
    is drawn from its test accuracies (a perfect choice of its rate), the other side is an honest
    choice: the difference is, if anything, to the disadvantage of the method.
    """
    records = [record for record in records if record.steps > 0]
    all_curves = curves(records)
    base = series_named(reference, (curve.series for curve in all_curves))
    fronts = {curve.seed: curve.points for curve in all_curves if curve.series == base}
    compared = {}
    for series, cells in by_series(summarise(records)).items():
        selected = id_validation.choose(complete(cells))
        compared[series] = AgainstCurve(
            selected,
            _estimate(
                _difference(record.ood, ood_at_matched_id(fronts.get(record.seed, ()), record.id))
                for record in selected.records
            ),
        )
    return compared


def effective_robustness(
    records: Iterable[Record], baselines: Sequence[str] = ("zero_shot", "linear_probe", "full")
) -> dict[Series, Estimate]:
    """OOD accuracy above the line through the baselines, of each method's selected model.

    The line is fitted by least squares to logit(OOD) over logit(ID) of every model of the baseline
    methods (one variant or many, every rate, every seed); see the module's docstring. Among
    finetuned models of one foundation OOD falls as ID rises, so the line falls too.

    Returns:
        A difference of accuracies by series, for the model that ID validation selects; empty where
        fewer than two ID accuracies of baselines are known, and without shifts.
    """
    cells = summarise(record for record in records if record.shifts)
    base = [record for cell in cells if cell.method in baselines for record in cell.records]
    id = np.array([_logit(record.id, record.examples["id_test"]) for record in base])
    if len(set(id.tolist())) < 2:
        return {}
    ood = np.array([_logit(record.ood, _ood_examples(record)) for record in base])
    slope, intercept = np.polyfit(id, ood, 1)

    def above(record: Record) -> float:
        predicted = intercept + slope * _logit(record.id, record.examples["id_test"])
        return record.ood - float(1 / (1 + np.exp(-predicted)))

    return {
        series: id_validation.choose(complete(each)).estimate(above)
        for series, each in by_series(cells).items()
    }


def _ood_examples(record: Record) -> int:
    return sum(count for name, count in record.examples.items() if name not in ID_SETS)


def _logit(accuracy: float, examples: int) -> float:
    """log(a / (1 - a)) with half an image on either side, so that 0 and 1 stay finite."""
    right = accuracy * examples + 0.5
    return float(np.log(right / (examples + 1 - right)))


def id_range_of(references: Sequence[Curve]) -> tuple[float, float] | None:
    """The ID accuracies that the front of the reference covers in every seed, if there are any."""
    if not references:
        return None
    fronts = [curve.front for curve in references]
    low, high = max(front[0].id for front in fronts), min(front[-1].id for front in fronts)
    return (low, high) if low <= high else None


def id_levels_of(references: Sequence[Curve], count: int = 3) -> list[float]:
    """Levels spread evenly inside the ID range that the reference covers in every seed.

    Inside, not at its ends: there the other methods have models on both sides more often. Rounded
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
