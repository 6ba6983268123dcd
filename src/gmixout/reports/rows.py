"""The one model behind every table: settings as rows, figures as columns.

The page, the terminal, CSV, Markdown and LaTeX differ in what they show of it and how; what a
figure is, what it is called and in which unit it is read stands here alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from gmixout.evaluation.curves import (
    MatchedComparison,
    against_reference_curve,
    compare_at_matched_id,
    effective_robustness,
    front_area,
)
from gmixout.evaluation.records import Record, by_group
from gmixout.evaluation.selection import RULES
from gmixout.evaluation.summary import Cell, Estimate, by_series, complete, summarise
from gmixout.reports.style import Style, in_order, is_trained, rate, styles_of


@dataclass(frozen=True)
class Row:
    """One setting of one method, over its seeds."""

    style: Style
    cell: Cell
    chosen_by: frozenset[str]
    """Names of the selection rules that choose this setting for its method."""
    front_area: Estimate | None
    """Of the method's whole front; on the row that ID validation chooses."""
    effective_robustness: Estimate | None
    """On the row that ID validation chooses."""

    @property
    def label(self) -> str:
        """What the method is called."""
        return self.style.label

    @property
    def selected(self) -> bool:
        """Whether in-domain validation chooses this setting for its method."""
        return "id_validation" in self.chosen_by

    @property
    def groups(self) -> list[str]:
        """Names of the shift groups."""
        return list(self.cell.records[0].shifts)

    def estimate(self, value: Callable[[Record], float]) -> Estimate:
        """Mean and spread of any figure of the records."""
        return self.cell.estimate(value)

    def cost(self, value: Callable[[Record], float | None]) -> float | None:
        """Median over seeds of a cost, None where it was not measured or nothing was trained."""
        known = [v for record in self.cell.records if (v := value(record)) is not None]
        return median(known) if known and is_trained(self.cell) else None


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Every finished setting of every method, by method, learning rate and alpha."""
    cells = in_order(summarise(records))
    styles = styles_of(cells)
    chosen: dict[int, set[str]] = {}
    for each in by_series(cells).values():
        for rule in RULES.values():
            chosen.setdefault(id(rule.choose(complete(each))), set()).add(rule.name)
    areas, robustness = front_area(records), effective_robustness(records)
    rows = []
    for cell in cells:
        rules = frozenset(chosen.get(id(cell), ()))
        selected = "id_validation" in rules
        area = areas.get(cell.series) if selected else None
        effective = robustness.get(cell.series) if selected else None
        rows.append(Row(styles[cell.series], cell, rules, area, effective))
    return rows


@dataclass(frozen=True)
class Column:
    """One figure of every row."""

    key: str
    """Its name in files, with its unit."""
    heading: str
    """Its name for people, with the unit they read it in."""
    value: Callable[[Row], Estimate | float | None]
    form: str = ".1f"
    """How people read it, as a format specification."""
    scale: float = 1.0
    """What people read is this times the value."""
    note: str = ""
    """What it is, where the heading does not say."""

    def text(self, row: Row) -> str:
        """The mean as people read it; nothing where there is none."""
        value = self.value(row)
        mean = value.mean if isinstance(value, Estimate) else value
        return "" if mean is None else format(self.scale * mean, self.form)

    def spread(self, row: Row) -> str:
        """The standard deviation as people read it, with its sign; nothing where there is none."""
        value = self.value(row)
        if not isinstance(value, Estimate) or value.sd is None:
            return ""
        return f"±{self.scale * value.sd:{self.form.lstrip('+')}}"


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The figures that at least one of the rows has."""
    percent = partial(Column, scale=100.0)
    columns = [
        Column("n", "n", lambda row: row.estimate(lambda r: r.id).n, "d", 1, "seeds"),
        percent("id", "ID %", lambda row: row.estimate(lambda r: r.id)),
        *(
            percent(f"shift {group}", f"{group} %", partial(_shift, group=group))
            for group in rows[0].groups
        ),
        percent(
            "ood",
            "OOD %",
            lambda row: row.estimate(lambda r: r.ood),
            note="mean over the shift groups",
        ),
        percent(
            "worst",
            "worst %",
            lambda row: row.estimate(lambda r: r.worst),
            note="the shift group that suffers most, seed by seed",
        ),
        percent(
            "ece_id",
            "ECE ID %",
            lambda row: row.estimate(lambda r: r.ece["id_test"]),
            note="expected calibration error: how far confidence is from accuracy",
        ),
        Column("seconds", "time s", lambda row: row.cost(lambda r: r.seconds)),
        Column(
            "step_seconds",
            "step ms",
            lambda row: row.cost(lambda r: r.step_seconds),
            scale=1e3,
            note="median time of an optimizer step",
        ),
        Column(
            "peak_memory_bytes",
            "mem MB",
            lambda row: row.cost(lambda r: r.peak_memory_bytes),
            scale=1e-6,
            note="peak memory of training above the loaded model",
        ),
        percent(
            "trainable_share",
            "train %",
            lambda row: row.cell.records[0].trainable / row.cell.records[0].parameters,
            note="share of the values that get a gradient in a step",
        ),
        percent(
            "front_area",
            "front area %",
            lambda row: row.front_area,
            note="share of the box of all fronts that the method's front dominates",
        ),
        percent(
            "effective_robustness",
            "eff. rob.",
            lambda row: row.effective_robustness,
            "+.1f",
            note="OOD above what a line through the baselines predicts from ID, in points",
        ),
        percent("ece_ood", "ECE OOD %", lambda row: row.estimate(lambda r: _over_groups(r.ece))),
        Column(
            "nll_id",
            "NLL ID",
            lambda row: row.estimate(lambda r: r.nll["id_test"]),
            ".2f",
            note="negative log-likelihood in nats",
        ),
        Column(
            "nll_ood", "NLL OOD", lambda row: row.estimate(lambda r: _over_groups(r.nll)), ".2f"
        ),
    ]
    return [column for column in columns if any(column.value(row) is not None for row in rows)]


