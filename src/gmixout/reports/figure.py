"""The pictures as images: the ID-OOD plane, and cost against robustness."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle

from gmixout.evaluation.records import Record
from gmixout.evaluation.summary import Cell, Estimate
from gmixout.files import write_atomically
from gmixout.reports.rows import Row, columns_of, rows_of
from gmixout.reports.style import (
    MANY,
    Box,
    Style,
    ellipse_of,
    focus,
    is_trained,
    paths_of,
    point_of,
    rate,
    styles_of,
    whole,
)
from gmixout.reports.sweeps import sweeps_of

INK, SOFT, GRID = "#222222", "#666666", "#e4e4e4"
LIGHT = "#a6a6a6"
MANY_SETTINGS = 6
"""Settings of one method from which on a legend does not name each."""
LINES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
COSTS = ("step_seconds", "peak_memory_bytes", "trainable_share")


def save_figure(draw: Callable[[], Figure], path: str | os.PathLike[str]) -> Path:
    """An older file stays whole until the new one is; equal records make equal files."""
    path = Path(path)
    kind = path.suffix.removeprefix(".")
    with mpl.rc_context({"svg.hashsalt": "gmixout"}):
        figure = draw()
        # of all formats PNG alone would refuse to leave the date out
        metadata = {} if kind == "png" else {"CreationDate" if kind == "pdf" else "Date": None}
        write_atomically(
            path,
            lambda unfinished: figure.savefig(unfinished, format=kind, dpi=200, metadata=metadata),
        )
    return path


def id_ood_figure(records: Sequence[Record]) -> Figure:
    """In-domain accuracy (the official metric, that is) against its mean under shift.

    A marker is a setting's mean over seeds, in an ellipse of one standard deviation; it grows with
    the learning rate. A ring marks what in-domain validation chooses. Where the zero-shot model or
    a collapsed run lies far off, a small plot on the left shows everything and the large one the
    part where the methods differ. Of many methods those that a reader looks for second are grey
    and named at the right-hand side.
    """
    rows = rows_of(records)
    cells = [row.cell for row in rows]
    styles = styles_of(cells)
    light = _light(styles)
    view = focus(cells)
    figure = Figure(figsize=(9.6, 5.6 if light else 4.9), layout="constrained", facecolor="white")
    names = rows[0].names
    if all(view.holds(point_of(cell)) for cell in cells):
        axes = [figure.subplots()]
        _detail(axes[0], rows, styles, light, view, "all models")
    else:
        axes = list(figure.subplots(1, 2, width_ratios=(1, 2.1)))
        _overview(axes[0], cells, styles, light, view, "all models")
        _detail(axes[1], rows, styles, light, view, "close-up of the box")
    for each in axes:
        each.set_xlabel(f"{names.in_domain} (%)", color=INK)
    axes[0].set_ylabel(f"{names.under_shift} (%)", color=INK)
    _legend(figure, _told_apart({s: style for s, style in styles.items() if s not in light}))
    # the name of a benchmark can be as long as its options and its model's
    note = f"{_plain(cells[0].records[0].benchmark, 120)}\n{_note(cells)}"
    figure.supxlabel(note, fontsize=8.5, color=SOFT, x=0.01, ha="left")
    return figure


def cost_figure(records: Sequence[Record]) -> Figure:
    """What each method's chosen setting reaches under shift against what it costs.

    One plot each for step time, memory and trainable share, as far as they were measured; bars are
    one standard deviation over seeds.
    """
    rows = [row for row in rows_of(records) if row.selected and is_trained(row.cell)]
    by_key = {column.key: column for column in columns_of(rows)} if rows else {}
    columns = [by_key[key] for key in COSTS if key in by_key]
    figure = Figure(figsize=(9.6, 4.4), layout="constrained", facecolor="white")
    if not columns:
        figure.text(0.5, 0.5, "nothing was trained, so nothing was paid", ha="center", color=SOFT)
        return figure
    every = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(every, columns, strict=True):
        for row in rows:
            cost = column.value(row)
            if isinstance(cost, float | int):
                _mark(axes, column.scale * cost, row)
        axes.set_xlim(0, 1.06 * axes.get_xlim()[1])
        axes.set_xlabel(_plain(column.heading), color=INK)
        decorate(axes)
    every[0].set_ylabel(f"{rows[0].names.under_shift} (%)", color=INK)
    _legend(figure, [row.style for row in rows], lines=False)
    note = "Each method at the setting that in-domain validation chooses; up and left is better."
    figure.supxlabel(note, fontsize=8.5, color=SOFT, x=0.01, ha="left")
    return figure


SWEPT = ("OOD", "ID")
"""What `sweep_figure` shows of a sweep: official figures."""


def sweep_figure(records: Sequence[Record]) -> Figure:
    """The official figure over every option, or pair of options, in which a method's runs differ.

    A row for each measure of `SWEPT`. For each combination of options in-domain validation chooses
    the learning rate; a field is the median over combinations with its two values, a dot of a line
    one combination's mean over seeds. Of several methods the one with the most options is shown.

    Args:
        records: Records with a method of which some option varies.
    """
    rows = rows_of(records)
    sweep = max(sweeps_of(rows), key=lambda each: len(each["options"]))
    pairs = len(sweep["options"]) > 1
    plots = [plot for plot in sweep["plots"] if len(plot["options"]) == (2 if pairs else 1)]
    figure = Figure(figsize=(3.6 * len(plots) + 0.8, 6.4), layout="constrained", facecolor="white")
    every = figure.subplots(len(SWEPT), len(plots), squeeze=False)
    words = dict(sweep["options"])
    for measure, line in zip(map(rows[0].names.heading, SWEPT), every, strict=True):
        index = sweep["measures"].index(measure)
        for axes, plot in zip(line, plots, strict=True):
            labels = [words[name] for name in plot["options"]]
            draw = _field if pairs else _line
            draw(axes, plot, index, labels)
            axes.set_title(measure, loc="left", fontsize=9, color=SOFT)
    what = "median over all else that was varied" if pairs else "mean over seeds"
    note = f"{_plain(sweep['label'])}; the learning rate by in-domain validation; {what}."
    figure.supxlabel(note, fontsize=8.5, color=SOFT, x=0.01, ha="left")
    return figure


def _field(axes: Axes, plot: dict[str, Any], measure: int, labels: list[list[str]]) -> None:
    """A heat map over two options."""
    across, up = plot["options"]
    values = np.full((len(labels[1]), len(labels[0])), np.nan)
    for point in plot["points"]:
        x, y = point["at"]
        values[y, x] = point["median"][measure]
    axes.imshow(values, origin="lower", cmap="viridis", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "white" if value < middle else "black"
            axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(len(labels[0])), labels[0])
    axes.set_yticks(range(len(labels[1])), labels[1])
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    decorate(axes)
    axes.grid(visible=False)


def _line(axes: Axes, plot: dict[str, Any], measure: int, labels: list[list[str]]) -> None:
    """Means over one option, with their intervals."""
    places = [point["at"][0] for point in plot["points"]]
    means = [point["best"][measure] for point in plot["points"]]
    axes.plot(places, means, "o-", color="#D55E00", linewidth=1.7)
    for place, point in zip(places, plot["points"], strict=True):
        if bounds := point["bounds"][measure]:
            axes.plot([place, place], bounds, color="#D55E00", linewidth=1.1, alpha=0.5)
    axes.set_xticks(range(len(labels[0])), labels[0])
    axes.set_xlabel(plot["options"][0], color=INK)
    decorate(axes)


def _mark(axes: Axes, cost: float, row: Row) -> None:
    ood: Estimate = row.estimate(lambda record: 100 * record.ood)
    axes.errorbar(
        cost,
        ood.mean,
        yerr=ood.sd,
        fmt=row.style.marker,
        color=row.style.color,
        markersize=9,
        markeredgecolor="white",
        markeredgewidth=0.7,
        elinewidth=1.1,
    )


def _light(styles: dict[tuple[str, str], Style]) -> dict[tuple[str, str], Style]:
    """The curves that are drawn grey."""
    if len(styles) <= MANY or not any(style.main for style in styles.values()):
        return {}
    return {series: style for series, style in styles.items() if not style.main}


def _overview(
    axes: Axes,
    cells: list[Cell],
    styles: dict[tuple[str, str], Style],
    light: Iterable[tuple[str, str]],
    view: Box,
    title: str,
) -> None:
    """All models, small, with the part that the large plot shows."""
    _draw(axes, cells, styles, light, size=0.55)
    _frame(axes, whole(cells), title)
    corner = (view.id[0], view.ood[0])
    width, height = view.id[1] - view.id[0], view.ood[1] - view.ood[0]
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=SOFT, linewidth=0.9))


def _detail(
    axes: Axes,
    rows: list[Row],
    styles: dict[tuple[str, str], Style],
    light: dict[tuple[str, str], Style],
    view: Box,
    title: str,
) -> None:
    """The part where the methods differ, with spread and selection."""
    cells = [row.cell for row in rows]
    _draw(axes, cells, styles, light, size=1.0)
    for cell in cells:
        outline = ellipse_of(cell)
        if outline and cell.alpha is None and cell.series not in light:
            color = styles[cell.series].color
            axes.add_patch(Polygon(outline, facecolor=color, edgecolor="none", alpha=0.18))
    for row in rows:
        if row.selected and is_trained(row.cell) and row.cell.series not in light:
            axes.plot(*point_of(row.cell), "o", ms=15, mfc="none", mec=INK, mew=0.9, zorder=5)
    _frame(axes, view, title)
    chosen = [row for row in rows if row.selected and row.cell.series in light]
    _name_beside(axes, [row for row in chosen if view.holds(point_of(row.cell))], view)


def _draw(
    axes: Axes,
    cells: list[Cell],
    styles: dict[tuple[str, str], Style],
    light: Iterable[tuple[str, str]],
    size: float,
) -> None:
    """Lines and markers of every curve, the markers growing with the learning rate."""
    for series, path in paths_of(cells):
        x, y = zip(*map(point_of, path), strict=True)
        style = styles[series]
        is_light = series in light
        many = any(cell.alpha is not None for cell in path)
        axes.plot(
            x,
            y,
            LINES[style.dash],
            color=LIGHT if is_light else style.color,
            linewidth=(0.8 if is_light or many else 1.7) * size**0.5,
            zorder=1 if is_light else 2,
        )
    rates = sorted({cell.lr for cell in cells if cell.lr is not None})
    for cell in cells:
        style = styles[cell.series]
        is_light = cell.series in light
        if not is_trained(cell):
            diameter = 14.0
        elif cell.alpha is not None:
            diameter = 4.5
        elif cell.lr is None:
            diameter = 9.0
        else:
            diameter = 6 + 4 * rates.index(cell.lr) / max(len(rates) - 1, 1)
        axes.plot(
            *point_of(cell),
            style.marker,
            color=LIGHT if is_light else style.color,
            markersize=diameter * size * (0.6 if is_light else 1.0),
            markeredgecolor="white",
            markeredgewidth=0.7 * size,
            zorder=1.5 if is_light else 3 if cell.alpha is None else 2.5,
        )


def _name_beside(axes: Axes, rows: list[Row], view: Box) -> None:
    """Names at the right-hand side, each with a thin line to its point, none over another."""
    height = view.ood[1] - view.ood[0]
    rows = sorted(rows, key=lambda row: point_of(row.cell).ood)
    gap, places = 0.045 * height, list[float]()
    for row in rows:
        wanted = point_of(row.cell).ood
        places.append(max(wanted, places[-1] + gap) if places else wanted)
    # what was pushed over the top edge pushes the others down again
    limit = view.ood[1] - gap / 2
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    for row, place in zip(rows, places, strict=True):
        axes.annotate(
            _plain(row.label),
            xy=point_of(row.cell),
            xytext=(view.id[1] + 0.03 * (view.id[1] - view.id[0]), place),
            fontsize=7.5,
            color=SOFT,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": LIGHT, "linewidth": 0.5, "relpos": (0, 0.5)},
        )


def _frame(axes: Axes, box: Box, title: str) -> None:
    axes.set_xlim(*box.id)
    axes.set_ylim(*box.ood)
    axes.set_title(title, loc="left", fontsize=9, color=SOFT)
    decorate(axes)


def decorate(axes: Axes) -> None:
    """Gives axes the look of all our pictures."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(GRID)


