"""The data behind every table: settings as rows, values as columns.

The page, the terminal, CSV, Markdown and LaTeX show parts of it in their own format. Definitions,
names and units are only here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, median

from gmixout.evaluation.official import SUMMARIES, metric_named
from gmixout.reports.names import Names, form_of, names_of, scale_of
from gmixout.reports.style import CurveStyle, rate, styles_of
from gmixout.results.curves import effective_robustness, front_area
from gmixout.results.facts import Training
from gmixout.results.record import ID_SETS, Record, by_group
from gmixout.results.statistics import Estimate
from gmixout.results.study import Setting, Study


@dataclass(frozen=True)
class Row:
    """One setting of one method, over its seeds."""

    style: CurveStyle
    setting: Setting
    chosen_by: frozenset[str]
    """Names of the selection rules that choose this setting for its method."""
    front_area: Estimate | None
    """Area of the method's front; on the row that ID validation chooses."""
    effective_robustness: Estimate | None
    """Effective robustness; on the row that ID validation chooses."""

    @property
    def label(self) -> str:
        """Name of the curve."""
        return self.style.name

    @property
    def selected(self) -> bool:
        """True if in-domain validation chooses this setting for its method."""
        return "id_validation" in self.chosen_by

    @property
    def groups(self) -> list[str]:
        """Names of the shift groups."""
        return list(self.setting.records[0].shifts)

    @property
    def names(self) -> Names:
        """Display names of its values."""
        return names_of(self.setting.records[0])

    def estimate(self, value: Callable[[Record], float]) -> Estimate:
        """Return mean and spread of a value of the records."""
        return self.setting.estimate(value)

    def known(self, value: Callable[[Record], float | None]) -> Estimate | None:
        """Return mean and spread of an optional value; None unless all records have it."""
        values = [v for record in self.setting.records if (v := value(record)) is not None]
        return Estimate.of(values) if len(values) == len(self.setting.records) else None

    def cost(self, value: Callable[[Training], float | None]) -> float | None:
        """Return the median of a cost over seeds; None if not measured or nothing was trained."""
        trainings = [record.training for record in self.setting.records if record.training]
        known = [v for training in trainings if (v := value(training)) is not None]
        return median(known) if known else None


def rows_of(study: Study) -> list[Row]:
    """Return every finished setting of every method, by method, learning rate and alpha."""
    styles, areas, robustness = styles_of(study), front_area(study), effective_robustness(study)
    rows = []
    for setting in study.settings:
        series = setting.series
        rules = frozenset(n for n, each in study.chosen.items() if each.get(series) is setting)
        selected = study.selected[series] is setting
        area = areas.get(series) if selected else None
        effective = robustness.get(series) if selected else None
        rows.append(Row(styles[series], setting, rules, area, effective))
    return rows


@dataclass(frozen=True)
class Column:
    """One value of every row."""

    key: str
    """Its name in files, with its unit."""
    heading: str
    """Its heading, with the displayed unit."""
    value: Callable[[Row], Estimate | float | None]
    form: str = ".1f"
    """Its format specification."""
    scale: float = 1.0
    """Factor from the value to the displayed number."""
    note: str = ""
    """Its definition, if the heading does not give it."""
    is_further: bool = False
    """True for an additional metric, on several test sets."""

    def text(self, row: Row) -> str:
        """Return the mean as text; empty if there is none."""
        value = self.value(row)
        mean = value.mean if isinstance(value, Estimate) else value
        return "" if mean is None else format(self.scale * mean, self.form)

    def spread(self, row: Row) -> str:
        """Return the standard deviation as text with its sign; empty if there is none."""
        value = self.value(row)
        if not isinstance(value, Estimate) or value.sd is None:
            return ""
        return f"±{self.scale * value.sd:{self.form.lstrip('+')}}"


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Return the columns that at least one of the rows has."""
    found = [*_official_columns(rows), *_further_columns(rows), *_COMMON]
    columns = [*found, *_detection_columns(rows)]
    return [column for column in columns if any(column.value(row) is not None for row in rows)]


def _official_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the official metric, in domain and under each shift."""
    names, groups = rows[0].names, rows[0].groups
    official = partial(Column, form=names.form, scale=names.scale)
    columns = [
        Column("n", "n", lambda row: len(row.setting.records), "d", 1, "seeds"),
        official("id", names.heading("ID"), lambda row: row.estimate(lambda r: r.id)),
    ]
    for group in groups:
        heading = names.shift_heading(group)
        columns.append(official(f"shift {group}", heading, partial(_shift, group=group)))
    if groups:
        ood = official("ood", names.heading("OOD"), lambda row: row.estimate(lambda r: r.ood))
        columns.append(replace(ood, note=names.ood_note))
    if len(groups) > 1:
        columns.append(
            official(
                "worst",
                names.heading("worst"),
                lambda row: row.estimate(lambda r: r.worst),
                note="the worst shift group, seed by seed",
            )
        )
    return columns


