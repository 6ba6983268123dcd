"""Records as tables for the terminal: one row a method; the page has every setting."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmixout.evaluation.records import Record
from gmixout.evaluation.summary import Estimate
from gmixout.reports.rows import (
    DASH_NOTE,
    MATCHED_NOTE,
    NONE,
    OWN_NOTE,
    SELECTION_NOTE,
    Column,
    Row,
    Standings,
    columns_of,
    rows_of,
    standings_of,
)
from gmixout.reports.style import rate

KEYS = ("n", "id", "ood", "worst", "ece_id", "trainable_share", "step_seconds", "peak_memory_bytes")
"""Figures that a terminal has room for, besides the shifts; the page has all."""
WIDE = 110
"""Console columns from which on every spread has room."""


def print_tables(
    records: Sequence[Record], console: Console | None = None, reference: str = "full"
) -> None:
    """Where each method stands, and it against the reference, fitted to the console."""
    console = console or Console()
    for table in (
        results_table(records, console.width),
        matched_table(records, reference, console.width),
    ):
        if table is not None:
            console.print(table)
            console.print()


def results_table(records: Sequence[Record], width: int = 100) -> Table:
    """Accuracies and costs of each method at the setting that ID validation chooses.

    Args:
        records: Records of one benchmark.
        width: Columns of the console; narrow ones show the spread of ID and OOD alone.
    """
    every = rows_of(records)
    rows = [row for row in every if row.selected]
    seeds = {len(row.cell.records) for row in rows if row.cell.records[0].steps > 0} or {1}
    columns = [
        column
        for column in columns_of(rows)
        if (column.key in KEYS or column.key.startswith("shift "))
        and (column.key != "n" or len(seeds) > 1)
        and (column.key != "ece_id" or width >= WIDE)
    ]
    table = _table(f"{records[0].benchmark}: one row a method", width)
    table.add_column("method", min_width=11)
    table.add_column("lr", justify="right", no_wrap=True)
    has_alpha = any(row.cell.alpha is not None for row in rows)
    if has_alpha:
        table.add_column("α", justify="right", no_wrap=True)  # noqa: RUF001 - a narrow heading
    for column in columns:
        # a unit of its own line keeps the column narrow
        heading = escape(column.heading).replace(" ", "\n")
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        alpha = [] if row.cell.alpha is None else [f"{row.cell.alpha:g}"]
        table.add_row(
            escape(row.label),
            rate(row.cell.lr),
            *((alpha or [""]) if has_alpha else []),
            *(_figure(column, row, width >= WIDE) for column in columns),
        )
    spread = "One seed, so no spread."
    if seeds != {1}:
        n = f"{min(seeds)} seeds" if len(seeds) == 1 else "n seeds"
        spread = f"Mean ± standard deviation over {n}."
    table.caption = "\n".join(
        [
            SELECTION_NOTE,
            f"{spread} train: share of the values that get a gradient.",
            "mem: peak memory of training above the loaded model.",
            f"report.html shows all {len(every)} settings and all figures.",
        ]
    )
    return table


def _figure(column: Column, row: Row, every_spread: bool) -> str:
    spread = column.spread(row) if every_spread or column.key in ("id", "ood") else ""
    return column.text(row) + spread


def matched_table(
    records: Sequence[Record], reference: str = "full", width: int = 100
) -> Table | None:
    """OOD at matched ID of each method against a reference; None where there is none to show."""
    standings = standings_of(records, reference, rows_of(records))
    if not standings.compared:
        return None
    table = _table(f"OOD at matched ID accuracy, against {escape(standings.label)}", width)
    table.add_column("method")
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
    notes = [note.replace("{reference}", standings.label) for note in (MATCHED_NOTE, OWN_NOTE)]
    table.caption = escape(" ".join([*notes, DASH_NOTE, _seeds_note(standings)]))
    return table


def _percent(estimate: Estimate) -> str:
    sd = "" if estimate.sd is None else f" ±{100 * estimate.sd:.1f}"
    return f"{100 * estimate.mean:.1f}{sd}"


def _difference(estimate: Estimate | None) -> str:
    """A difference in points with its spread and its number of seeds; bold if clear of noise."""
    if estimate is None:
        return NONE
    sd = f" ±{100 * estimate.sd:.1f}" if estimate.sd is not None else ""
    text = f"{100 * estimate.mean:+.1f}{sd} (n={estimate.n})"
    return f"[bold]{text}[/bold]" if estimate.clear else text


def _seeds_note(standings: Standings) -> str:
    if max(estimate.n for estimate in standings.reference_ood) == 1:
        return "One seed: there is no telling chance from effect."
    return (
        "±: the standard deviation over the n seeds that reach the level; bold: neither the "
        "bootstrap nor Student's t interval (95%) reaches 0."
    )


def _table(title: str, width: int) -> Table:
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