def _told_apart(styles: dict[tuple[str, str], Style]) -> list[Style]:
    """The entries of a legend: one for all settings of a method of which nobody knows so many."""
    variants = Counter(method for method, _ in styles)
    entries: dict[tuple[str, str], Style] = {}
    for (method, variant), style in styles.items():
        if variants[method] > MANY_SETTINGS:
            label = style.label.removesuffix(f" ({variant})")
            every = replace(style, label=f"{label}, {variants[method]} settings")
            entries.setdefault((method, ""), every)
        else:
            entries[method, variant] = style
    return list(entries.values())


def _legend(figure: Figure, styles: Sequence[Style], lines: bool = True) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=style.color,
            linestyle=LINES[style.dash] if lines and style.marker != "*" else "",
            marker=style.marker,
            markersize=12 if style.marker == "*" else 7,
            markeredgecolor="white",
            linewidth=1.7,
            label=_plain(style.label),
        )
        for style in styles
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=3 if any(len(style.label) > 24 for style in styles) else 6,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handletextpad=0.5,
        columnspacing=1.2,
    )


def _plain(text: str, longest: int = 44) -> str:
    """The text, not too long, and without what matplotlib would read as mathematics."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return short.replace("$", r"\$")


def _note(cells: list[Cell]) -> str:
    """What the picture's signs mean, as far as it has them."""
    trained = [cell for cell in cells if is_trained(cell)]
    seeds = max(len(cell.records) for cell in cells)
    many = f"Mean of {seeds} seeds, ellipses of 1 standard deviation"
    note = [many if seeds > 1 else "One seed"]
    rates = sorted({cell.lr for cell in trained if cell.lr is not None})
    if len(rates) > 1:
        note.append(f"larger markers: higher learning rate ({rate(rates[0])} to {rate(rates[-1])})")
    if any(cell.alpha is not None for cell in trained):
        note.append("small dots: alpha")
    if trained:
        note.append("ring: chosen by ID validation")
    return "; ".join(note) + "."
