"""The records of one benchmark, aggregated once for every table, figure and page."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gmixout.errors import StateError
from gmixout.methods import METHODS, Method
from gmixout.named import defaults_of, plain
from gmixout.plain import listed
from gmixout.results.facts import MethodFacts
from gmixout.results.record import Record
from gmixout.results.selection import RULES
from gmixout.results.statistics import Estimate

Series: TypeAlias = tuple[str, str]
"""Method and variant: the name of a curve."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One setting of one method, run with one or several seeds."""

    series: Series
    """Its curve: the method, and the variant that distinguishes the method's curves
    ("mask_rate=0.95"); mostly empty."""
    lr: float | None
    alpha: float | None
    records: tuple[Record, ...]
    """One record per seed, in the order of seeds."""

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.series[0]

    @property
    def variant(self) -> str:
        """See `series`."""
        return self.series[1]

    @property
    def facts(self) -> MethodFacts:
        """The method with its options."""
        return self.records[0].method

    @property
    def trained(self) -> bool:
        """True if these models were trained; a soup was, although it has no learning rate."""
        return self.records[0].training is not None

    @property
    def step(self) -> int:
        """Optimizer steps that led to the models."""
        return self.records[0].step

    @property
    def at_the_end(self) -> bool:
        """True if all models are those of the last steps of their runs."""
        return all(record.at_the_end for record in self.records)

    def worth(self, value: float) -> float:
        """Return a value of the official metric such that higher is better."""
        return self.records[0].worth(value)

    @cached_property
    def id_val(self) -> float:
        """The official metric on in-domain validation data, mean over seeds."""
        # rounded, so that means equal on paper are a tie for a selection rule too
        return round(fmean(record.id_val for record in self.records), 9)

    @cached_property
    def ood(self) -> float:
        """The official metric under shift, mean over the shift groups and over seeds."""
        return round(fmean(record.ood for record in self.records), 9)

    def estimate(self, value: Callable[[Record], float]) -> Estimate:
        """Return mean and spread of a value: `setting.estimate(lambda record: record.ood)`."""
        return Estimate.of(value(record) for record in self.records)


class Point(NamedTuple):
    """In-domain and mean out-of-domain accuracy of one model."""

    id: float
    ood: float


def pareto_front(points: Iterable[Point], lower: bool = False) -> list[Point]:
    """Return the points that no other beats or equals in both, by rising ID (and falling OOD).

    Args:
        points: The points.
        lower: Lower is better.
    """
    front: list[Point] = []
    for point in sorted(points, reverse=not lower):
        if not front or (point.ood < front[-1].ood if lower else point.ood > front[-1].ood):
            front.append(point)
    return front[::-1]


@dataclass(frozen=True)
class Curve:
    """All models of one method and one seed."""

    series: Series
    seed: int
    points: tuple[Point, ...]

    @cached_property
    def front(self) -> list[Point]:
        """The method's Pareto front, see `pareto_front`."""
        return pareto_front(self.points)

    def ood_at(self, id_level: float) -> float | None:
        """Return the OOD accuracy that the curve offers at an ID accuracy of `id_level` or more.

        Returns:
            The linear interpolation of the front, or None outside of the ID range of the points.
        """
        front = self.front
        if not front or not min(point.id for point in self.points) <= id_level <= front[-1].id:
            return None
        return float(np.interp(id_level, [p.id for p in front], [p.ood for p in front]))


