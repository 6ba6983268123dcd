"""One evaluated model: what was run, how well it did, what it cost and on which machine.

Tables, figures and pages are functions of records alone, so a record holds all they need, as values
of their own: nothing is read out of a name that is meant for people.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timezone
from functools import cache, cached_property, reduce
from operator import or_
from statistics import fmean
from types import UnionType
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

from annotated_types import Ge, Interval, MaxLen
from typing_extensions import NotRequired, TypedDict

from gmixout.errors import StateError
from gmixout.evaluation.metrics import Amount, Count, Scores, Share
from gmixout.evaluation.official import HARDEST
from gmixout.plain import checked, read_json
from gmixout.results.schema2 import upgraded

SCHEMA = 3
ID_SETS = ("id_val", "id_test")

Name: TypeAlias = Annotated[str, MaxLen(4000)]

_BELOW = "ended at"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """The method that made a model, by names and plain values."""

    name: Name
    """As on the command line; with regularizers beside it "gmixout+sam"."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options of the method itself."""
    alpha: Share | None = None
    """Place on the line from the pretrained (0) to the finetuned weights (1), if it has one."""
    base: Name | None = None
    """The method that regularizers stand beside; None without any."""
    regularizers: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """The options of each regularizer by its name."""

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> "MethodFacts":
        """Return the facts of a method from its options as `Method.variants` yields them."""
        own = dict(options)
        alpha = own.pop("alpha", None)
        if "adds" not in own:
            return cls(name=name, options=own, alpha=alpha)
        base, adds = own["of"], own["adds"]
        return cls(
            name=name,
            options=base["init_args"],
            alpha=alpha,
            base=base["class_path"],
            regularizers={each["class_path"]: each["init_args"] for each in adds},
        )

    @property
    def spelled(self) -> dict[str, Any]:
        """The options as `Method.variants` yields them and model files have them."""
        place = {} if self.alpha is None else {"alpha": self.alpha}
        if self.base is None:
            return place | self.options
        adds = [_spec(name, options) for name, options in self.regularizers.items()]
        return place | {"of": _spec(self.base, self.options), "adds": adds}

    @property
    def settings(self) -> dict[str, Any]:
        """All options by name, those of regularizers as "sam.rho"; not alpha."""
        adds = {
            f"{name}.{option}": value
            for name, options in self.regularizers.items()
            for option, value in options.items()
        }
        return self.options | adds