def _shift(row: Row, group: str) -> Estimate:
    return row.estimate(lambda record: record.shifts[group])


def _over_groups(figures: dict[str, float]) -> float:
    """Mean over the shift groups, as for accuracies."""
    groups = by_group(figures).values()
    return sum(groups) / len(groups)


def setting_of(cell: Cell) -> str:
    """Learning rate and alpha in words: "lr 1e-3, alpha 0.5"."""
    parts = [f"lr {rate(cell.lr)}"] if cell.lr is not None else []
    parts += [f"alpha {cell.alpha:g}"] if cell.alpha is not None else []
    return ", ".join(parts)


@dataclass(frozen=True)
class Standing:
    """Where one method stands: its setting chosen by ID validation, and it against a reference."""

    row: Row
    at_own_id: Estimate | None
    """OOD of that setting minus the reference's on its curve at the same ID accuracy."""
    at_levels: list[Estimate | None]
    """OOD on the method's curve minus the reference's at each level of `Standings.id_levels`."""

    @property
    def differences(self) -> list[Estimate | None]:
        """All differences: at its own ID accuracy first."""
        return [self.at_own_id, *self.at_levels]


@dataclass(frozen=True)
class Standings:
    """Every method against one of them."""

    reference: str
    label: str
    """What the reference is called."""
    id_levels: list[float]
    reference_ood: list[Estimate]
    every: list[Standing]

    @property
    def compared(self) -> list[Standing]:
        """The trained methods beside the reference; none where nothing can be compared."""
        others = [
            each
            for each in self.every
            if each.row.cell.method != self.reference and is_trained(each.row.cell)
        ]
        return others if any(any(each.differences) for each in others) else []


def standings_of(records: Sequence[Record], reference: str, rows: Sequence[Row]) -> Standings:
    """One entry a method and variant, in the order of the rows.

    Args:
        records: Records of one benchmark.
        reference: Method the others are compared with; one that was not run, or was run in
            several variants, leaves the differences empty.
        rows: `rows_of` these records.
    """
    selected = [row for row in rows if row.selected]
    matched: MatchedComparison | None = compare_at_matched_id(records, reference)
    own = against_reference_curve(records, reference) if matched else {}
    differences = {
        series: each.difference for series, each in own.items() if series[0] != reference
    }
    none: list[Estimate | None] = [None] * (len(matched.id_levels) if matched else 0)
    every = [
        Standing(
            row,
            differences.get(row.cell.series),
            matched.differences.get(row.cell.series, none) if matched else none,
        )
        for row in selected
    ]
    labels = [row.label for row in selected if row.cell.method == reference]
    return Standings(
        reference,
        labels[0] if labels else reference,
        matched.id_levels if matched else [],
        matched.reference_ood if matched else [],
        every,
    )


