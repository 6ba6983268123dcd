"""How methods are called, drawn and counted: the same in the terminal, the figure and the page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gmixout.evaluation.curves import Point, pareto_front
from gmixout.evaluation.summary import Cell, by_series


@dataclass(frozen=True)
class Style:
    """How one curve is named and drawn."""

    label: str
    color: str
    marker: str
    """Marker in matplotlib's notation."""
    symbol: str
    """The same marker in plotly's."""
    dash: str = "solid"


# Okabe and Ito's colours, which stay apart for colour-blind readers, where they show on white and
# on black alike. WiSE-FT interpolates full finetuning, so it gets a lighter blue.
STYLES = {
    "zero_shot": Style("zero-shot", "#808080", "*", "star"),
    "full": Style("full finetuning", "#0072B2", "o", "circle"),
    "wise_ft": Style("WiSE-FT", "#56B4E9", "o", "circle"),
    "random_mask": Style("Random Mask", "#E69F00", "s", "square"),
    "mixout": Style("Mixout", "#009E73", "^", "triangle-up"),
    "high_rate_mixout": Style("High-Rate Mixout", "#117733", "v", "triangle-down"),
    "dropconnect": Style("DropConnect", "#CC79A7", "P", "cross"),
    "gmixout": Style("GMixout", "#D55E00", "D", "diamond"),
}
SPARE = [("#AA7744", "X", "x"), ("#7C6BBF", "p", "pentagon"), ("#B0527A", "h", "hexagon")]
DASHES = ["solid", "dash", "dot", "dashdot"]


def styles_of(cells: Iterable[Cell]) -> dict[tuple[str, str], Style]:
    """A style for each curve; variants of one method differ in their line."""
    styles: dict[tuple[str, str], Style] = {}
    for method, variant in by_series(cells):
        if method in STYLES:
            base = STYLES[method]
        else:
            unknown = list(dict.fromkeys(m for m, _ in styles if m not in STYLES and m != method))
            base = Style(method, *SPARE[len(unknown) % len(SPARE)])
        siblings = sum(other == method for other, _ in styles)
        label = f"{base.label} ({variant})" if variant else base.label
        styles[method, variant] = replace(base, label=label, dash=DASHES[siblings % len(DASHES)])
    return styles


@dataclass(frozen=True)
class Box:
    """A rectangle of the ID-OOD plane, in per cent."""

    id: tuple[float, float]
    ood: tuple[float, float]

    def holds(self, point: Point) -> bool:
        """Whether the point lies in this rectangle."""
        return self.id[0] <= point.id <= self.id[1] and self.ood[0] <= point.ood <= self.ood[1]


MAX_FOCUS_ID = 6.0
"""Widest ID range of the close-up, in points below the best ID accuracy."""


def point_of(cell: Cell) -> Point:
    """ID and OOD accuracy of a cell in per cent, mean over seeds."""
    return Point(
        100 * cell.estimate(lambda record: record.id).mean,
        100 * cell.estimate(lambda record: record.ood).mean,
    )


def whole(cells: Iterable[Cell]) -> Box:
    """The rectangle that holds every cell."""
    return _around([point_of(cell) for cell in cells])


def focus(cells: Iterable[Cell]) -> Box:
    """The rectangle that matters: the trade-offs of the trained methods, close up.

    It holds the front of every method that was trained (`pareto_front` of its means), as far as it
    lies within `MAX_FOCUS_ID` of the best, and what WiSE-FT reaches beside them. Zero-shot models
    and collapsed runs may lie outside.
    """
    cells = list(cells)
    series = by_series(cell for cell in cells if cell.lr is not None).values()
    fronts = [(each[0].alpha is None, pareto_front(map(point_of, each))) for each in series]
    trained = [point for plain, front in fronts for point in front if plain]
    if not trained:
        return whole(cells)
    best = max(point.id for point in trained)
    low = max(min(point.id for point in trained), best - MAX_FOCUS_ID)
    return _around([point for _, front in fronts for point in front if point.id >= low])


def paths_of(cells: Sequence[Cell]) -> list[tuple[tuple[str, str], list[Cell]]]:
    """The lines of a picture, each with its curve: over learning rates, or over alpha at one rate.

    A line over alpha begins at the zero-shot model and ends at the finetuned one of the same runs,
    where these were evaluated: they are its models at alpha 0 and 1.
    """
    lines: dict[tuple[tuple[str, str], float | None], list[Cell]] = {}
    for cell in cells:
        lines.setdefault((cell.series, cell.lr if cell.alpha is not None else None), []).append(
            cell
        )
    starts = [cell for cell in cells if cell.lr is None][:1]
    ends = {_runs(cell): cell for cell in cells if cell.alpha is None}
    paths = []
    for (series, _), line in lines.items():
        if line[0].alpha is not None:
            end = ends.get(_runs(line[0]))
            line = [*starts, *line, *([end] if end else [])]
        paths.append((series, line))
    return paths


def _runs(cell: Cell) -> frozenset[str]:
    return frozenset(record.run for record in cell.records)


def _around(points: list[Point]) -> Box:
    """The rectangle around the points, with a margin, and at least two per cent wide and high."""

    def span(values: list[float]) -> tuple[float, float]:
        margin = max(0.12 * (max(values) - min(values)), 1 - (max(values) - min(values)) / 2)
        return min(values) - margin, max(values) + margin

    return Box(span([point.id for point in points]), span([point.ood for point in points]))


def rate(value: float | None) -> str:
    """A learning rate as people write it: 1e-3."""
    return "" if value is None else np.format_float_scientific(value, trim="-", exp_digits=1)
