"""Data of the page's plots, as plain values for JSON.

The scripts of the page select, scale and draw; they compute no statistics. Accuracies (the official
metric) and their differences are in percent (points), costs in the units of `rows.columns_of`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gmixout.reports.names import Names
from gmixout.reports.rows import Column, Row, words_of
from gmixout.reports.standings import Standings
from gmixout.reports.style import (
    MANY,
    SYMBOLS,
    CurveStyle,
    ellipse_of,
    focus,
    paths_of,
    point_of,
    whole,
)
from gmixout.reports.sweeps import sweeps_of
from gmixout.results.record import Record
from gmixout.results.selection import id_validation
from gmixout.results.statistics import Estimate
from gmixout.results.study import Series, Setting, Study, by_series, pareto_front

MAX_CURVES = 24
"""Most curves with their own switches; above, the variants of a method share one."""
_COSTS = ("step_seconds", "peak_memory_bytes", "trainable_share", "seconds")


def page_data(
    study: Study,
    rows: Sequence[Row],
    columns: Sequence[Column],
    standings: Sequence[Standings],
) -> dict[str, Any]:
    """Return all data for the scripts of the page."""
    settings = study.settings
    styles = {row.setting.series: row.style for row in rows}
    place = {series: index for index, series in enumerate(styles)}
    groups = switch_numbers(rows)
    return {
        "many": MANY,
        "names": {
            "in_domain": rows[0].names.in_domain,
            "under_shift": rows[0].names.under_shift,
            "unit": rows[0].names.unit,
        },
        "series": [
            {
                "group": groups[series],
                "label": style.name,
                "color": style.color,
                "symbol": SYMBOLS[style.marker],
                "dash": style.dash,
                "main": style.main,
            }
            for series, style in styles.items()
        ],
        "cells": [_setting(row, place[row.setting.series]) for row in rows],
        "paths": _paths(settings, place),
        "fronts": _fronts(study, place),
        "views": {"close-up": _view(focus(settings)), "all models": _view(whole(settings))},
        "standings": [_standings(each, place) for each in standings],
        "cost": _cost(study, rows, columns, standings, place),
        "learning": _learning(study, place, rows[0].names),
        "sweeps": sweeps_of(rows),
    }


@dataclass(frozen=True)
class Group:
    """A switch of the page, which shows or hides a curve or all variants of a method."""

    key: str
    label: str
    style: CurveStyle
    main: bool


def switch_numbers(rows: Sequence[Row]) -> dict[Series, int]:
    """Return the number of each curve's switch."""
    series = list(dict.fromkeys(row.setting.series for row in rows))
    if len(series) <= MAX_CURVES:
        return {each: index for index, each in enumerate(series)}
    methods = list(dict.fromkeys(method for method, _ in series))
    return {each: methods.index(each[0]) for each in series}


def switches_of(rows: Sequence[Row]) -> list[Group]:
    """Return the switches, in their order."""
    groups = switch_numbers(rows)
    found: dict[int, Group] = {}
    for row in rows:
        method, variant = row.setting.series
        shared = sum(number == groups[method, variant] for number in groups.values()) > 1
        label = row.style.label if shared else row.label
        group = Group(f"{method} {'' if shared else variant}", label, row.style, row.style.main)
        found.setdefault(groups[method, variant], group)
    return list(found.values())


def _view(box: Any) -> dict[str, Any]:
    return {"x": list(box.id), "y": list(box.ood)}


def _setting(row: Row, series: int) -> dict[str, Any]:
    setting = row.setting
    point = point_of(setting)
    scale = row.names.scale
    runs = [[scale * record.id, scale * record.ood] for record in setting.records]
    outline = ellipse_of(setting)
    sd = [row.estimate(value).sd for value in (lambda r: scale * r.id, lambda r: scale * r.ood)]
    shifts = {g: row.estimate(lambda r, g=g: r.shifts[g]) for g in row.groups}  # type: ignore[misc]
    return {
        "series": series,
        "setting": words_of(setting),
        "lr": setting.lr,
        "alpha": setting.alpha,
        "trained": setting.trained,
        "chosen": sorted(row.chosen_by),
        "id": point.id,
        "ood": point.ood,
        "sd": None if outline is None else sd,
        "ellipse": None if outline is None else [[round(x, 3) for x in p] for p in outline],
        "runs": runs,
        "seeds": [record.seed for record in setting.records],
        "shifts": {name: scale * value.mean for name, value in shifts.items()},
    }


