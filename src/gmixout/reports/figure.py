"""The figures as image files: the ID-OOD plane, costs and sweeps."""

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

from gmixout.files import write_atomically
from gmixout.reports.rows import Row, columns_of, rows_of
from gmixout.reports.style import (
    MANY,
    Box,
    CurveStyle,
    ellipse_of,
    focus,
    paths_of,
    point_of,
    rate,
    styles_of,
    whole,
)
from gmixout.reports.sweeps import sweeps_of
from gmixout.results.statistics import Estimate
from gmixout.results.study import Series, Setting, Study

INK, SOFT, GRID = "#222222", "#666666", "#e4e4e4"
LIGHT = "#a6a6a6"
MANY_SETTINGS = 6
"""Number of settings of one method from which a legend does not name each."""
LINES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_COSTS = ("step_seconds", "peak_memory_bytes", "trainable_share")


def save_figure(draw: Callable[[], Figure], path: str | os.PathLike[str]) -> Path:
    """Save a figure atomically; equal records make equal files."""
    path = Path(path)
    kind = path.suffix.removeprefix(".")
    with mpl.rc_context({"svg.hashsalt": __name__}):
        figure = draw()
        # of all formats only PNG refuses to leave the date out
        metadata = {} if kind == "png" else {"CreationDate" if kind == "pdf" else "Date": None}
        write_atomically(
            path,
            lambda unfinished: figure.savefig(unfinished, format=kind, dpi=200, metadata=metadata),
        )
    return path


def id_ood_figure(study: Study) -> Figure:
    """Draw in-domain accuracy (the official metric) against its mean under shift.

    A marker is a setting's mean over seeds, in an ellipse of one standard deviation; it grows with
    the learning rate. A ring marks the choice of in-domain validation. If the zero-shot model or a
    collapsed run lies far off, a small plot on the left shows everything and the large one the
    part where the methods differ. With many methods, secondary ones are grey and named on the
    right.
    """
    rows = rows_of(study)
    settings = study.settings
    styles = styles_of(study)
    light = _light(styles)
    view = focus(settings)
    figure = Figure(figsize=(9.6, 5.6 if light else 4.9), layout="constrained", facecolor="white")
    names = rows[0].names
    if all(view.holds(point_of(setting)) for setting in settings):
        axes = [figure.subplots()]
        _detail(axes[0], rows, styles, light, view, "all models")
    else:
        axes = list(figure.subplots(1, 2, width_ratios=(1, 2.1)))
        _overview(axes[0], settings, styles, light, view, "all models")
        _detail(axes[1], rows, styles, light, view, "close-up of the box")
    for each in axes:
        each.set_xlabel(names.axis(names.in_domain), color=INK)
    axes[0].set_ylabel(names.axis(names.under_shift), color=INK)
    _legend(figure, _told_apart({s: style for s, style in styles.items() if s not in light}))
    # the name of a benchmark can be long, with its options and its model's
    note = f"{_plain(study.benchmark, 120)}\n{_note(settings)}"
    figure.supxlabel(note, fontsize=8.5, color=SOFT, x=0.01, ha="left")
    return figure


def cost_figure(study: Study) -> Figure:
    """Draw the OOD accuracy of each method's chosen setting against its cost.

    One plot each for step time, memory and trainable share, if measured; bars are one standard
    deviation over seeds.
    """
    rows = [row for row in rows_of(study) if row.selected and row.setting.trained]
    by_key = {column.key: column for column in columns_of(rows)} if rows else {}
    columns = [by_key[key] for key in _COSTS if key in by_key]
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
    names = rows[0].names
    every[0].set_ylabel(names.axis(names.under_shift), color=INK)
    _legend(figure, [row.style for row in rows], lines=False)
    better = "down" if names.official.lower else "up"
    chosen = "Each method at the setting that in-domain validation chooses"
    note = f"{chosen}; {better} and left is better."
    figure.supxlabel(note, fontsize=8.5, color=SOFT, x=0.01, ha="left")
    return figure


SWEPT = ("OOD", "ID")
"""Measures of `sweep_figure`."""


def sweep_figure(study: Study) -> Figure:
    """Draw the official metric over every option, or pair of options, that a method's runs vary.

    One row per measure of `SWEPT`. For each combination of options in-domain validation chooses the
    learning rate. A cell is the median over combinations with its two values; a dot of a line is
    one combination's mean over seeds. Of several methods the one with the most options is shown.

    Args:
        study: A study with a method whose options vary.
    """
    rows = rows_of(study)
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
    """Draw a heat map over two options."""
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
    """Draw means over one option, with their intervals."""
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
    ood: Estimate = row.estimate(lambda record: row.names.scale * record.ood)
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


def _light(styles: dict[Series, CurveStyle]) -> dict[Series, CurveStyle]:
    """Return the curves that are drawn grey."""
    if len(styles) <= MANY or not any(style.main for style in styles.values()):
        return {}
    return {series: style for series, style in styles.items() if not style.main}


