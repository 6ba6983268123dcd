"""Styles of methods, the same in the figures and on the page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gmixout.methods import METHODS, Style
from gmixout.reports.names import scale_of
from gmixout.results.study import Point, Series, Setting, Study, by_series, pareto_front

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "d": "diamond-tall",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "p": "pentagon",
    "h": "hexagon",
    "*": "star",
    "X": "x",
    "P": "cross",
}
"""Plotly's names of matplotlib's markers."""


SPARE = [("#AA7744", "X"), ("#7C6BBF", "p"), ("#B0527A", "h")]
DASHES = ["solid", "dash", "dot", "dashdot"]


@dataclass(frozen=True)
class CurveStyle(Style):
    """Name and style of one curve of a method."""

    variant: str = ""

    @property
    def name(self) -> str:
        """Name of the curve."""
        return f"{self.label} ({self.variant})" if self.variant else self.label


def styles_of(study: Study) -> dict[Series, CurveStyle]:
    """Return a style for each curve.

    Variants of one method, with or without regularizers, differ in their line.
    """
    styles: dict[Series, CurveStyle] = {}
    drawn: list[str] = []
    spare: dict[str, Style] = {}
    for (method, variant), settings in study.by_series.items():
        facts = settings[0].facts
        name = facts.base or method
        if (kind := METHODS.get(name)) is None or (style := kind.style) is None:
            style = Style(name, *SPARE[len(spare.keys() - {name}) % len(SPARE)], main=True)
            style = spare.setdefault(name, style)
        label = " + ".join([style.label, *facts.regularizers])
        if "of" in facts.options and "of=" not in variant:  # built on runs of a non-default method
            label += f" of {facts.options['of']}"
        dash = DASHES[(DASHES.index(style.dash) + drawn.count(name)) % len(DASHES)]
        drawn.append(name)
        own = replace(style, label=label, dash=dash)
        styles[method, variant] = CurveStyle(**vars(own), variant=variant)
    return styles


@dataclass(frozen=True)
class Box:
    """A rectangle of the ID-OOD plane, in percent."""

    id: tuple[float, float]
    ood: tuple[float, float]

    def holds(self, point: Point) -> bool:
        """Return whether the point lies in this rectangle."""
        return self.id[0] <= point.id <= self.id[1] and self.ood[0] <= point.ood <= self.ood[1]


MAX_FOCUS_ID = 6.0
"""Widest ID range of the close-up, in points below the best ID accuracy."""


def point_of(setting: Setting) -> Point:
    """Return ID and OOD accuracy of a setting as displayed, in percent, mean over seeds."""
    scale = scale_of(setting.records[0].metric)
    return Point(
        scale * setting.estimate(lambda record: record.id).mean,
        scale * setting.estimate(lambda record: record.ood).mean,
    )


def ellipse_of(setting: Setting, turns: int = 32) -> list[Point] | None:
    """Return the outline of one standard deviation over seeds around `point_of`, in percent.

    The points whose Mahalanobis distance from the mean is 1 by the covariance of ID and OOD over
    seeds (n - 1): about two fifths of the runs lie inside. None for one seed.
    """
    if len(setting.records) < 2:
        return None
    scale = scale_of(setting.records[0].metric)
    runs = np.array([[scale * record.id, scale * record.ood] for record in setting.records])
    variances, directions = np.linalg.eigh(np.cov(runs.T))
    turn = np.linspace(0, 2 * np.pi, turns + 1)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    # a variance of 0 may come out a little below
    outline = directions @ (np.sqrt(variances.clip(min=0))[:, None] * circle)
    return [Point(*point) for point in (runs.mean(axis=0)[:, None] + outline).T.tolist()]


MANY = 10
"""Number of curves above which secondary methods are drawn lighter."""


def whole(settings: Iterable[Setting]) -> Box:
    """Return the rectangle that contains every setting."""
    settings = list(settings)
    least = 2.0 if settings[0].records[0].metric.is_share else 0.0
    return _around([point_of(setting) for setting in settings], least)


def focus(settings: Iterable[Setting]) -> Box:
    """Return the rectangle of the close-up on the trade-offs of the trained methods.

    It contains the front of every method that was trained (`pareto_front` of its means), as far as
    it lies within `MAX_FOCUS_ID` of the best, and what WiSE-FT reaches and the model trained from
    beside them. A zero-shot model far below and collapsed runs lie outside.
    """
    settings = list(settings)
    series = by_series(setting for setting in settings if setting.trained).values()
    fronts = [(each[0].alpha is None, pareto_front(map(point_of, each))) for each in series]
    trained = [point for plain, front in fronts for point in front if plain]
    metric = settings[0].records[0].metric
    if not trained or metric.lower or not metric.is_share:  # the rules above are for shares
        return whole(settings)
    best = max(point.id for point in trained)
    least = best - MAX_FOCUS_ID
    low = max(min(point.id for point in trained), least)
    starts = [point_of(setting) for setting in settings if not setting.trained]
    shown = [point for _, front in fronts for point in front if point.id >= low]
    return _around([*shown, *(point for point in starts if point.id >= least)])


def paths_of(settings: Sequence[Setting]) -> list[tuple[Series, list[Setting]]]:
    """Return the lines of a figure: over learning rates, or over alpha at one learning rate.

    A line over alpha begins at the zero-shot model and ends at the finetuned one of the same runs,
    where these were evaluated: they are its models at alpha 0 and 1.
    """
    lines: dict[tuple[Series, float | None], list[Setting]] = {}
    for each in settings:
        key = each.series, each.lr if each.alpha is not None else None
        lines.setdefault(key, []).append(each)
    starts = [setting for setting in settings if not setting.trained][:1]
    ends: dict[frozenset[str], Setting] = {}
    for setting in settings:
        if setting.alpha is None:
            ends.setdefault(_runs(setting), setting)
    paths = []
    for (series, _), line in lines.items():
        if line[0].alpha is not None:
            end = ends.get(_runs(line[0]))
            line = [*starts, *line, *([end] if end else [])]
        paths.append((series, line))
    return paths


def _runs(setting: Setting) -> frozenset[str]:
    return frozenset(record.run for record in setting.records)


def _around(points: list[Point], least: float = 2.0) -> Box:
    """Return the rectangle around the points with a margin, at least two percent wide and high."""

    def span(values: list[float]) -> tuple[float, float]:
        width = max(values) - min(values)
        margin = max(0.12 * width, (least - width) / 2) or 0.1 * abs(values[0]) or 1.0
        return min(values) - margin, max(values) + margin

    return Box(span([point.id for point in points]), span([point.ood for point in points]))


def rate(value: float | None) -> str:
    """Return a learning rate as text: 1e-3."""
    return "" if value is None else np.format_float_scientific(value, trim="-", exp_digits=1)
