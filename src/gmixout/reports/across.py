"""Several benchmarks in one table: the mean over all, and the difference in each."""

from collections.abc import Sequence
from typing import Any

from gmixout.methods import REFERENCE
from gmixout.reports.names import names_of
from gmixout.reports.standings import NONE, Entry, SummaryTable, interval_text
from gmixout.reports.style import styles_of
from gmixout.results.across import PLACES, Across, compare_across
from gmixout.results.facts import BenchmarkFacts
from gmixout.results.statistics import Pooled
from gmixout.results.study import Series, Study

MIDDLE = len(PLACES) // 2
"""The position shown in the table of single benchmarks, which most methods reach."""


def across_summaries(studies: Sequence[Study], reference: str = REFERENCE) -> list[SummaryTable]:
    """Return the methods over several benchmarks, then each benchmark by itself.

    Args:
        studies: Studies of several benchmarks with one official metric.
        reference: The method to compare with, see `study.series_named`.

    Raises:
        StateError: See `compare_across`.
    """
    across = compare_across(studies, reference)
    labels = {series: each.name for study in studies for series, each in styles_of(study).items()}
    label = labels[across.reference] if across.reference else reference
    metric = names_of(studies[0].first).metric
    names = short_names([study.first.benchmark for study in studies])
    return [
        _averages(across, labels, label, metric),
        _differences(across, names, labels, label, metric),
    ]


def _averages(across: Across, labels: dict[Series, str], label: str, metric: str) -> SummaryTable:
    count = len(across.benchmarks)
    levels = [f"at {place:.0%} of the ID range" for place in PLACES]
    table = [
        [
            Entry(labels[row.series], is_figure=False),
            _mean(row.estimate(lambda record: record.id), count),
            _mean(row.estimate(lambda record: record.ood), count),
            *(_difference(each, count) for each in (row.at_own_id, *row.at_places)),
        ]
        for row in across.rows
    ]
    notes = [
        f"ID and OOD: {metric} in percent of the setting that in-domain validation chooses in "
        "each benchmark; means over benchmarks.",
        f"Differences: OOD {metric} at equal ID {metric}, along each method's ID-OOD front, minus "
        f"that of {label} in the same benchmark with the same seed, in points; means over "
        f"benchmarks. At its own ID: of the chosen setting; the ID range is that of {label}.",
        "In brackets 95% intervals over seeds for these benchmarks (Student's t by strata); n: "
        "pairs of benchmark and seed. Bold: significant, with three benchmarks or more, and "
        "neither this nor Student's interval over the benchmarks' means contains 0.",
    ]
    if any("/" in entry.text for row in table for entry in row[1:]):
        notes.append(f"2/{count}: two of the {count} benchmarks have it, and the mean is of those.")
    title = f"{count} benchmarks: {', '.join(across.benchmarks)}"
    headings = ["method", "ID %", "OOD %", f"OOD - {label}, at its own ID", *levels]
    return SummaryTable(title, headings, table, notes)


def _differences(
    across: Across,
    names: Sequence[str],
    labels: dict[Series, str],
    label: str,
    metric: str,
) -> SummaryTable:
    table = []
    for row in across.rows:
        pooled = row.at_places[MIDDLE]
        if pooled is not None:
            parts = [pooled.parts.get(name) for name in across.benchmarks]
            entries = [
                Entry(interval_text(e), significant=e is not None and e.significant) for e in parts
            ]
            table.append([Entry(labels[row.series], is_figure=False), *entries])
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
    return SummaryTable(f"each benchmark, against {label}", ["method", *names], table, notes)


def short_names(benchmarks: Sequence[BenchmarkFacts]) -> list[str]:
    """Return short names that distinguish benchmarks: "photo" and "sketch" for two domains."""
    every = [each.parts for each in benchmarks]
    keys = dict.fromkeys(key for parts in every for key in parts)
    differing = [key for key in keys if any(parts.get(key) != every[0].get(key) for parts in every)]
    names = [", ".join(_word(parts[key]) for key in differing if key in parts) for parts in every]
    told = all(names) and len(set(names)) == len(names)
    return names if told else [each.name for each in benchmarks]


def _word(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _mean(pooled: Pooled, count: int) -> Entry:
    return Entry(f"{100 * pooled.mean:.1f}{_share(pooled, count)}")


def _difference(pooled: Pooled | None, count: int) -> Entry:
    """Return a difference in points with its interval over seeds: "+1.2 [+0.4, +2.0] (n=12)"."""
    if pooled is None:
        return Entry(NONE)
    bounds = pooled.interval()
    interval = "" if bounds is None else " [{:+.1f}, {:+.1f}]".format(*(100 * b for b in bounds))
    text = f"{100 * pooled.mean:+.1f}{interval} (n={pooled.n}){_share(pooled, count)}"
    return Entry(text, significant=pooled.significant)


def _share(pooled: Pooled, count: int) -> str:
    """Return how many of the benchmarks have a value, unless all do."""
    return "" if len(pooled.parts) == count else f" {len(pooled.parts)}/{count}"