def _further_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the official summaries over all shifts, and the additional metrics."""
    names, records = rows[0].names, [record for row in rows for record in row.setting.records]
    columns = [
        _percent(
            name,
            f"{SUMMARIES[name].title} %" if name in SUMMARIES else f"{name} %",
            lambda row, name=name: row.known(lambda r: r.summary.get(name)),  # type: ignore[misc]
            note=SUMMARIES[name].note if name in SUMMARIES else "",
        )
        for name in dict.fromkeys(name for record in records for name in record.summary)
    ]
    for metric in _further_metrics(records):
        for place, value in (("ID", _of_id), ("OOD", _of_ood)):
            columns.append(
                Column(
                    f"{metric}_{place.lower()}",
                    names.also_heading(place, metric),
                    partial(value, metric=metric),
                    form_of(metric_named(metric)),
                    scale_of(metric_named(metric)),
                    is_further=names.has_domains,
                )
            )
    # a metric in place of a shift has its column already
    return [column for column in columns if column.key.removesuffix("_id") not in rows[0].groups]


def _detection_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the detection of unknown classes by each score, the mean over their sets."""
    records = [record for row in rows for record in row.setting.records]
    names = dict.fromkeys(n for r in records for each in r.detection.values() for n in each)
    told = {
        "auroc": "probability that a known image scores above one of an unknown class",
        "fpr95": "share of unknown images that pass where 95% of known ones do",
    }
    return [
        _percent(
            f"{measure}_{name}",
            f"{measure.upper()} {name.replace('_', ' ')} %",
            partial(_detected, name=name, measure=measure),
            note=note,
        )
        for name in names
        for measure, note in told.items()
    ]


def _detected(row: Row, name: str, measure: str) -> Estimate | None:
    def value(record: Record) -> float | None:
        found = [each[name] for each in record.detection.values() if name in each]
        return fmean(getattr(each, measure) for each in found) if found else None

    return row.known(value)


def _further_metrics(records: Iterable[Record]) -> list[str]:
    found: dict[str, None] = {}
    for record in records:
        if record.benchmark.metric != "accuracy":
            found["accuracy"] = None
        found |= dict.fromkeys(n for each in record.scores.values() for n in each.figures)
        found.pop(record.benchmark.metric, None)
    return list(found)


def _of_id(row: Row, metric: str) -> Estimate | None:
    return row.known(lambda record: record.of(metric).get("id_test"))


def _of_ood(row: Row, metric: str) -> Estimate | None:
    """Return the mean over the shift groups, if every shift has the metric."""

    def value(record: Record) -> float | None:
        figures, shifted = record.of(metric), record.scores.keys() - set(ID_SETS)
        return _over_groups(figures) if shifted <= figures.keys() else None

    return row.known(value)


_percent = partial(Column, scale=100.0)
_COMMON = [
    _percent(
        "ece_id",
        "ECE ID %",
        lambda row: row.known(lambda r: r.scores["id_test"].ece),
        note="expected calibration error: distance of confidence from accuracy",
    ),
    Column("seconds", "time s", lambda row: row.cost(lambda training: training.seconds)),
    Column(
        "step_seconds",
        "step ms",
        lambda row: row.cost(lambda training: training.step_seconds),
        scale=1e3,
        note="median time of an optimizer step",
    ),
    Column(
        "peak_memory_bytes",
        "mem MB",
        lambda row: row.cost(lambda training: training.peak_memory_bytes),
        scale=1e-6,
        note="peak memory of training above the loaded model",
    ),
    _percent(
        "trainable_share",
        "train %",
        lambda row: _trainable_share(row.setting.records[0]),
        note="share of the values with a gradient in a step",
    ),
    _percent(
        "front_area",
        "front area %",
        lambda row: row.front_area,
        note="share of the box of all fronts that the method's front dominates",
    ),
    _percent(
        "effective_robustness",
        "eff. rob.",
        lambda row: row.effective_robustness,
        "+.1f",
        note="OOD above the prediction of a line through the baselines from ID, in points",
    ),
    _percent(
        "ece_ood", "ECE OOD %", lambda row: row.known(lambda r: _over_groups(_each(r, "ece")))
    ),
    Column(
        "nll_id",
        "NLL ID",
        lambda row: row.known(lambda r: r.scores["id_test"].nll),
        ".2f",
        note="negative log-likelihood in nats",
    ),
    Column(
        "nll_ood", "NLL OOD", lambda row: row.known(lambda r: _over_groups(_each(r, "nll"))), ".2f"
    ),
]
"""Columns of every benchmark."""


def _trainable_share(record: Record) -> float:
    return record.training.trainable / record.parameters if record.training else 0.0


def _each(record: Record, score: str) -> dict[str, float]:
    """Return a field of the scores of each set that has it."""
    every = {name: getattr(each, score) for name, each in record.scores.items()}
    return {name: value for name, value in every.items() if value is not None}


def _shift(row: Row, group: str) -> Estimate:
    return row.estimate(lambda record: record.shifts[group])


def _over_groups(figures: dict[str, float]) -> float | None:
    """Return the mean over the shift groups, if there are any."""
    groups = by_group(figures)
    return fmean(groups.values()) if groups else None


def words_of(setting: Setting) -> str:
    """Return learning rate and alpha in words: "lr 1e-3, alpha 0.5"."""
    parts = [f"lr {rate(setting.lr)}"] if setting.lr is not None else []
    parts += [f"alpha {setting.alpha:g}"] if setting.alpha is not None else []
    return ", ".join(parts)
