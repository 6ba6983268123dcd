"""How methods are called, drawn and counted: the same in the terminal, the figures and the page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gmixout.evaluation.curves import Point, pareto_front
from gmixout.evaluation.summary import Cell, by_series

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
"""matplotlib's markers in plotly's words."""


@dataclass(frozen=True)
class Style:
    """How one curve is named and drawn."""

    label: str
    color: str
    marker: str
    """Marker in matplotlib's notation."""
    dash: str = "solid"
    main: bool = False
    """Whether a reader looks for this method first; the others are drawn lighter."""

    @property
    def symbol(self) -> str:
        """The marker in plotly's notation."""
        return SYMBOLS[self.marker]


# Okabe and Ito's colours, which stay apart for colour-blind readers, where they show on white and
# on black alike. A family shares its colour; marker and dash together tell every method apart.
_GREY, _BLUE, _SKY, _PINK, _VIOLET = "#808080", "#0072B2", "#56B4E9", "#CC79A7", "#8C6BB1"
_AMBER, _BROWN, _GREEN, _RED, _SALMON = "#E69F00", "#A6761D", "#009E73", "#D55E00", "#F28E5B"
STYLES = {
    "zero_shot": Style("zero-shot", _GREY, "*", main=True),
    "linear_probe": Style("linear probe", _GREY, "X", "dot"),
    "lp_ft": Style("LP-FT", _BLUE, "X", "dashdot"),
    "full": Style("full finetuning", _BLUE, "o", main=True),
    "ema": Style("EMA", _BLUE, "p", "dash"),
    "swa": Style("SWA", _RED, "p", "dot"),
    "l2_sp": Style("L2-SP", _BLUE, "h", "dot"),
    "wise_ft": Style("WiSE-FT", _SKY, "o", "dash", main=True),
    "uniform_soup": Style("uniform soup", _VIOLET, "h", main=True),
    "greedy_soup": Style("greedy soup", _VIOLET, "p", main=True),
    "lora": Style("LoRA", _PINK, "s", main=True),
    "dora": Style("DoRA", _PINK, "<", "dash"),
    "shira": Style("SHiRA", _PINK, "P", "dot"),
    "bitfit": Style("BitFit", _PINK, ">", "dashdot"),
    "random_mask": Style("Random Mask", _AMBER, "s", "dash", main=True),
    "dropconnect": Style("DropConnect", _BROWN, "P", "dash"),
    "mixout": Style("Mixout", _GREEN, "^", main=True),
    "high_rate_mixout": Style("High-Rate Mixout", _GREEN, "v", "dash"),
    "gmixout": Style("GMixout", _RED, "D", main=True),
    "gmixout_wise_ft": Style("GMixout + WiSE-FT", _SALMON, "d", "dash", main=True),
}
SPARE = [("#AA7744", "X"), ("#7C6BBF", "p"), ("#B0527A", "h")]
DASHES = ["solid", "dash", "dot", "dashdot"]


def styles_of(cells: Iterable[Cell]) -> dict[tuple[str, str], Style]:
    """A style for each curve; variants of one method differ in their line."""
    styles: dict[tuple[str, str], Style] = {}
    for method, variant in by_series(cells):
        if method in STYLES:
            base = STYLES[method]
        else:
            unknown = list(dict.fromkeys(m for m, _ in styles if m not in STYLES and m != method))
            base = Style(method, *SPARE[len(unknown) % len(SPARE)], main=True)
        siblings = sum(other == method for other, _ in styles)
        label = f"{base.label} ({variant})" if variant else base.label
        dash = DASHES[(DASHES.index(base.dash) + siblings) % len(DASHES)]
        styles[method, variant] = replace(base, label=label, dash=dash)
    return styles


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """The cells by method, in the order of `STYLES`: runs that go side by side end in any order."""
    known = list(STYLES)
    last = len(known)
    return sorted(
        cells,
        key=lambda c: (known.index(c.method) if c.method in known else last, c.variant),
    )


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


def is_trained(cell: Cell) -> bool:
    """Whether these models were trained at all; a soup has no learning rate and yet was."""
    return cell.records[0].steps > 0


def point_of(cell: Cell) -> Point:
    """ID and OOD accuracy of a cell in per cent, mean over seeds."""
    return Point(
        100 * cell.estimate(lambda record: record.id).mean,
        100 * cell.estimate(lambda record: record.ood).mean,
    )


def ellipse_of(cell: Cell, turns: int = 32) -> list[Point] | None:
    """Outline of one standard deviation over seeds around `point_of`, in per cent.

    The points whose Mahalanobis distance from the mean is 1 by the covariance of ID and OOD over
    seeds (n - 1): about two fifths of the runs lie inside. None for one seed.
    """
    if len(cell.records) < 2:
        return None
    runs = np.array([[100 * record.id, 100 * record.ood] for record in cell.records])
    variances, directions = np.linalg.eigh(np.cov(runs.T))
    turn = np.linspace(0, 2 * np.pi, turns + 1)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    # a variance of 0 may come out a little below
    outline = directions @ (np.sqrt(variances.clip(min=0))[:, None] * circle)
    return [Point(*point) for point in (runs.mean(axis=0)[:, None] + outline).T.tolist()]


MANY = 10
"""Curves above which those that a reader looks for second are drawn lighter."""


def whole(cells: Iterable[Cell]) -> Box:
    """The rectangle that holds every cell."""
    return _around([point_of(cell) for cell in cells])


def focus(cells: Iterable[Cell]) -> Box:
    """The rectangle that matters: the trade-offs of the trained methods, close up.

    It holds the front of every method that was trained (`pareto_front` of its means), as far as it
    lies within `MAX_FOCUS_ID` of the best, and what WiSE-FT reaches and the model trained from
    beside them. A zero-shot model far below and collapsed runs lie outside.
    """
    cells = list(cells)
    series = by_series(cell for cell in cells if is_trained(cell)).values()
    fronts = [(each[0].alpha is None, pareto_front(map(point_of, each))) for each in series]
    trained = [point for plain, front in fronts for point in front if plain]
    if not trained:
        return whole(cells)
    best = max(point.id for point in trained)
    least = best - MAX_FOCUS_ID
    low = max(min(point.id for point in trained), least)
    starts = [point_of(cell) for cell in cells if not is_trained(cell)]
    shown = [point for _, front in fronts for point in front if point.id >= low]
    return _around([*shown, *(point for point in starts if point.id >= least)])


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
    starts = [cell for cell in cells if not is_trained(cell)][:1]
    ends: dict[frozenset[str], Cell] = {}
    for cell in cells:
        if cell.alpha is None:
            ends.setdefault(_runs(cell), cell)
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
