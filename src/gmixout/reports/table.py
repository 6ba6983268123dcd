"""Records as tables for the terminal, and the rows and words that the page shares with them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from gmixout.evaluation.curves import MatchedComparison, compare_at_matched_id
from gmixout.evaluation.records import Record
from gmixout.evaluation.summary import (
    Cell,
    Estimate,
    by_series,
    select_by_id_validation,
    summarise,
)
from gmixout.reports.style import rate, styles_of

SELECTION_NOTE = (
    "the setting that in-domain validation (id_val, mean over seeds) selects for its method; "
    "no test set and no shift had a say."
)
MATCHED_NOTE = (
    "OOD accuracy at equal ID accuracy, interpolated along each method's ID-OOD front, minus that "
    "of the method in the first row with the same seed, in points. A dash: the method has no "
    "models on both sides of that ID level, and nothing is extrapolated."
)
MAX_ALPHAS = 4
"""Alphas of a WiSE-FT line that the terminal shows; the page shows all."""
WIDE = 90
"""Console columns from which on every spread has room."""


@dataclass(frozen=True)
class Row:
    """One setting of one method."""

    label: str
    cell: Cell
    selected: bool
    """Whether in-domain validation selects it for its method."""

    @property
    def groups(self) -> list[str]:
        """Names of the shift groups."""
        return list(self.cell.records[0].shifts)

    @property
    def id(self) -> Estimate:
        """ID test accuracy."""
        return self.cell.estimate(lambda record: record.id)

    @property
    def ood(self) -> Estimate:
        """Mean accuracy over the shift groups."""
        return self.cell.estimate(lambda record: record.ood)

    def shift(self, group: str) -> Estimate:
        """Accuracy on one shift group."""
        return self.cell.estimate(lambda record: record.shifts[group])

    @property
    def trainable_share(self) -> float:
        """Share of the parameters that got a gradient in a step."""
        return self.cell.records[0].trainable / self.cell.records[0].parameters

    def cost(self, value: Callable[[Record], float | None]) -> float | None:
        """Median over seeds of a cost, None where it was not measured or nothing was trained."""
        known = [v for record in self.cell.records if (v := value(record)) is not None]
        return median(known) if known and self.cell.records[0].steps > 0 else None


def share(row: Row) -> str:
    """Trainable share in per cent, with a decimal where it is small."""
    value = 100 * row.trainable_share
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:.0f}"


COSTS: dict[str, Callable[[Row], str]] = {
    "train\n%": share,
    "time\ns": lambda row: number(row.cost(lambda record: record.seconds), ".1f"),
    "step\nms": lambda row: number(row.cost(lambda r: _scaled(r.step_seconds, 1e3)), ".1f"),
    "mem\nMB": lambda row: number(row.cost(lambda r: _scaled(r.peak_memory_bytes, 1e-6)), ".0f"),
}


def _shift(row: Row, group: str, spread: bool) -> str:
    return percent(row.shift(group), spread)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Every setting of every method, with the selected ones marked."""
    cells = summarise(records)
    styles = styles_of(cells)
    selected = {
        id(select_by_id_validation(each)) for each in by_series(cells).values() if len(each) > 1
    }
    return [Row(styles[cell.series].label, cell, id(cell) in selected) for cell in cells]


def results_table(records: Sequence[Record], width: int = 100) -> Table:
    """The main table: accuracies and costs of every setting.

    Args:
        records: Records of one benchmark.
        width: Columns of the console; narrow ones show the spread of ID and OOD alone.
    """
    every = rows_of(records)
    rows = _readable(every)
    seeds = {row.id.n for row in rows if row.cell.lr is not None} or {1}
    columns: dict[str, Callable[[Row], str]] = {"lr": lambda row: rate(row.cell.lr)}
    if any(row.cell.alpha is not None for row in rows):
        columns["α"] = lambda row: number(row.cell.alpha, "g")  # noqa: RUF001 - a narrow heading
    if len(seeds) > 1:
        columns["n"] = lambda row: str(row.id.n)
    columns["ID"] = lambda row: percent(row.id)
    for group in rows[0].groups:
        columns[group] = partial(_shift, group=group, spread=width >= WIDE)
    columns["OOD"] = lambda row: percent(row.ood)
    columns |= COSTS
    table = _table(f"{records[0].benchmark}: accuracy in % and cost", width)
    table.add_column("", no_wrap=True, min_width=1)
    table.add_column("method", min_width=10)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for before, row, after in zip([None, *rows], rows, [*rows[1:], None], strict=False):
        first = before is None or before.cell.series != row.cell.series
        table.add_row(
            "*" if row.selected else "",
            row.label if first else "",
            *(value(row) for value in columns.values()),
            style="bold" if row.selected else "",
            end_section=after is None or after.cell.series != row.cell.series,
        )
    table.caption = _caption(rows, len(every), seeds)
    return table


