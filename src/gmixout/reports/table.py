"""Records as tables for the terminal: one row a method; the page has every setting."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmixout.evaluation.official import SUMMARIES
from gmixout.methods import REFERENCE
from gmixout.reports.across import across_summaries
from gmixout.reports.names import notes_of
from gmixout.reports.rows import Column, Row, columns_of, rows_of
from gmixout.reports.standings import (
    COST_KEYS,
    LEFT_OUT,
    NONE,
    SELECTION_NOTE,
    Standings,
    standings_of,
)
from gmixout.reports.style import rate
from gmixout.results.folder import RunFolder
from gmixout.results.statistics import Estimate
from gmixout.results.study import Study

FIRST = ("n", "id", "ood")
"""Figures that come first for the room of a terminal."""
SETTING_WIDTH = 18
"""Characters that the method (which may fill two lines), its rate and alpha take at least."""
WIDE = 110
"""Console columns from which on every spread has room."""


def print_tables(
    studies: Sequence[Study], console: Console | None = None, reference: str = REFERENCE
) -> None:
    """Where each method stands, and it against the reference, fitted to the console.

    Of several benchmarks: how it stands over all of them, and in each.
    """
    console = console or Console()
    if len(studies) > 1:
        tables = across_tables(studies, reference, console.width)
    else:
        matched = matched_table(studies[0], reference, console.width)
        tables = [results_table(studies[0], console.width), *([matched] if matched else [])]
    for table in tables:
        console.print(table)
        console.print()


def results_table(study: Study, width: int = 100) -> Table:
    """Return accuracies and costs of each method at the setting that ID validation chooses.

    Args:
        study: The models of one benchmark.
        width: Columns of the console; narrow ones show the spread of ID and OOD alone.
    """
    every = rows_of(study)
    rows = [row for row in every if row.selected]
    seeds = {len(row.setting.records) for row in rows if row.setting.trained} or {1}
    columns = _columns_for(rows, width, several=len(seeds) > 1)
    names = rows[0].names
    table = plain_table(f"{study.benchmark}: one row a method", width)
    table.add_column("method", min_width=11, overflow="fold")
    table.add_column("lr", justify="right", no_wrap=True)
    has_alpha = any(row.setting.alpha is not None for row in rows)
    if has_alpha:
        table.add_column("α", justify="right", no_wrap=True)  # noqa: RUF001 - a narrow heading
    for column in columns:
        # a unit of its own line keeps the column narrow
        heading = escape(column.heading).replace(" ", "\n")
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        alpha = [] if row.setting.alpha is None else [f"{row.setting.alpha:g}"]
        table.add_row(
            escape(row.label),
            rate(row.setting.lr),
            *((alpha or [""]) if has_alpha else []),
            *(_figure(column, row, width >= WIDE) for column in columns),
        )
    spread = "One seed, so no spread."
    if seeds != {1}:
        n = f"{min(seeds)} seeds" if len(seeds) == 1 else "n seeds"
        spread = f"Mean ± standard deviation over {n}."
    table.caption = "\n".join(
        [
            *(f"Note: {escape(note)}." for note in notes_of(study.records)),
            *([] if names.has_domains or not rows[0].groups else [f"OOD: {names.ood_note}."]),
            *(f"{each.heading}: {each.note}." for each in columns if each.key in SUMMARIES),
            SELECTION_NOTE,
            f"{spread} train: share of the values that get a gradient.",
            "mem: peak memory of training above the loaded model.",
            f"{RunFolder(Path()).page.name} shows all {len(every)} settings and all figures.",
        ]
    )
    return table


def _columns_for(rows: Sequence[Row], width: int, several: bool) -> list[Column]:
    """The figures that the console has room for; `several`: methods differ in seeds."""
    left_out = {*LEFT_OUT, *(() if several else ("n",))}
    if len(rows[0].groups) == 1:  # that is OOD
        left_out.add(f"shift {rows[0].groups[0]}")
    columns = [column for column in columns_of(rows) if column.key not in left_out]
    wide = width >= WIDE
    gap = 2 if wide else 1

    def needed(column: Column) -> int:
        figures = [_figure(column, row, wide) for row in rows]
        return max(map(len, [*column.heading.split(), *figures])) + gap

    room = width - SETTING_WIDTH - 3 * gap
    kept: list[Column] = []
    for rank, some in groupby(sorted(columns, key=_rank), key=_rank):
        every = list(some)
        # the shifts all or none, so that none seems to be missing
        for block in [every] if rank == _SHIFTS else [[column] for column in every]:
            if sum(map(needed, block)) <= room or rank == 0:
                kept += block
                room -= sum(map(needed, block))
    return [column for column in columns if column in kept]


_SHIFTS = 2


def _rank(column: Column) -> int:
    """The lower, the sooner a figure gets room."""
    if column.key in FIRST:
        return 0
    if column.key.startswith("shift "):
        return _SHIFTS
    if column.key in COST_KEYS:
        return 3
    return 5 if column.key == "ece_id" else 4 if column.is_further else 1


def _figure(column: Column, row: Row, every_spread: bool) -> str:
    spread = column.spread(row) if every_spread or column.key in ("id", "ood") else ""
    return column.text(row) + spread


def matched_table(study: Study, reference: str = REFERENCE, width: int = 100) -> Table | None:
    """Return OOD at matched ID of each method against a reference; None if there is none."""
    standings = standings_of(study, rows_of(study), reference)
    if not standings.compared:
        return None
    metric = standings.metric
    table = plain_table(f"OOD at matched ID {metric}, against {escape(standings.label)}", width)
    table.add_column("method", overflow="fold")
    table.add_column("at its own ID", justify="right", no_wrap=True)
    for level in standings.id_levels:
        table.add_column(f"at ID {100 * level:.1f}", justify="right", no_wrap=True)
    table.add_row(
        f"{escape(standings.label)}: OOD (%)",
        "",
        *(_percent(each) for each in standings.reference_ood),
        end_section=True,
    )
    for each in standings.compared:
        table.add_row(escape(each.row.label), *map(_difference, each.differences))
    table.caption = escape(" ".join([*standings.notes, _seeds_note(standings)]))
    return table


def across_tables(
    studies: Sequence[Study], reference: str = REFERENCE, width: int = 100
) -> list[Table]:
    """Return methods over several benchmarks: their means, and the difference in each."""
    tables = []
    for summary in across_summaries(studies, reference):
        table = plain_table(summary.title, width)
        for heading in summary.headings:
            table.add_column(escape(heading), justify="right" if table.columns else "left")
        for row in summary.rows:
            # an interval on a line of its own is not broken in two
            texts = [escape(entry.text.replace(" [", "\n[")) for entry in row]
            table.add_row(
                *(
                    f"[bold]{t}[/bold]" if e.significant else t
                    for e, t in zip(row, texts, strict=True)
                )
            )
        table.caption = escape(" ".join(summary.notes))
        tables.append(table)
    return tables


def _percent(estimate: Estimate) -> str:
    sd = "" if estimate.sd is None else f" ±{100 * estimate.sd:.1f}"
    return f"{100 * estimate.mean:.1f}{sd}"


def _difference(estimate: Estimate | None) -> str:
    """A difference in points with its spread and its number of seeds; bold if clear of noise."""
    if estimate is None:
        return NONE
    sd = f" ±{100 * estimate.sd:.1f}" if estimate.sd is not None else ""
    text = f"{100 * estimate.mean:+.1f}{sd} (n={estimate.n})"
    return f"[bold]{text}[/bold]" if estimate.significant else text


def _seeds_note(standings: Standings) -> str:
    if max(estimate.n for estimate in standings.reference_ood) == 1:
        return "One seed: there is no telling chance from effect."
    return (
        "±: the standard deviation over the n seeds that reach the level; bold: neither the "
        "bootstrap nor Student's t interval (95%) reaches 0."
    )


def plain_table(title: str, width: int) -> Table:
    """An empty table as all of ours look, for a console of so many columns."""
    return Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        padding=(0, 1 if width >= WIDE else 0, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