class Study:
    """The records of one benchmark, grouped over seeds and compared; computed once, on demand.

    A model that was evaluated again counts once, with its latest record. Methods are in the order
    of `METHODS`, then the user's own; variants by name; settings by learning rate and alpha.

    Args:
        records: Records, at least one of a finished model.

    Raises:
        StateError: The records are of several benchmarks or official metrics, of other test sets or
            images under one benchmark's name; two runs of one setting have the same seed, so they
            differ in something that no setting shows; or no model is finished.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = tuple(records)
        every = _settings(self.records)
        self.settings = [each for each in every if each.records[0].final]
        """Finished models, one per setting."""
        self._every = every
        if not self.settings:
            raise StateError("nothing to report on: no model is finished yet")

    @property
    def first(self) -> Record:
        """Any record of a finished model, for values that all of them share."""
        return self.settings[0].records[0]

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.first.benchmark.name

    @property
    def groups(self) -> list[str]:
        """Names of the shift groups."""
        return list(self.first.shifts)

    @cached_property
    def by_series(self) -> dict[Series, list[Setting]]:
        """The settings of each curve."""
        return by_series(self.settings)

    @cached_property
    def chosen(self) -> dict[str, dict[Series, Setting]]:
        """The setting that each selection rule chooses on each curve, by the rule's name.

        A curve whose runs kept earlier models than their last ones has none of the rule `last`.
        """
        candidates = {series: complete(own) for series, own in self.by_series.items()}
        return {
            name: {
                series: rule.choose(own) for series, own in candidates.items() if rule.admitted(own)
            }
            for name, rule in RULES.items()
        }

    @property
    def selected(self) -> dict[Series, Setting]:
        """The setting that in-domain validation chooses on each curve."""
        return self.chosen["id_validation"]

    @property
    def has_curves(self) -> bool:
        """True if methods can be compared as curves.

        That takes shifts, and an official metric from 0 to 1: levels of ID, areas and the line
        through the baselines are of shares.
        """
        return bool(self.groups) and self.first.metric.is_share

    @cached_property
    def curves(self) -> list[Curve]:
        """A curve per trained method, variant and seed; none for a benchmark without shifts.

        None either where `has_curves` is false.
        """
        points: dict[tuple[Series, int], list[Point]] = {}
        for setting in self.settings if self.has_curves else ():
            for record in setting.records if setting.trained else ():
                point = Point(record.id, record.ood)
                points.setdefault((setting.series, record.seed), []).append(point)
        return [Curve(*key, tuple(own)) for key, own in points.items()]

    @cached_property
    def curves_of(self) -> dict[Series, dict[int, Curve]]:
        """The curves of each series by seed."""
        found: dict[Series, dict[int, Curve]] = {}
        for curve in self.curves:
            found.setdefault(curve.series, {})[curve.seed] = curve
        return found

    @cached_property
    def learning_curves(self) -> list[list[Setting]]:
        """The evaluations of every setting during its training, by step, including the last.

        Settings that were evaluated only at the end are left out.
        """
        lines: dict[tuple[Series, float | None, float | None], list[Setting]] = {}
        for each in sorted(self._every, key=lambda each: each.step):
            lines.setdefault((each.series, each.lr, each.alpha), []).append(each)
        return [line for line in lines.values() if len(line) > 1]

    def trained_series(self, name: str) -> Series | None:
        """Return the trained series with a curve that matches a name, see `series_named`."""
        return series_named(name, self.curves_of)


def studies(records: Iterable[Record]) -> list[Study]:
    """Return a study for each benchmark with a finished model, by name; errors as `Study`."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.benchmark.name):
        found.setdefault(record.benchmark.name, []).append(record)
    return [Study(own) for own in found.values() if any(record.final for record in own)]