SELECTION_NOTE = (
    "The setting that in-domain validation (mean over seeds) chooses for its method; "
    "no test set and no shift had a say."
)
MATCHED_NOTE = (
    "OOD accuracy at equal ID accuracy, interpolated along each method's ID-OOD front, minus that "
    "of {reference} with the same seed, in points."
)
OWN_NOTE = (
    "At its own ID: the model that ID validation chooses, against {reference}'s front at that "
    "model's ID accuracy."
)
DASH_NOTE = (
    "A dash: one of the two has no model on both sides of that ID level, and nothing is "
    "extrapolated."
)
NOISE_NOTE = (
    "95% percentile bootstrap intervals over seeds; from few seeds they are too narrow (at n = 5 "
    "they hold the truth in five cases of six). Bold: three seeds or more, and neither this nor "
    "Student's t interval reaches 0."
)


NONE = "\N{EN DASH}"
"""What stands for a difference that there is none of."""


def interval_text(estimate: Estimate | None) -> str:
    """A difference in points with its bootstrap interval and n: "+1.2 [+0.4, +2.1] (n=5)"."""
    if estimate is None:
        return NONE
    bounds = estimate.bootstrap()
    interval = "" if bounds is None else " [{:+.1f}, {:+.1f}]".format(*(100 * b for b in bounds))
    return f"{100 * estimate.mean:+.1f}{interval} (n={estimate.n})"


@dataclass(frozen=True)
class Entry:
    """One entry of a table for people."""

    text: str
    is_figure: bool = True
    clear: bool = False
    """Whether it is a difference that stands out of the noise: the only thing set in bold."""


@dataclass(frozen=True)
class Summary:
    """One row a method: its setting chosen by ID validation, its cost, it against a reference."""

    headings: list[str]
    rows: list[list[Entry]]
    notes: list[str]


def summary_of(records: Sequence[Record], reference: str = "full") -> Summary:
    """The table that a paper or a README would show."""
    rows = [row for row in rows_of(records) if row.selected]
    standings = standings_of(records, reference, rows)
    columns = [column for column in columns_of(rows) if column.key not in LEFT_OUT]
    accuracies = [column for column in columns if column.key not in COST_KEYS]
    costs = [column for column in columns if column.key in COST_KEYS]
    # of the levels the middle one, which most methods reach
    level = len(standings.id_levels) // 2
    against = []
    if standings.compared:
        against = [f"OOD - {standings.label}, at its own ID"]
        against += [f"at ID {100 * x:.1f}%" for x in standings.id_levels[level : level + 1]]

    def figure(column: Column, row: Row) -> Entry:
        return Entry(column.text(row) + column.spread(row))

    table = []
    for each in standings.every:
        values = [each.at_own_id, *each.at_levels[level : level + 1]] if against else []
        table.append(
            [
                Entry(each.row.label, is_figure=False),
                Entry(setting_of(each.row.cell), is_figure=False),
                *(figure(column, each.row) for column in accuracies),
                *(
                    Entry(interval_text(value), clear=value is not None and value.clear)
                    for value in values
                ),
                *(figure(column, each.row) for column in costs),
            ]
        )
    notes = [SELECTION_NOTE, SPREAD_NOTE]
    if against:
        own = [MATCHED_NOTE, OWN_NOTE, DASH_NOTE, NOISE_NOTE]
        notes += [note.replace("{reference}", standings.label) for note in own]
    headings = ["method", "setting", *(c.heading for c in accuracies), *against]
    return Summary([*headings, *(c.heading for c in costs)], table, notes)


LEFT_OUT = ("front_area", "effective_robustness", "ece_ood", "nll_id", "nll_ood", "seconds")
COST_KEYS = ("step_seconds", "peak_memory_bytes", "trainable_share", "n")
SPREAD_NOTE = "Mean ± standard deviation over n seeds (with n - 1); OOD: mean over shift groups."
