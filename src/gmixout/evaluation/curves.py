"""Methods compared as curves: out-of-domain accuracy at matched in-domain accuracy.

The learning rate moves every finetuning method along an ID-OOD trade-off (interpolation with the
pretrained weights does the same), so two points say nothing: one may simply have trained more.

Definitions used everywhere in this project:

- The *points* of a method are (ID test accuracy, mean OOD accuracy) of all its models of one seed:
  every learning rate and every alpha.
- Its *front* are the points that no other point of it beats or equals in both. Along the front
  OOD falls strictly as ID rises, and the line through neighbouring points is an upper envelope:
  no point of the method lies above it.
- Its *OOD at matched ID* is that line's height at an ID level. Outside of the ID range of the
  front there is none: nothing is extrapolated.
- Methods are compared *paired by seed*: the difference to the reference at the level, seed by seed,
  then mean, standard deviation (n - 1) and a 95% Student t interval over seeds.

The front is drawn from test accuracies: it describes what a method offers to a perfect choice of
rate, and favours methods with many points a little. What an honest choice gets is the business of
`select_by_id_validation`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gmixout.evaluation.records import Record
from gmixout.evaluation.summary import Estimate, summarise


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
    def front(self) -> list[Point]:
        """The method's trade-off, see `pareto_front`."""
        return pareto_front(self.points)


def curves(records: Iterable[Record]) -> list[Curve]:
    """One curve for each method, variant and seed."""
    points: dict[tuple[str, str, int], list[Point]] = {}
    for cell in summarise(records):
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
    """OOD accuracy on the front of `points` where its ID accuracy is `id_level`.

    Returns:
        The front's linear interpolation, or None outside of the ID range of the front.
    """
    front = pareto_front(points)
    if not front or not front[0].id <= id_level <= front[-1].id:
        return None
    return float(np.interp(id_level, [p.id for p in front], [p.ood for p in front]))


@dataclass(frozen=True)
class MatchedComparison:
    """Every method against a reference method at a few levels of ID accuracy."""

    reference: str
    id_levels: list[float]
    reference_ood: list[Estimate]
    """OOD accuracy of the reference at each level."""
    differences: dict[tuple[str, str], list[Estimate | None]]
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
        reference: Method that the others are compared with.
        id_levels: ID accuracies to compare at; `id_levels_of` the reference by default. Levels
            that the reference itself reached in no seed are left out.

    Returns:
        None when the reference was not run, was run in several variants, or has no level of ID
        accuracy that all its seeds reached.
    """
    all_curves = curves(record for record in records if record.steps > 0)
    references = {curve.seed: curve for curve in all_curves if curve.method == reference}
    if len(references) != sum(curve.method == reference for curve in all_curves):
        return None
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
    differences: dict[tuple[str, str], list[Estimate | None]] = {}
    for series in dict.fromkeys((c.method, c.variant) for c in all_curves if c.method != reference):
        own = [curve for curve in all_curves if (curve.method, curve.variant) == series]
        differences[series] = [
            _estimate(
                _difference(ood_at_matched_id(curve.points, level), height.get((curve.seed, level)))
                for curve in own
            )
            for level in reference_ood
        ]
    return MatchedComparison(
        reference, list(reference_ood), list(reference_ood.values()), differences
    )


def id_levels_of(references: Sequence[Curve], count: int = 3) -> list[float]:
    """Levels spread evenly inside the ID range that the reference covers in every seed.

    Inside, not at its ends: there the other methods have models on both sides more often. Rounded
    to tenths of a percent where that stays inside.
    """
    if not references:
        return []
    fronts = [curve.front for curve in references]
    low, high = max(front[0].id for front in fronts), min(front[-1].id for front in fronts)
    if low > high:
        return []
    levels = {round(float(x), 3) for x in np.linspace(low, high, count + 2)[1:-1]}
    return sorted(level for level in levels if low <= level <= high) or [(low + high) / 2]


def _difference(own: float | None, reference: float | None) -> float | None:
    return None if own is None or reference is None else own - reference


def _estimate(values: Iterable[float | None]) -> Estimate | None:
    reached = [value for value in values if value is not None]
    return Estimate.of(reached) if reached else None
