"""Several benchmarks in one table: the mean over all of them, and the difference in each."""

from collections.abc import Sequence
from os.path import commonprefix

from gmixout.evaluation.across import PLACES, Across, AcrossRow, Pooled, compare_across
from gmixout.evaluation.curves import Series
from gmixout.evaluation.records import Record
from gmixout.reports.names import names_of
from gmixout.reports.standings import NONE, Entry, Summary, interval_text
from gmixout.reports.style import Style, in_order, styles_of

MIDDLE = len(PLACES) // 2
"""The place that the table of single benchmarks shows, which most methods reach."""


def across_summaries(records: Sequence[Record], reference: str = "full") -> list[Summary]:
    """The methods over several benchmarks, then each benchmark by itself.

    Args:
        records: Of several benchmarks with one official metric.
        reference: What the others are compared with, see `curves.series_named`.

    Raises:
        StateError: See `compare_across`.
    """
    across = compare_across(records, reference)
    rows = {row.series: row for row in across.rows}
    cells = in_order(next(iter(row.chosen.values())) for row in across.rows)
    styles = styles_of(cells)
    ordered = [rows[cell.series] for cell in cells]
    label = styles[across.reference].label if across.reference else reference
    metric = names_of(records[0]).metric
    return [
        _averages(across, ordered, styles, label, metric),
        _differences(across, ordered, styles, label, metric),
    ]


def _averages(
    across: Across,
    rows: Sequence[AcrossRow],
    styles: dict[Series, Style],
    label: str,
    metric: str,
) -> Summary:
    count = len(across.benchmarks)
    levels = [f"at {place:.0%} of the ID range" for place in PLACES]
    table = [
        [
            Entry(styles[row.series].label, is_figure=False),
            _mean(row.estimate(lambda record: record.id), count),
            _mean(row.estimate(lambda record: record.ood), count),
            *(_difference(each, count) for each in (row.at_own_id, *row.at_places)),
        ]
        for row in rows
    ]
    notes = [
        f"ID and OOD: {metric} in per cent of the setting that in-domain validation chooses in "
        "each benchmark; means over benchmarks.",
        f"Differences: OOD {metric} at equal ID {metric}, along each method's ID-OOD front, minus "
        f"that of {label} in the same benchmark with the same seed, in points; means over "
        f"benchmarks. At its own ID: of the chosen setting; the ID range is that of {label}.",
        "In brackets 95% intervals over seeds for these very benchmarks (Student's t by strata); "
        "n: pairs of benchmark and seed. Bold: three benchmarks or more, and neither this nor "
        "Student's interval over the benchmarks' means reaches 0.",
    ]
    if any("/" in entry.text for row in table for entry in row[1:]):
        notes.append(f"2/{count}: two of the {count} benchmarks have it, and the mean is of those.")
    title = f"{count} benchmarks: {', '.join(across.benchmarks)}"
    headings = ["method", "ID %", "OOD %", f"OOD - {label}, at its own ID", *levels]
    return Summary(title, headings, table, notes)


def _differences(
    across: Across,
    rows: Sequence[AcrossRow],
    styles: dict[Series, Style],
    label: str,
    metric: str,
) -> Summary:
    table = []
    for row in rows:
        pooled = row.at_places[MIDDLE]
        if pooled is not None:
            parts = [pooled.parts.get(name) for name in across.benchmarks]
            entries = [Entry(interval_text(e), clear=e is not None and e.clear) for e in parts]
            table.append([Entry(styles[row.series].label, is_figure=False), *entries])
    names = short_names(across.benchmarks)
    levels = ", ".join(
        f"{name} {100 * each[MIDDLE]:.1f}%"
        for name, each in zip(names, across.id_levels.values(), strict=True)
        if each
    )
    notes = [
        f"OOD {metric} minus that of {label} in points, at {PLACES[MIDDLE]:.0%} of the way from "
        f"its lowest to its highest ID {metric}: {levels}. In brackets 95% bootstrap intervals "
        "over the n seeds.",
    ]
    return Summary(f"each benchmark, against {label}", ["method", *names], table, notes)


def short_names(benchmarks: Sequence[str]) -> list[str]:
    """What tells benchmarks apart: "photo" and "sketch" of "pacs(train_domain=photo)" and so on."""
    prefix = commonprefix(list(benchmarks))  # noqa: RUF071 - these are no paths
    start = 1 + max(map(prefix.rfind, "(=,: "))
    if not start:
        return list(benchmarks)
    backwards = commonprefix([name[::-1] for name in benchmarks])  # noqa: RUF071
    end = 1 + max(map(backwards.rfind, "),"))
    return [name[start : len(name) - end].strip("'") for name in benchmarks]


def _mean(pooled: Pooled, count: int) -> Entry:
    return Entry(f"{100 * pooled.mean:.1f}{_share(pooled, count)}")


def _difference(pooled: Pooled | None, count: int) -> Entry:
    """A difference in points with its interval over seeds: "+1.2 [+0.4, +2.0] (n=12)"."""
    if pooled is None:
        return Entry(NONE)
    bounds = pooled.interval()
    interval = "" if bounds is None else " [{:+.1f}, {:+.1f}]".format(*(100 * b for b in bounds))
    text = f"{100 * pooled.mean:+.1f}{interval} (n={pooled.n}){_share(pooled, count)}"
    return Entry(text, clear=pooled.clear)


def _share(pooled: Pooled, count: int) -> str:
    """How many of the benchmarks have a figure, unless all do."""
    return "" if len(pooled.parts) == count else f" {len(pooled.parts)}/{count}"