def _paths(settings: Sequence[Setting], place: dict[Series, int]) -> list[dict[str, Any]]:
    number = {id(setting): index for index, setting in enumerate(settings)}
    return [
        {
            "series": place[series],
            "cells": [number[id(setting)] for setting in path],
            "alpha": any(setting.alpha is not None for setting in path),
        }
        for series, path in paths_of(settings)
    ]


def _fronts(study: Study, place: dict[Series, int]) -> dict[str, Any]:
    """Return the Pareto fronts of means over seeds: of every trained method, and of all models."""
    lower = study.first.metric.lower
    own = [
        {"series": place[series], "points": pareto_front(map(point_of, each), lower)}
        for series, each in study.by_series.items()
        if each[0].trained
    ]
    return {"own": own, "overall": pareto_front(map(point_of, study.settings), lower)}


def _standings(standings: Standings, place: dict[Series, int]) -> dict[str, Any]:
    """Return the differences, a list per comparison: at its own ID, and at each level."""

    def difference(each: Estimate | None) -> dict[str, Any] | None:
        if each is None:
            return None
        bounds = each.bootstrap()
        return {
            "mean": 100 * each.mean,
            "bounds": None if bounds is None else [100 * bound for bound in bounds],
            "significant": each.significant,
            "n": each.n,
        }

    return {
        "reference": standings.reference[0] if standings.reference else None,
        "label": standings.label,
        "levels": [100 * level for level in standings.id_levels],
        "differences": [
            [place[each.row.setting.series], [difference(value) for value in each.differences]]
            for each in standings.compared
        ],
    }


def _cost(
    study: Study,
    rows: Sequence[Row],
    columns: Sequence[Column],
    standings: Sequence[Standings],
    place: dict[Series, int],
) -> dict[str, Any]:
    """Return costs of each chosen setting against its OOD, and against OOD at matched ID."""
    by_key = {column.key: column for column in columns}
    known = [by_key[key] for key in _COSTS if key in by_key]
    levels = standings[0].id_levels if standings else []
    points = []
    for row in rows:
        if not row.selected or not row.setting.trained:
            continue
        curves = study.curves_of.get(row.setting.series, {}).values()
        heights = [[curve.ood_at(level) for curve in curves] for level in levels]
        reached = [[height for height in own if height is not None] for own in heights]
        matched = [Estimate.of(own) if own else None for own in reached]
        own = row.estimate(lambda record: record.ood)
        costs = [column.value(row) for column in known]
        points.append(
            {
                "series": place[row.setting.series],
                "setting": words_of(row.setting),
                "costs": [
                    c.scale * v if isinstance(v, float | int) else None
                    for c, v in zip(known, costs, strict=True)
                ],
                "ood": [_displayed(each, row.names.scale) for each in [own, *matched]],
            }
        )
    return {
        "costs": [column.heading for column in known],
        "heights": [
            "at the setting chosen by ID validation",
            *(f"on its curve at ID {100 * level:.1f}%" for level in levels),
        ],
        "points": points,
    }


def _displayed(estimate: Estimate | None, scale: float) -> list[float | None] | None:
    if estimate is None:
        return None
    return [scale * estimate.mean, None if estimate.sd is None else scale * estimate.sd]


Measure = tuple[str, Callable[[Record], float | None]]


def _learning(study: Study, place: dict[Series, int], names: Names) -> dict[str, Any]:
    """Return the learning curves of each setting."""
    measures: list[Measure] = [
        (names.heading("OOD"), lambda r: names.scale * r.ood),
        (names.heading("ID validation"), lambda r: names.scale * r.id_val),
        (names.heading("ID test"), lambda r: names.scale * r.id),
        ("training loss", lambda r: r.training.loss if r.training else None),
    ]
    lines = study.learning_curves
    chosen = {
        id(id_validation.choose(ends)) for ends in by_series(line[-1] for line in lines).values()
    }
    return {
        "measures": [name for name, _ in measures],
        "lines": [
            {
                "series": place[line[0].series],
                "setting": words_of(line[0]),
                "chosen": id(line[-1]) in chosen,
                "steps": [setting.step for setting in line],
                "values": [
                    [_mean_and_sd(setting, value) for setting in line] for _, value in measures
                ],
            }
            for line in lines
            if line[0].series in place
        ],
    }


def _mean_and_sd(
    setting: Setting, value: Callable[[Record], float | None]
) -> tuple[float | None, float | None]:
    known = [v for record in setting.records if (v := value(record)) is not None]
    if not known:
        return None, None
    estimate = Estimate.of(known)
    return estimate.mean, estimate.sd
