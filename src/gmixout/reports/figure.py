"""The ID-OOD picture as an image: every method a curve over learning rates."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from gmixout.evaluation.records import Record
from gmixout.evaluation.summary import Cell, by_series, select_by_id_validation, summarise
from gmixout.files import write_atomically
from gmixout.reports.style import Box, Style, focus, paths_of, point_of, rate, styles_of, whole

INK, SOFT, GRID = "#222222", "#666666", "#e4e4e4"
LINES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def save_id_ood_figure(records: Sequence[Record], path: str | os.PathLike[str]) -> Path:
    """Write `id_ood_figure` as a PNG of double density; an older file stays whole until then."""
    path = Path(path)
    figure = id_ood_figure(records)
    write_atomically(path, lambda unfinished: figure.savefig(unfinished, format="png", dpi=200))
    return path


def id_ood_figure(records: Sequence[Record]) -> Figure:
    """In-domain accuracy against mean accuracy under shift.

    A marker is a setting's mean over seeds, with bars of one standard deviation; it grows with the
    learning rate. A ring marks what in-domain validation selects. Where the zero-shot model or a
    collapsed run lies far off, a small plot on the left shows everything and the large one the
    part where the methods differ.
    """
    cells = summarise(records)
    view = focus(cells)
    figure = Figure(figsize=(9.6, 4.9), layout="constrained", facecolor="white")
    title = f"all models on {cells[0].records[0].benchmark}"
    if all(view.holds(point_of(cell)) for cell in cells):
        axes = [figure.subplots()]
        _detail(axes[0], cells, view, title)
    else:
        axes = list(figure.subplots(1, 2, width_ratios=(1, 2.1)))
        _overview(axes[0], cells, view, title)
        _detail(axes[1], cells, view, "close-up of the box")
    axes[0].set_ylabel("accuracy under shift, mean (%)", color=INK)
    figure.legend(
        handles=_handles(cells),
        loc="outside upper left",
        ncols=6,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handletextpad=0.5,
        columnspacing=1.4,
    )
    figure.supxlabel(_note(cells), fontsize=8.5, color=SOFT, x=0.01, ha="left")
    return figure


def _overview(axes: Axes, cells: list[Cell], view: Box, title: str) -> None:
    """All models, small, with the part that the large plot shows."""
    _draw(axes, cells, size=0.55)
    _frame(axes, whole(cells), title)
    corner = (view.id[0], view.ood[0])
    width, height = view.id[1] - view.id[0], view.ood[1] - view.ood[0]
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=SOFT, linewidth=0.9))


def _detail(axes: Axes, cells: list[Cell], view: Box, title: str) -> None:
    """The part where the methods differ, with spread and selection."""
    _draw(axes, cells, size=1.0)
    for cell in cells:
        _spread(axes, cell, styles_of(cells)[cell.series])
    for each in by_series(cell for cell in cells if cell.lr is not None).values():
        point = point_of(select_by_id_validation(each))
        axes.plot(*point, "o", ms=15, mfc="none", mec=INK, mew=0.9, zorder=5)
    _frame(axes, view, title)


def _draw(axes: Axes, cells: list[Cell], size: float) -> None:
    """Lines and markers of every curve, the markers growing with the learning rate."""
    styles = styles_of(cells)
    for series, path in paths_of(cells):
        x, y = zip(*map(point_of, path), strict=True)
        style = styles[series]
        axes.plot(x, y, LINES[style.dash], color=style.color, linewidth=1.7 * size**0.5, zorder=2)
    rates = sorted({cell.lr for cell in cells if cell.lr is not None})
    for cell in cells:
        style = styles[cell.series]
        if cell.lr is None:
            diameter = 14.0
        elif cell.alpha is not None:
            diameter = 4.5
        else:
            diameter = 6 + 4 * rates.index(cell.lr) / max(len(rates) - 1, 1)
        axes.plot(
            *point_of(cell),
            style.marker,
            color=style.color,
            markersize=diameter * size,
            markeredgecolor="white",
            markeredgewidth=0.7 * size,
            zorder=3 if cell.alpha is None else 2.5,
        )


def _spread(axes: Axes, cell: Cell, style: Style) -> None:
    """Bars of one standard deviation; none where one seed knows no spread."""
    id, ood = cell.estimate(lambda record: record.id), cell.estimate(lambda record: record.ood)
    if id.sd is None or ood.sd is None or cell.alpha is not None:
        return
    axes.errorbar(
        *point_of(cell),
        xerr=100 * id.sd,
        yerr=100 * ood.sd,
        color=style.color,
        alpha=0.45,
        elinewidth=1.1,
        zorder=2,
    )


def _frame(axes: Axes, box: Box, title: str) -> None:
    axes.set_xlim(*box.id)
    axes.set_ylim(*box.ood)
    axes.set_xlabel("in-domain accuracy (%)", color=INK)
    axes.set_title(title, loc="left", fontsize=9, color=SOFT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(GRID)


def _handles(cells: list[Cell]) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            color=style.color,
            linestyle=LINES[style.dash] if method != "zero_shot" else "",
            marker=style.marker,
            markersize=12 if method == "zero_shot" else 7,
            markeredgecolor="white",
            linewidth=1.7,
            label=style.label,
        )
        for (method, _), style in styles_of(cells).items()
    ]


def _note(cells: list[Cell]) -> str:
    """What the picture's signs mean, as far as it has them."""
    trained = [cell for cell in cells if cell.lr is not None]
    seeds = max(len(cell.records) for cell in cells)
    note = [f"Mean of {seeds} seeds, bars ±1 standard deviation" if seeds > 1 else "One seed"]
    rates = sorted({cell.lr for cell in trained if cell.lr is not None})
    if len(rates) > 1:
        note.append(f"larger markers: higher learning rate ({rate(rates[0])} to {rate(rates[-1])})")
    if any(cell.alpha is not None for cell in trained):
        note.append("small dots: alpha")
    if trained:
        note.append("ring: chosen by ID validation")
    return "; ".join(note) + "."