def complete(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings with the most seeds: others may owe their mean to lucky seeds."""
    most = max((len(each.records) for each in settings), default=0)
    return [each for each in settings if len(each.records) == most]


def series_named(name: str, series: Iterable[Series]) -> Series | None:
    """Return the series that matches a name: "lora", or "gmixout(mask_rate=0.8)".

    Args:
        name: A method; for one run in several variants, with enough of the differing options in
            brackets to identify one.
        series: The existing series.

    Returns:
        None if none or several match.
    """
    method, _, options = name.removesuffix(")").partition("(")
    asked, there = _options(options), set(series)
    fitting = [each for each in there if each[0] == name] or [
        each for each in there if each[0] == method and asked <= _options(each[1])
    ]
    return fitting[0] if len(fitting) == 1 else None


def _options(text: str) -> set[str]:
    """Return the listed options without quotes, which a shell removes."""
    return {option.strip() for option in text.replace('"', "").split(",")} - {""}


def by_series(settings: Iterable[Setting]) -> dict[Series, list[Setting]]:
    """Return the settings of each curve."""
    found: dict[Series, list[Setting]] = {}
    for each in settings:
        found.setdefault(each.series, []).append(each)
    return found


def _settings(records: Iterable[Record]) -> list[Setting]:
    """Return all models by setting and step, in order."""
    # a stable sort: of records of one second the one that was written last counts
    in_time = sorted(records, key=lambda record: record.time)
    unique = list({record.model: record for record in in_time}.values())
    _refuse_several(unique)
    _refuse_different_data(unique)
    groups: dict[tuple[Series, float | None, float | None, int], list[Record]] = {}
    for record, variant in zip(unique, _variants(unique), strict=True):
        key = ((record.method.name, variant), record.lr, record.alpha, record.step)
        groups.setdefault(key, []).append(record)
    settings = [
        Setting(series, lr, alpha, tuple(sorted(own, key=lambda record: record.seed)))
        for (series, lr, alpha, _), own in groups.items()
    ]
    for each in settings:
        _refuse_repeated_seeds(each)
    return sorted(settings, key=place_of)


def place_of(setting: Setting) -> tuple[Any, ...]:
    """Return the place of a setting in every table."""
    known, base = list(METHODS), setting.facts.base or setting.method
    place = known.index(base) if base in METHODS else len(known)
    return place, *setting.series, setting.lr or 0.0, setting.alpha or 0.0, setting.step


def _refuse_several(records: Sequence[Record]) -> None:
    benchmarks = sorted({record.benchmark.name for record in records})
    if len(benchmarks) > 1:
        raise StateError(f"records of several benchmarks {benchmarks}: report on one at a time")
    metrics = sorted({record.benchmark.metric for record in records})
    if len(metrics) > 1:
        raise StateError(
            f"records of several official metrics of one benchmark, {', '.join(metrics)}: its "
            "definition has changed in between; keep such runs in separate folders"
        )


def _refuse_different_data(records: Sequence[Record]) -> None:
    """Refuse records of different test sets, or of different images in them."""
    seen: dict[str, Record] = {}
    sizes = [{name: each.examples for name, each in r.scores.items()} for r in records]
    for record, size in zip(records, sizes, strict=True):
        first, name = records[0], record.benchmark.name
        if differing := dict(size.items() ^ sizes[0].items()):
            raise StateError(
                f"runs {first.run} and {record.run} of {name} were evaluated on "
                f"different test sets: they differ in {listed(sorted(differing))}. {_KEEP_APART}"
            )
        if (data := record.benchmark.digests.get("data")) is None:  # older records do not say
            continue
        seen.setdefault(data, record)
        if len(seen) > 1:
            runs = " and ".join(each.run for each in seen.values())
            raise StateError(
                f"runs {runs} of {name} were trained or evaluated on different images "
                f"in sets of the same names. {_KEEP_APART}"
            )


_KEEP_APART = "Such runs have no common mean: make a report on each of their folders"


def _variants(records: Sequence[Record]) -> list[str]:
    """Return for each record the settings that differ within its method; not lr and alpha."""
    settings = [
        {
            (name, json.dumps(value))
            for name, value in (
                _added_since(record.method)
                | record.method.settings
                | (record.training.all_settings if record.training else {})
            ).items()
        }
        for record in records
    ]
    common: dict[str, set[tuple[str, str]]] = {}
    for record, own in zip(records, settings, strict=True):
        common[record.method.name] = common.get(record.method.name, own) & own
    return [
        ", ".join(f"{name}={value}" for name, value in sorted(own - common[record.method.name]))
        for record, own in zip(records, settings, strict=True)
    ]


def _added_since(method: MethodFacts) -> dict[str, Any]:
    """Return defaults for options that the method may have got since the record was written.

    Options that hold another method are left out, as records do that have them at their default.
    """
    kind = METHODS.get(method.base or method.name)
    defaults = defaults_of(kind) if kind else {}
    return {name: plain(v) for name, v in defaults.items() if not isinstance(v, Method)}


def _refuse_repeated_seeds(setting: Setting) -> None:
    seeds = Counter(record.seed for record in setting.records)
    repeated = {seed for seed, count in seeds.items() if count > 1}
    if repeated:
        runs = sorted({record.run for record in setting.records if record.seed in repeated})
        raise StateError(
            f"several runs of {setting.method} (lr={setting.lr}, alpha={setting.alpha}) with seed "
            f"{sorted(repeated)[0]}: {', '.join(runs)}. They differ in something that records "
            "do not show (for example the code's version); keep such runs in separate folders."
        )
