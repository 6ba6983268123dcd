"""Where methods stand: each against a reference, and the table a paper or a README would show."""

from collections.abc import Sequence
from dataclasses import dataclass

from gmixout.methods import REFERENCE
from gmixout.reports.names import notes_of
from gmixout.reports.rows import Column, Row, columns_of, rows_of, words_of
from gmixout.results.curves import against_reference_curve, compare_at_matched_id
from gmixout.results.statistics import Estimate
from gmixout.results.study import Series, Study


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

    reference: Series | None
    """None where nothing can be compared."""
    label: str
    """What the reference is called."""
    id_levels: list[float]
    reference_ood: list[Estimate]
    every: list[Standing]
    metric: str
    """What the official metric is called."""

    @property
    def notes(self) -> list[str]:
        """What the differences are."""
        return [
            note.replace("{metric}", self.metric).replace("{reference}", self.label)
            for note in (MATCHED_NOTE, OWN_NOTE, DASH_NOTE)
        ]

    @property
    def compared(self) -> list[Standing]:
        """The trained methods beside the reference; none where nothing can be compared."""
        others = [
            each
            for each in self.every
            if each.row.setting.series != self.reference and each.row.setting.trained
        ]
        return others if any(any(each.differences) for each in others) else []


def standings_of(study: Study, rows: Sequence[Row], reference: str = REFERENCE) -> Standings:
    """Return one entry a method and variant, in the order of the rows.

    Args:
        study: The models of one benchmark.
        rows: `rows_of` the study.
        reference: What the others are compared with, see `study.series_named`; one that was not
            run, or was run in several variants, leaves the differences empty.
    """
    selected = [row for row in rows if row.selected]
    matched = compare_at_matched_id(study, reference)
    own = against_reference_curve(study, reference) if matched else {}
    base = matched.reference if matched else None
    differences = {series: each for series, each in own.items() if series != base}
    none: list[Estimate | None] = [None] * (len(matched.id_levels) if matched else 0)
    every = [
        Standing(
            row,
            differences.get(row.setting.series),
            matched.differences.get(row.setting.series, none) if matched else none,
        )
        for row in selected
    ]
    return Standings(
        base,
        next((row.label for row in selected if row.setting.series == base), reference),
        matched.id_levels if matched else [],
        matched.reference_ood if matched else [],
        every,
        rows[0].names.metric,
    )


SELECTION_NOTE = (
    "The setting that in-domain validation (mean over seeds) chooses for its method; "
    "no test set and no shift had a say."
)
MATCHED_NOTE = (
    "OOD {metric} at equal ID {metric}, interpolated along each method's ID-OOD front, minus that "
    "of {reference} with the same seed, in points."
)
OWN_NOTE = (
    "At its own ID: the model that ID validation chooses, against {reference}'s front at that "
    "model's ID {metric}."
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
    significant: bool = False
    """Whether it is a difference that stands out of the noise: the only thing set in bold."""


@dataclass(frozen=True)
class Summary:
    """A table for people with one row a method."""

    title: str
    headings: list[str]
    rows: list[list[Entry]]
    notes: list[str]


def summary_of(study: Study, reference: str = REFERENCE) -> Summary:
    """Return the table that a paper or a README would show."""
    rows = [row for row in rows_of(study) if row.selected]
    standings = standings_of(study, rows, reference)
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
                Entry(words_of(each.row.setting), is_figure=False),
                *(figure(column, each.row) for column in accuracies),
                *(
                    Entry(interval_text(value), significant=value is not None and value.significant)
                    for value in values
                ),
                *(figure(column, each.row) for column in costs),
            ]
        )
    notes = [*notes_of(study.records), SELECTION_NOTE, SPREAD_NOTE]
    notes += [f"{column.heading}: {column.note}." for column in accuracies if column.note]
    if against:
        notes += [*standings.notes, NOISE_NOTE]
    headings = ["method", "setting", *(c.heading for c in accuracies), *against]
    title = f"{study.benchmark}: one row a method"
    return Summary(title, [*headings, *(c.heading for c in costs)], table, notes)


LEFT_OUT = ("front_area", "effective_robustness", "ece_ood", "nll_id", "nll_ood", "seconds")
COST_KEYS = ("step_seconds", "peak_memory_bytes", "trainable_share", "n")
SPREAD_NOTE = "Mean ± standard deviation over n seeds (with n - 1)."
