"""A record of one evaluated model: settings, scores, costs and machine.

Tables, figures and pages are functions of records alone, so a record holds everything they need as
separate values: nothing is parsed from display names.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timezone
from functools import cache, cached_property, reduce
from operator import or_
from statistics import fmean
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge
from typing_extensions import NotRequired, TypedDict

from gmixout.errors import StateError
from gmixout.evaluation.detection import Detection
from gmixout.evaluation.metrics import Amount, Scores
from gmixout.evaluation.official import HARDEST, Metric, metric_named
from gmixout.plain import checked, read_json
from gmixout.results.facts import BenchmarkFacts, Machine, MethodFacts, Name, Training
from gmixout.results.schema2 import upgraded

SCHEMA = 3
ID_SETS = ("id_val", "id_test")

_BELOW = "ended at"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One evaluated model. Accuracies, metrics and calibration errors are fractions in [0, 1].

    Errors of predicted numbers are in the numbers' units, and lower is better (`worth`). Choices
    and comparisons use `official`: the benchmark's official metric, mostly accuracy.

    Texts are made `printable`. `checked` enforces the annotations, wherever a record comes from.

    Raises:
        StateError: If a field has the wrong type, a value is out of range, `scores` lacks
            `id_val` or `id_test`, or the official metric is missing for a set.
    """

    schema: int = SCHEMA
    """Version of the layout."""
    time: Name = field(default_factory=_now)
    """When the model was evaluated, UTC, ISO 8601."""
    run: Name
    """Hash of the training run; the variants of one run (WiSE-FT's alphas) share it."""
    benchmark: BenchmarkFacts
    method: MethodFacts
    training: Training | None
    """None if nothing was trained."""
    scores: dict[Name, Scores]
    """`id_val`, `id_test` and one entry for each shift, named "group" or "group/part"."""
    summary: dict[Name, Amount] = field(default_factory=dict)
    """Official summaries over all shifts, by name in `official.SUMMARIES`."""
    detection: dict[Name, dict[Name, Detection]] = field(default_factory=dict)
    """Detection of unknown classes: for each set of them by the names in `detection.DETECTORS`."""
    parameters: Annotated[int, Ge(1)]
    machine: Machine
    pool: list[Name] = field(default_factory=list)
    """Hashes of the training runs that a soup was made or chosen from; empty for others."""
    members: list[Name] = field(default_factory=list)
    """Members of `pool` that are in the mean."""
    notes: list[str] = field(default_factory=list)
    """Notes for readers of the results."""

    def __post_init__(self) -> None:
        try:
            values = checked(self._values(), _form(Record))
        except ValueError as error:
            raise StateError(f"record field {error}") from None
        values |= {
            "benchmark": BenchmarkFacts(**values["benchmark"]),
            "method": MethodFacts(**values["method"]),
            "training": None if values["training"] is None else Training(**values["training"]),
            "scores": {name: Scores(**each) for name, each in values["scores"].items()},
            "machine": Machine(**values["machine"]),
            "detection": {
                name: {score: Detection(**found) for score, found in each.items()}
                for name, each in values.get("detection", {}).items()
            },
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check_shares()
        if not set(ID_SETS) <= self.scores.keys():
            raise StateError(
                f"a record's scores need `id_val` and `id_test`, got {sorted(self.scores)}"
            )
        if without := self.scores.keys() - self.official.keys():
            raise StateError(
                f"a record's {self.benchmark.metric} is missing for {', '.join(sorted(without))}"
            )
        if not 0 <= self.step <= self.steps:
            raise StateError(f"step={self.step} of a run of {self.steps} steps")
        own = self.training
        if own and not (own.kept_step or 0) <= own.taken <= self.steps:
            raise StateError(
                f"kept_step={own.kept_step} of {own.taken} steps done and {self.steps} planned"
            )
        if own and own.soup_steps and not 0 < max(own.soup_steps) <= self.steps:
            raise StateError(f"soup_steps={own.soup_steps} of a run of {self.steps} steps")

    def _check_shares(self) -> None:
        """Refuse values outside of [0, 1] of metrics that are shares, as most are.

        Raises:
            StateError: One is.
        """
        for name, each in self.scores.items():
            for metric, value in each.figures.items():
                if metric_named(metric).is_share and not 0 <= value <= 1:
                    raise StateError(
                        f"record field scores.{name}.figures.{metric} is {value:g}, and not from 0 "
                        "to 1"
                    )

    @property
    def metric(self) -> Metric:
        """The official metric."""
        return metric_named(self.benchmark.metric)

    def worth(self, value: float) -> float:
        """Return a value of the official metric such that higher is better."""
        return self.metric.worth(value)

    @property
    def lr(self) -> float | None:
        """Learning rate; None if nothing was trained, or for several."""
        return self.training.lr if self.training else None

    @property
    def seed(self) -> int:
        """Seed of the training; 0 if nothing was trained."""
        return self.training.seed if self.training else 0

    @property
    def step(self) -> int:
        """Optimizer steps that led to the model; 0 if nothing was trained."""
        return self.training.step if self.training else 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; 0 if nothing was trained."""
        return self.training.steps if self.training else 0

    @property
    def alpha(self) -> float | None:
        """See `MethodFacts.alpha`."""
        return self.method.alpha

    @property
    def at_the_end(self) -> bool:
        """True unless the run kept an earlier model than that of the last step, or a mean."""
        own = self.training
        return own is None or (own.kept_step in (None, self.steps) and not own.soup_steps)

    @property
    def final(self) -> bool:
        """True for the model at the end of its training, not during it."""
        return self.step == self.steps

    def of(self, metric: str) -> dict[str, float]:
        """Return a metric of each set that has it."""
        every = {name: each.of(metric) for name, each in self.scores.items()}
        return {name: value for name, value in every.items() if value is not None}

    @cached_property
    def official(self) -> dict[str, float]:
        """The official metric of each set."""
        return self.of(self.benchmark.metric)

    @property
    def id_val(self) -> float:
        """The official metric on in-domain validation data, used for choices."""
        return self.official["id_val"]

    @property
    def id(self) -> float:
        """The official metric on the in-domain test set."""
        return self.official["id_test"]

    @cached_property
    def shifts(self) -> dict[str, float]:
        """The official metric of each shift group: the mean over its parts.

        For a benchmark without other domains, few-shot or worst-group accuracy of the in-domain
        test takes their place, if it has one; otherwise there are none.
        """
        own = self.scores["id_test"].figures
        return by_group(self.official) or {name: own[name] for name in HARDEST if name in own}

    @cached_property
    def ood(self) -> float:
        """Mean over the shift groups, so that a group with many parts has the same weight.

        Without any it is `id`, the only test there is.
        """
        return fmean(self.shifts.values() or [self.id])

    @property
    def worst(self) -> float:
        """The official metric of the worst shift group; as `ood` without any."""
        return min(self.shifts.values(), key=self.worth, default=self.id)

    @property
    def model(self) -> tuple[str, str, str, str, int, int | None]:
        """Identity of the model: of records with the same one, the latest counts.

        They are of one model that was evaluated twice, or of a soup that was made of more runs.
        """
        options = json.dumps(self.method.spelled, sort_keys=True)
        step = None if self.final else self.step
        return self.benchmark.name, self.run, self.method.name, options, self.seed, step

    @property
    def below_start(self) -> str:
        """The note that `against_start` added; empty without one."""
        return next((note for note in self.notes if note.startswith(_BELOW)), "")

    def against_start(self, start: float) -> "Record":
        """Return the record, with a note if the model is significantly worse than its start.

        Significantly: by more than two standard errors of the difference of two shares of `id_val`.
        Of metrics that are no shares the standard error is not known, and nothing is noted.

        Args:
            start: `id_val` of the pretrained model.
        """
        if not self.metric.is_share:
            return self
        end, metric = self.id_val, self.benchmark.metric
        variance = (start * (1 - start) + end * (1 - end)) / max(1, self.scores["id_val"].examples)
        if start - end <= 2 * variance**0.5:
            return self
        what = "" if metric == "accuracy" else f" ({metric})"
        note = (
            f"{_BELOW} {100 * end:.1f}%{what} on ID validation, below its start of "
            f"{100 * start:.1f}%: lower --lr"
        )
        return replace(self, notes=[*self.notes, note])

    def to_json(self) -> str:
        """Return the record as one line, without its line break."""
        return json.dumps(self._values(), allow_nan=False)

    def _values(self) -> dict[str, Any]:
        """Return the result of `dataclasses.asdict`, without copies."""
        values = {each.name: _as_dict(getattr(self, each.name)) for each in fields(self)}
        if isinstance(scores := values["scores"], dict):
            values["scores"] = {name: _as_dict(each) for name, each in scores.items()}
        if not values["detection"]:  # as in records from before there was any
            del values["detection"]
        elif isinstance(found := values["detection"], dict):
            values["detection"] = {name: _dicts_in(each) for name, each in found.items()}
        return values

    @classmethod
    def from_json(cls, line: str | bytes) -> "Record":
        """Return the record in a line, of this schema or the previous one.

        Raises:
            StateError: If the line is not a JSON object of one of them.
        """
        try:
            values = read_json(line)
        except ValueError as error:
            raise StateError(f"not a line of JSON ({error})") from None
        if isinstance(values, dict) and values.get("schema") == 2:
            try:
                values = upgraded(values)
            except Exception as error:  # of values that anybody may have written
                raise StateError(f"not a whole record of schema 2 ({error!r:.200})") from None
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            found = values.get("schema") if isinstance(values, dict) else None
            raise StateError(
                f"not a record of schema {SCHEMA} (found schema {found!r}): "
                "it was written by another program or another version of gmixout"
            )
        names = {each.name for each in fields(cls)}
        needed = {each.name for each in fields(cls) if not _has_default(each)}
        if not needed <= values.keys() <= names:
            raise StateError(
                f"fields missing: {sorted(needed - values.keys())}, "
                f"unknown: {sorted(values.keys() - names)}"
            )
        return cls(**values)


def _as_dict(value: Any) -> Any:
    return vars(value) if is_dataclass(value) else value


def _dicts_in(values: Any) -> Any:
    return {n: _as_dict(v) for n, v in values.items()} if isinstance(values, dict) else values


@cache
def _form(kind: Any) -> Any:
    """Return the `TypedDict` that describes plain values as a dataclass describes its fields."""
    hints = {name: _plain(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
    for each in fields(kind):
        if _has_default(each):
            hints[each.name] = NotRequired[hints[each.name]]
    return TypedDict(kind.__name__, hints)  # type: ignore[operator]


def _plain(hint: Any) -> Any:
    """Return a type with each dataclass replaced by its form."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return _form(hint)
    if origin is Annotated or not args:
        return hint
    plain = tuple(map(_plain, args))
    return reduce(or_, plain) if origin is UnionType else origin[plain]


def _has_default(each: Field[Any]) -> bool:
    return each.default is not MISSING or each.default_factory is not MISSING


def by_group(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each shift group over its parts; the in-domain sets are left out."""
    parts: dict[str, list[float]] = {}
    for name, value in figures.items():
        if name not in ID_SETS:
            parts.setdefault(name.split("/")[0], []).append(value)
    return {group: fmean(values) for group, values in parts.items()}