def _overview(
    axes: Axes,
    settings: list[Setting],
    styles: dict[Series, CurveStyle],
    light: Iterable[Series],
    view: Box,
    title: str,
) -> None:
    """Draw all models in the small plot, with a box around the close-up."""
    _draw(axes, settings, styles, light, size=0.55)
    _frame(axes, whole(settings), title)
    corner = (view.id[0], view.ood[0])
    width, height = view.id[1] - view.id[0], view.ood[1] - view.ood[0]
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=SOFT, linewidth=0.9))


def _detail(
    axes: Axes,
    rows: list[Row],
    styles: dict[Series, CurveStyle],
    light: dict[Series, CurveStyle],
    view: Box,
    title: str,
) -> None:
    """Draw the part where the methods differ, with spread and selection."""
    settings = [row.setting for row in rows]
    _draw(axes, settings, styles, light, size=1.0)
    for setting in settings:
        outline = ellipse_of(setting)
        if outline and setting.alpha is None and setting.series not in light:
            color = styles[setting.series].color
            axes.add_patch(Polygon(outline, facecolor=color, edgecolor="none", alpha=0.18))
    for row in rows:
        if row.selected and row.setting.trained and row.setting.series not in light:
            axes.plot(*point_of(row.setting), "o", ms=15, mfc="none", mec=INK, mew=0.9, zorder=5)
    _frame(axes, view, title)
    chosen = [row for row in rows if row.selected and row.setting.series in light]
    _name_beside(axes, [row for row in chosen if view.holds(point_of(row.setting))], view)


def _draw(
    axes: Axes,
    settings: list[Setting],
    styles: dict[Series, CurveStyle],
    light: Iterable[Series],
    size: float,
) -> None:
    """Draw lines and markers of every curve; markers grow with the learning rate."""
    for series, path in paths_of(settings):
        x, y = zip(*map(point_of, path), strict=True)
        style = styles[series]
        is_light = series in light
        many = any(setting.alpha is not None for setting in path)
        axes.plot(
            x,
            y,
            LINES[style.dash],
            color=LIGHT if is_light else style.color,
            linewidth=(0.8 if is_light or many else 1.7) * size**0.5,
            zorder=1 if is_light else 2,
        )
    rates = sorted({setting.lr for setting in settings if setting.lr is not None})
    for setting in settings:
        style = styles[setting.series]
        is_light = setting.series in light
        if not setting.trained:
            diameter = 14.0
        elif setting.alpha is not None:
            diameter = 4.5
        elif setting.lr is None:
            diameter = 9.0
        else:
            diameter = 6 + 4 * rates.index(setting.lr) / max(len(rates) - 1, 1)
        axes.plot(
            *point_of(setting),
            style.marker,
            color=LIGHT if is_light else style.color,
            markersize=diameter * size * (0.6 if is_light else 1.0),
            markeredgecolor="white",
            markeredgewidth=0.7 * size,
            zorder=1.5 if is_light else 3 if setting.alpha is None else 2.5,
        )


def _name_beside(axes: Axes, rows: list[Row], view: Box) -> None:
    """Write names on the right, each with a thin line to its point, without overlaps."""
    height = view.ood[1] - view.ood[0]
    rows = sorted(rows, key=lambda row: point_of(row.setting).ood)
    gap, places = 0.045 * height, list[float]()
    for row in rows:
        wanted = point_of(row.setting).ood
        places.append(max(wanted, places[-1] + gap) if places else wanted)
    # names pushed over the top edge push the others down again
    limit = view.ood[1] - gap / 2
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    for row, place in zip(rows, places, strict=True):
        axes.annotate(
            _plain(row.label),
            xy=point_of(row.setting),
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
    """Give axes the style of all our figures."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(GRID)


def _told_apart(styles: dict[Series, CurveStyle]) -> list[CurveStyle]:
    """Return the entries of a legend: one per curve, or one for a method with many settings."""
    variants = Counter(method for method, _ in styles)
    entries: dict[Series, CurveStyle] = {}
    for (method, variant), style in styles.items():
        if variants[method] > MANY_SETTINGS:
            label = f"{style.label}, {variants[method]} settings"
            every = replace(style, label=label, variant="")
            entries.setdefault((method, ""), every)
        else:
            entries[method, variant] = style
    return list(entries.values())


def _legend(figure: Figure, styles: Sequence[CurveStyle], lines: bool = True) -> None:
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
            label=_plain(style.name),
        )
        for style in styles
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=3 if any(len(style.name) > 24 for style in styles) else 6,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handletextpad=0.5,
        columnspacing=1.2,
    )


def _plain(text: str, longest: int = 44) -> str:
    """Return the text, shortened, with matplotlib's mathematics escaped."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return short.replace("$", r"\$")


def _note(settings: list[Setting]) -> str:
    """Return a note on the symbols in the figure."""
    trained = [setting for setting in settings if setting.trained]
    seeds = max(len(setting.records) for setting in settings)
    many = f"Mean of {seeds} seeds, ellipses of 1 standard deviation"
    note = [many if seeds > 1 else "One seed"]
    rates = sorted({setting.lr for setting in trained if setting.lr is not None})
    if len(rates) > 1:
        note.append(f"larger markers: higher learning rate ({rate(rates[0])} to {rate(rates[-1])})")
    if any(setting.alpha is not None for setting in trained):
        note.append("small dots: alpha")
    if trained:
        note.append("ring: chosen by ID validation")
    return "; ".join(note) + "."