def _spec(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": name, "init_args": options}


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training run behind a model, or all runs of a soup together."""

    lr: Amount | None
    """Learning rate as the user gave it; None for a soup of several."""
    head_lr: Amount | None
    seed: Count
    step: Count
    """Optimizer steps done when the model was evaluated; `steps` at the end of training."""
    steps: Annotated[int, Ge(1)]
    """Optimizer steps of the whole run."""
    batch_size: Count | None
    settings: dict[str, Any] = field(default_factory=dict)
    """All other settings that decide the outcome."""
    loss: Annotated[float, Interval(ge=-1e100, le=1e100)] | None = None
    """Mean training loss of the steps before the evaluation."""
    trainable: Count = 0
    """Number of values that got a gradient in a step."""
    seconds: Amount = 0.0
    """Wall time of the training run."""
    step_seconds: Amount | None = None
    """Median wall time of an optimizer step."""
    peak_memory_bytes: Count | None = None
    """Peak memory of training above the loaded model."""

    @property
    def all_settings(self) -> dict[str, Any]:
        """All settings but the learning rate and the seed."""
        own = {name: getattr(self, name) for name in ("steps", "batch_size", "head_lr")}
        return self.settings | own


@dataclass(frozen=True, kw_only=True)
class BenchmarkFacts:
    """The data and the model to start from."""

    name: Name
    """For people; equal names are one benchmark."""
    parts: dict[str, Any] = field(default_factory=dict)
    """What the name stands for, as values: `data`, its options, `model`; empty for benchmarks that
    have a name alone."""
    metric: Name = "accuracy"
    """The official metric, a name in `official.METRICS`."""
    digests: dict[Name, Name] = field(default_factory=dict)
    """Of what the name stood for: `data`, all images with their labels, and `pretrained`, the
    weights that training started from; as far as they are known."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a model was evaluated, and with which code."""

    device: Name
    threads: Count
    versions: dict[Name, Name]
    git: Name | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One evaluated model. Accuracies, metrics and calibration errors are fractions in [0, 1].

    What is chosen and compared by is `official`: the benchmark's official metric, mostly accuracy.

    Texts are made `printable`. The annotations are what `checked` holds a record to, wherever it
    comes from.

    Raises:
        StateError: If a field has a foreign type, a figure is out of range, `scores` lacks
            `id_val` or `id_test`, or the official metric is missing for a set.
    """

    schema: int = SCHEMA
    """Version of this layout."""
    time: Name = field(default_factory=_now)
    """When the model was evaluated, UTC, ISO 8601."""
    run: Name
    """Hash of what the training run is; the variants of one run (WiSE-FT's alphas) share it."""
    benchmark: BenchmarkFacts
    method: MethodFacts
    training: Training | None
    """None when nothing was trained."""
    scores: dict[Name, Scores]
    """`id_val`, `id_test` and one entry for each shift, named "group" or "group/part"."""
    summary: dict[Name, Amount] = field(default_factory=dict)
    """Official figures over all shifts, by name in `official.SUMMARIES`."""
    parameters: Annotated[int, Ge(1)]
    machine: Machine
    pool: list[Name] = field(default_factory=list)
    """Hashes of the training runs that a soup was made of or chosen from; empty for others."""
    members: list[Name] = field(default_factory=list)
    """Those of `pool` that are in the mean."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures has to know."""

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
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
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

    @property
    def lr(self) -> float | None:
        """Learning rate; None when nothing was trained, or with several."""
        return self.training.lr if self.training else None

    @property
    def seed(self) -> int:
        """Seed of the training; 0 when nothing was trained."""
        return self.training.seed if self.training else 0

    @property
    def step(self) -> int:
        """Optimizer steps that led to the model; 0 when nothing was trained."""
        return self.training.step if self.training else 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; 0 when nothing was trained."""
        return self.training.steps if self.training else 0

    @property
    def alpha(self) -> float | None:
        """See `MethodFacts.alpha`."""
        return self.method.alpha

    @property
    def final(self) -> bool:
        """Whether this is the model at the end of its training (and not on the way there)."""
        return self.step == self.steps

    def of(self, metric: str) -> dict[str, float]:
        """Return a metric of each set that has it."""
        every = {name: each.of(metric) for name, each in self.scores.items()}
        return {name: value for name, value in every.items() if value is not None}

    @cached_property
    def official(self) -> dict[str, float]:
        """The official metric of each set; "the figure" of a set everywhere in this project."""
        return self.of(self.benchmark.metric)

    @property
    def id_val(self) -> float:
        """The figure of in-domain validation: the one that choices are made on."""
        return self.official["id_val"]

    @property
    def id(self) -> float:
        """The figure of the in-domain test."""
        return self.official["id_test"]

    @cached_property
    def shifts(self) -> dict[str, float]:
        """The figure of each shift group: the mean over its parts.

        Where a benchmark has no other domains, its worst-served images stand for them: few-shot or
        worst-group accuracy of the in-domain test, if it has one; else there are none.
        """
        own = self.scores["id_test"].figures
        return by_group(self.official) or {name: own[name] for name in HARDEST if name in own}

    @cached_property
    def ood(self) -> float:
        """Mean over the shift groups, so that a group with many parts weighs no more.

        Without any it is `id`, the only test there is.
        """
        return fmean(self.shifts.values() or [self.id])

    @property
    def worst(self) -> float:
        """The figure of the shift group that suffers most; as `ood` without any."""
        return min(self.shifts.values(), default=self.id)

    @property
    def model(self) -> tuple[str, str, str, str, int, int | None]:
        """What this model is: of records with the same, the latest one counts.

        They are of one model that was evaluated twice, or of a soup that was made of more runs.
        """
        options = json.dumps(self.method.spelled, sort_keys=True)
        step = None if self.final else self.step
        return self.benchmark.name, self.run, self.method.name, options, self.seed, step

    @property
    def below_start(self) -> str:
        """The note that `against_start` left; empty without one."""
        return next((note for note in self.notes if note.startswith(_BELOW)), "")

    def against_start(self, start: float) -> "Record":
        """Return the record, with a note where the model is clearly worse than its start.

        Clearly: by more than two standard errors of the difference of two shares of `id_val`.

        Args:
            start: `id_val` of the pretrained model.
        """
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
        """Return what `dataclasses.asdict` does, without copies."""
        values = {each.name: _as_dict(getattr(self, each.name)) for each in fields(self)}
        if isinstance(scores := values["scores"], dict):
            values["scores"] = {name: _as_dict(each) for name, each in scores.items()}
        return values

    @classmethod
    def from_json(cls, line: str | bytes) -> "Record":
        """Return the record that a line holds, of this schema or the one before.

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


@cache
def _form(kind: Any) -> Any:
    """Return the `TypedDict` that says of plain values what a dataclass says of its fields."""
    hints = {name: _plain(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
    for each in fields(kind):
        if _has_default(each):
            hints[each.name] = NotRequired[hints[each.name]]
    return TypedDict(kind.__name__, hints)  # type: ignore[operator]


def _plain(hint: Any) -> Any:
    """Return a type with the form of each dataclass in its place."""
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
