"""The report page: one self-contained HTML file that works offline.

`page.html` is the document, `panels` holds its sections, `data.py` computes what the plots show,
and the scripts draw it: `state.js` keeps what the reader chose, `tables.js` sorts and filters,
`plots.js` holds a function for every plot.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from gmixout.methods import REFERENCE
from gmixout.reports.names import notes_of, title_of
from gmixout.reports.page.data import page_data, switch_numbers, switches_of
from gmixout.reports.rows import Column, Row, columns_of, rows_of
from gmixout.reports.standings import NOISE_NOTE, Standings, interval_text, standings_of
from gmixout.reports.style import SYMBOLS, rate
from gmixout.reports.templates import filled
from gmixout.results.record import Record
from gmixout.results.selection import RULES
from gmixout.results.statistics import Estimate
from gmixout.results.study import Study

SCRIPTS = ("state.js", "tables.js", "plots.js")
PANELS = ("plane", "table", "matched", "cost", "learning", "sweep", "facts")
"""The sections of the page in their order, each a file in `panels`."""
REFRESH_SECONDS = 20


def page(
    study: Study,
    configs: Mapping[str, str],
    reference: str = REFERENCE,
    running: str | None = None,
) -> str:
    """Return the report as one self-contained HTML document.

    Args:
        study: The models of one benchmark.
        configs: Text of the `config.yaml` of each run folder by the folder's name, shown verbatim.
        reference: The initial method to compare with; the reader can choose others.
        running: Progress of a comparison that is still running ("12 of 60 runs"): the page shows
            it and reloads itself. It then offers only one reference, to be fast.
    """
    rows = rows_of(study)
    columns = columns_of(rows)
    standings = _comparisons(study, rows, reference, only=running is not None)
    return filled(
        "page.html",
        {"interval": interval_text},
        study=study,
        panels=PANELS,
        benchmark=study.benchmark,
        running=running,
        refresh=REFRESH_SECONDS,
        summary=_summary(rows),
        seeds=max(len(row.setting.records) for row in rows),
        columns=[_rendered(column, rows) for column in columns],
        rows=rows,
        rate=rate,
        has_alpha=any(row.setting.alpha is not None for row in rows),
        groups=switch_numbers(rows),
        switches=switches_of(rows),
        standings=standings,
        rules=RULES.values(),
        names=rows[0].names,
        notes=notes_of(study.records),
        noise_note=NOISE_NOTE,
        symbols=SYMBOLS,
        glyphs=GLYPHS,
        dashes=SVG_DASHES,
        facts=_facts(study.records),
        configs=configs,
        data=page_data(study, rows, columns, standings),
        style=_asset("page.css"),
        scripts="\n".join(map(_asset, SCRIPTS)),
        plotly=get_plotlyjs(),
    )


def _asset(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _comparisons(study: Study, rows: Sequence[Row], reference: str, only: bool) -> list[Standings]:
    """Return the comparisons with every possible reference; `reference` first."""
    methods = dict.fromkeys([reference, *(row.setting.method for row in rows)])
    every = (standings_of(study, rows, name) for name in ([reference] if only else methods))
    return [each for each in every if each.compared]


def _rendered(column: Column, rows: Sequence[Row]) -> dict[str, Any]:
    """Return a column of the page: its heading and, per row, text, spread and sort key."""

    def key(row: Row) -> float | None:
        value = column.value(row)
        return value.mean if isinstance(value, Estimate) else value

    return {
        "heading": column.heading,
        "note": column.note,
        "entries": [(column.text(row), column.spread(row), key(row)) for row in rows],
    }


def _summary(rows: Sequence[Row]) -> str:
    """Return the evidence behind the page, in one line."""
    counts = {
        "method": len({row.setting.method for row in rows}),
        "setting": len(rows),
        "seed": len({record.seed for row in rows for record in row.setting.records}),
        "model": sum(len(row.setting.records) for row in rows),
    }
    return ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items())


def _facts(records: Sequence[Record]) -> dict[str, str]:
    """Return facts on the runs, each with all values that occur."""

    def values(each: Iterable[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in each if value is not None)) or "none"

    trained = [(record.run, record.training) for record in records if record.training]
    runs = [training for _, training in trained]
    machines = [record.machine for record in records]
    times = sorted(record.time for record in records)
    names = dict.fromkeys(name for machine in machines for name in machine.versions)
    return {
        "benchmark": values(record.benchmark.name for record in records),
        "official metric": values(title_of(record.benchmark.metric) for record in records),
        "evaluations": str(len(records)),
        "training runs": str(len({run for run, _ in trained})),
        "seeds": values(sorted({record.seed for record in records})),
        "steps of batch size": values(f"{run.steps} of {run.batch_size}" for run in runs),
        "learning rates": values(
            rate(lr) for lr in sorted({run.lr for run in runs if run.lr is not None})
        ),
        "learning rate of the head": values(rate(run.head_lr) or "as the rest" for run in runs),
        "images": values(
            ", ".join(f"{name} {each.examples}" for name, each in record.scores.items())
            for record in records
        ),
        "parameters": values(f"{record.parameters:,}" for record in records),
        "evaluated": times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}",
        "device": values(f"{each.device}, {each.threads} threads" for each in machines),
        **{name: values(each.versions.get(name) for each in machines) for name in names},
        "git commit": values(each.git for each in machines),
    }


SVG_DASHES = {"solid": "", "dash": "5 3", "dot": "1.5 3", "dashdot": "6 2.5 1.5 2.5"}
"""Plotly's dashes as SVG's."""
GLYPHS = {
    "circle": "M13 2a4 4 0 1 0 .001 0z",
    "square": "M9.3 2.3h7.4v7.4h-7.4z",
    "diamond": "M13 1l5 5-5 5-5-5z",
    "diamond-tall": "M13 0.5l3.4 5.5-3.4 5.5-3.4-5.5z",
    "triangle-up": "M13 1.2l4.8 8.6h-9.6z",
    "triangle-down": "M13 10.8l4.8-8.6h-9.6z",
    "triangle-left": "M8.2 6l8.6-4.8v9.6z",
    "triangle-right": "M17.8 6l-8.6-4.8v9.6z",
    "pentagon": "M13 1.2l4.8 3.5-1.8 5.6h-6l-1.8-5.6z",
    "hexagon": "M13 1l4.4 2.5v5l-4.4 2.5-4.4-2.5v-5z",
    "star": "M13 0l1.5 4.2h4.5l-3.6 2.7 1.3 4.3-3.7-2.6-3.7 2.6 1.3-4.3-3.6-2.7h4.5z",
    "x": "M10 1.5l3 3 3-3 1.5 1.5-3 3 3 3-1.5 1.5-3-3-3 3-1.5-1.5 3-3-3-3z",
    "cross": "M11.5 1.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
}
"""Plotly's markers as SVG paths on a canvas of 26 by 12."""
