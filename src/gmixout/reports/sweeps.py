"""Sweeps: effects of a method's options, from the settings that were run."""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from gmixout.reports.rows import Row, words_of
from gmixout.results.record import Record
from gmixout.results.selection import id_validation
from gmixout.results.study import Setting


def sweeps_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return every measure over one or two varying options, for each method that has them.

    For each combination of options ID validation chooses the rate (and alpha). A point of a plot
    stands for all combinations with its values of the plot's options: "best" is the one among them
    that ID validation chooses, "median" the median of their means.
    """
    words, groups, scale = rows[0].names, rows[0].groups, rows[0].names.scale
    measures: list[tuple[str, Callable[[Record], float]]] = [
        (words.heading("OOD"), lambda r: scale * r.ood),
        *((words.shift_heading(g), lambda r, g=g: scale * r.shifts[g]) for g in groups),
        (words.heading("worst"), lambda r: scale * r.worst),
        (words.heading("ID"), lambda r: scale * r.id),
    ]
    if all(r.scores["id_test"].ece is not None for row in rows for r in row.setting.records):
        measures.append(("ECE ID %", lambda r: 100 * (r.scores["id_test"].ece or 0.0)))
        measures.append(("NLL ID", lambda r: r.scores["id_test"].nll or 0.0))
    methods: dict[str, list[Row]] = {}
    for row in rows:
        methods.setdefault(row.setting.method, []).append(row)
    sweeps = []
    for own in methods.values():
        chosen = [row.setting for row in own if row.selected]
        axes = _axes(chosen)
        if not axes:
            continue
        names = list(axes)
        sweeps.append(
            {
                "label": own[0].style.label,
                "options": [[name, [_word(value) for value in axes[name]]] for name in names],
                "measures": [name for name, _ in measures],
                "plots": [
                    _sweep(chosen, axes, picked, [value for _, value in measures])
                    for count in (1, 2)
                    for picked in combinations(names, count)
                ],
            }
        )
    return sweeps


def _axes(settings: Iterable[Setting]) -> dict[str, list[Any]]:
    """Return the options that differ between the settings, each with its values in order."""
    values: dict[str, dict[str, Any]] = {}
    for setting in settings:
        for name, value in setting.facts.settings.items():
            values.setdefault(name, {})[_word(value)] = value
    return {name: _in_order(each) for name, each in values.items() if len(each) > 1}


def _in_order(values: dict[str, Any]) -> list[Any]:
    """Sort numbers by size, None last (no resampling is the slowest), words by alphabet."""
    if all(isinstance(value, int | float | None) for value in values.values()):
        return sorted(values.values(), key=lambda value: (value is None, value or 0))
    return [values[word] for word in sorted(values)]


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sweep(
    settings: Sequence[Setting],
    axes: dict[str, list[Any]],
    picked: tuple[str, ...],
    measures: Sequence[Callable[[Record], float]],
) -> dict[str, Any]:
    """Return the points of one plot: coordinates, and best and median of every measure."""
    groups: dict[tuple[int, ...], list[Setting]] = {}
    for setting in settings:
        options = setting.facts.settings
        if all(name in options for name in picked):
            key = tuple(axes[name].index(options[name]) for name in picked)
            groups.setdefault(key, []).append(setting)
    points = []
    for key, group in sorted(groups.items()):
        best = id_validation.choose(group)
        estimates = [best.estimate(value) for value in measures]
        points.append(
            {
                "at": key,
                "setting": ", ".join(filter(None, [best.variant, words_of(best)])),
                "settings": len(group),
                "n": len(best.records),
                "best": [each.mean for each in estimates],
                "bounds": [each.bootstrap() for each in estimates],
                "median": [median(c.estimate(value).mean for c in group) for value in measures],
            }
        )
    return {"options": picked, "points": points}