def matched_table(records: Sequence[Record], reference: str = "full") -> Table | None:
    """OOD at matched ID of each method against a reference; None where that was not run."""
    comparison = compare_at_matched_id(records, reference)
    if comparison is None or not comparison.differences:
        return None
    styles = styles_of(summarise(records))
    label = next(style.label for (method, _), style in styles.items() if method == reference)
    table = _table(f"OOD at matched ID accuracy, against {label}", WIDE)
    table.add_column("method")
    for level in comparison.id_levels:
        table.add_column(f"at ID {100 * level:.1f}", justify="right", no_wrap=True)
    table.add_row(f"{label}: OOD (%)", *map(percent, comparison.reference_ood), end_section=True)
    for series, estimates in comparison.differences.items():
        table.add_row(styles[series].label, *(difference(each) for each in estimates))
    table.caption = f"{MATCHED_NOTE} {seeds_note(comparison)}"
    return table


def print_tables(
    records: Sequence[Record], console: Console | None = None, reference: str = "full"
) -> None:
    """Both tables, fitted to the console."""
    console = console or Console()
    for table in (results_table(records, console.width), matched_table(records, reference)):
        if table is not None:
            console.print(table)
            console.print()


def percent(estimate: Estimate, spread: bool = True) -> str:
    """A fraction in per cent, with its spread where there is one."""
    sd = f"±{100 * estimate.sd:.1f}" if spread and estimate.sd is not None else ""
    return f"{100 * estimate.mean:.1f}{sd}"


def difference(estimate: Estimate | None) -> str:
    """A difference in points with its spread and its number of seeds."""
    if estimate is None:
        return "-"
    sd = f" ±{100 * estimate.sd:.1f}" if estimate.sd is not None else ""
    return f"{100 * estimate.mean:+.1f}{sd} (n={estimate.n})"


def number(value: float | None, form: str) -> str:
    """A number, or nothing where there is none."""
    return "" if value is None else format(value, form)


def seeds_note(comparison: MatchedComparison) -> str:
    """How many seeds a comparison rests on."""
    most = max(estimate.n for estimate in comparison.reference_ood)
    if most == 1:
        return "One seed: there is no telling chance from effect."
    return "±: the standard deviation over the n seeds that reach the level."


def _table(title: str, width: int) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        padding=(0, 1 if width >= WIDE else 0, 0, 0),
        pad_edge=False,
        show_edge=False,
    )


def _readable(rows: Iterable[Row]) -> list[Row]:
    """The rows without most of WiSE-FT's alphas: a few spread evenly, and the selected one."""
    lines: dict[tuple[tuple[str, str], float | None], list[Row]] = {}
    for row in rows:
        lines.setdefault((row.cell.series, row.cell.lr), []).append(row)
    shown = []
    for line in lines.values():
        step = (len(line) - 1) / (MAX_ALPHAS - 1)
        kept = {round(step * i) for i in range(MAX_ALPHAS)}
        shown += [row for index, row in enumerate(line) if index in kept or row.selected]
    return shown


def _caption(rows: Sequence[Row], settings: int, seeds: set[int]) -> str:
    lines = []
    if any(row.selected for row in rows):
        lines.append("* " + SELECTION_NOTE)
    if seeds == {1}:
        spread = "One seed, so no spread."
    else:
        n = f"{min(seeds)} seeds" if len(seeds) == 1 else "n seeds"
        spread = f"Mean ± standard deviation over {n}."
    lines.append(f"OOD: mean over the shift groups. {spread}")
    lines.append(
        "train: share of the values that get a gradient. mem: peak above the loaded model."
    )
    if len(rows) < settings:
        lines.append(f"{len(rows)} of {settings} settings; report.html shows all.")
    return "\n".join(lines)
