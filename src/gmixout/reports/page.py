"""One HTML file with everything a run folder has to say; it needs no network to be read."""

import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from gmixout.evaluation.curves import compare_at_matched_id
from gmixout.evaluation.records import Record
from gmixout.evaluation.summary import Cell, Estimate
from gmixout.files import write_atomically
from gmixout.reports.style import Style, focus, paths_of, point_of, rate, styles_of, whole
from gmixout.reports.table import (
    COSTS,
    MATCHED_NOTE,
    SELECTION_NOTE,
    Row,
    number,
    percent,
    rows_of,
    seeds_note,
)

GREY = "#808080"


def save_page(records: Sequence[Record], config: str, path: str | os.PathLike[str]) -> Path:
    """Write `page`; an older file stays whole until the new one is complete."""
    path = Path(path)
    text = page(records, config)
    write_atomically(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
    return path


def page(records: Sequence[Record], config: str) -> str:
    """The report as one self-contained HTML document.

    Args:
        records: Records of one benchmark, at least one.
        config: Text of the run's `config.yaml`, shown as it is.
    """
    rows = rows_of(records)
    cells = [row.cell for row in rows]
    environment = Environment(
        loader=PackageLoader("gmixout", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bounds"] = _bounds
    return environment.get_template("page.html").render(
        benchmark=records[0].benchmark,
        figure=picture(rows).to_plotly_json(),
        views=[_view("Close-up", focus(cells)), _view("All models", whole(cells))],
        columns=_columns(rows),
        rows=rows,
        seeds=max(row.id.n for row in rows),
        comparison=compare_at_matched_id(records),
        styles=styles_of(cells),
        notes={"selection": SELECTION_NOTE, "matched": MATCHED_NOTE, "seeds": seeds_note},
        facts=_facts(records),
        config=config,
        plotly=get_plotlyjs(),
    )


def picture(rows: Sequence[Row]) -> go.Figure:
    """The ID-OOD picture: lines through means over seeds, with every single model around them."""
    cells = [row.cell for row in rows]
    styles = styles_of(cells)
    figure = go.Figure()
    # lines over alpha come first, so that their end points lie under the models they end at
    paths = sorted(paths_of(cells), key=lambda path: all(cell.alpha is None for cell in path[1]))
    named = set()
    for series, path in paths:
        trace = _line(path, styles, series)
        trace.update(showlegend=series not in named, legendrank=list(styles).index(series))
        named.add(series)
        figure.add_trace(trace)
    for series, style in styles.items():
        several = [c for c in cells if c.series == series and len(c.records) > 1]
        if several:
            figure.add_trace(_single_models(several, style))
    selected = [point_of(row.cell) for row in rows if row.selected]
    if selected:
        figure.add_scatter(
            x=[point.id for point in selected],
            y=[point.ood for point in selected],
            mode="markers",
            name="chosen by ID validation",
            marker={"symbol": "circle-open", "size": 19, "color": GREY, "line": {"width": 1.5}},
            hoverinfo="skip",
        )
    box = focus(cells)
    axis = {"ticksuffix": "%", "zeroline": False, "gridcolor": GREY, "automargin": True}
    figure.update_layout(
        template=None,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis={
            "title": {"text": "in-domain accuracy", "standoff": 8},
            "range": list(box.id),
            **axis,
        },
        yaxis={"title": {"text": "accuracy under shift, mean"}, "range": list(box.ood), **axis},
        legend={"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0},
        margin={"l": 56, "r": 8, "t": 30, "b": 8},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": GREY},
        hovermode="closest",
        hoverlabel={"align": "left"},
        dragmode=False,
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    return figure


def _line(
    path: Sequence[Cell], styles: dict[tuple[str, str], Style], series: tuple[str, str]
) -> go.Scatter:
    """A curve's means, with bars of one standard deviation where there are several seeds."""
    style = styles[series]
    points = [point_of(cell) for cell in path]
    bars = {}
    for axis, value in (("x", lambda r: r.id), ("y", lambda r: r.ood)):
        spread = [100 * (cell.estimate(value).sd or 0.0) for cell in path]
        if any(spread) and all(cell.alpha is None for cell in path):
            bars[f"error_{axis}"] = {"array": spread, "thickness": 1, "width": 0}
    return go.Scatter(
        x=[point.id for point in points],
        y=[point.ood for point in points],
        mode="lines+markers" if path[-1].lr is not None else "markers",
        name=html.escape(style.label),
        legendgroup=html.escape(style.label),
        line={"color": style.color, "dash": style.dash, "width": 2},
        marker={
            "symbol": style.symbol,
            "size": [14 if c.lr is None else 10 if c.alpha is None else 7 for c in path],
            "opacity": 1,
        },
        text=[_hover(cell, styles[cell.series]) for cell in path],
        hoverinfo="text",
        **bars,
    )


def _single_models(cells: Iterable[Cell], style: Style) -> go.Scatter:
    """The models of a curve one by one, faint."""
    pairs = [(cell, record) for cell in cells for record in cell.records]
    return go.Scatter(
        x=[100 * record.id for _, record in pairs],
        y=[100 * record.ood for _, record in pairs],
        mode="markers",
        legendgroup=html.escape(style.label),
        showlegend=False,
        marker={"symbol": style.symbol, "size": 5, "color": style.color, "opacity": 0.45},
        text=[_hover(_alone(cell, record), style) for cell, record in pairs],
        hoverinfo="text",
    )


def _alone(cell: Cell, record: Record) -> Cell:
    return Cell(cell.method, cell.variant, cell.lr, cell.alpha, (record,))


def _hover(cell: Cell, style: Style) -> str:
    """What the picture says about a point: the setting, the seeds, every single accuracy."""
    setting = [f"lr {rate(cell.lr)}"] if cell.lr is not None else []
    setting += [f"alpha {cell.alpha:g}"] if cell.alpha is not None else []
    seeds = [record.seed for record in cell.records]
    setting.append(f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of {len(seeds)} seeds")
    accuracies = {"ID": cell.estimate(lambda record: record.id)}
    accuracies["OOD"] = cell.estimate(lambda record: record.ood)
    accuracies["ID validation"] = cell.estimate(lambda record: record.id_val)
    for name in cell.records[0].accuracy:
        if name not in ("id_val", "id_test"):
            accuracies[name] = Estimate.of(record.accuracy[name] for record in cell.records)
    lines = [f"<b>{html.escape(style.label)}</b> · {', '.join(setting)}"]
    lines += [f"{html.escape(name)}: {percent(value)}" for name, value in accuracies.items()]
    return "<br>".join(lines)


def _view(name: str, box: Any) -> dict[str, Any]:
    return {"name": name, "x": list(box.id), "y": list(box.ood)}


@dataclass(frozen=True)
class Column:
    """A column of the page's table: its heading and, for each row, text, spread and sort key."""

    name: str
    entries: list[tuple[str, str, float]]


def _columns(rows: Sequence[Row]) -> list[Column]:
    """All columns after the method's name; empty ones are left out."""

    def estimated(name: str, estimates: Iterable[Estimate]) -> Column:
        entries = []
        for each in estimates:
            sd = "" if each.sd is None else f"±{100 * each.sd:.1f}"
            entries.append((percent(each, spread=False), sd, each.mean))
        return Column(name, entries)

    def plain(name: str, texts: Iterable[str]) -> Column:
        return Column(name, [(text, "", float(text) if text else -1.0) for text in texts])

    columns = [
        plain("lr", (rate(row.cell.lr) for row in rows)),
        plain("alpha", (number(row.cell.alpha, "g") for row in rows)),
        plain("n", (str(row.id.n) for row in rows)),
        estimated("ID %", (row.id for row in rows)),
        *(estimated(f"{group} %", (row.shift(group) for row in rows)) for group in rows[0].groups),
        estimated("OOD %", (row.ood for row in rows)),
        *(plain(name.replace("\n", " "), map(text, rows)) for name, text in COSTS.items()),
    ]
    return [column for column in columns if any(text for text, _, _ in column.entries)]


def _bounds(estimate: Estimate) -> str:
    """The 95% interval of a difference in points, or nothing for a single seed."""
    interval = estimate.interval()
    return "" if interval is None else f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def _facts(records: Sequence[Record]) -> dict[str, str]:
    """What was run, on what, when: each with all the values that occur."""

    def values(each: Iterable[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in each if value is not None)) or "none"

    trained = [record for record in records if record.steps > 0]
    times = sorted(record.time for record in records)
    names = dict.fromkeys(name for record in records for name in record.versions)
    return {
        "benchmark": values(record.benchmark for record in records),
        "models evaluated": str(len(records)),
        "training runs": str(len({record.run for record in trained})),
        "seeds": values(sorted({record.seed for record in records})),
        "steps of batch size": values(
            f"{record.steps} of {record.batch_size}" for record in trained
        ),
        "rate of the head": values(rate(record.head_lr) or None for record in trained),
        "parameters": values(f"{record.parameters:,}" for record in records),
        "evaluated": times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}",
        "device": values(f"{record.device}, {record.threads} threads" for record in records),
        **{name: values(record.versions.get(name) for record in records) for name in names},
        "git commit": values(record.git for record in records),
    }
