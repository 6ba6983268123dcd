"""One line of JSON for every model that was evaluated: the evidence behind every table.

Tables, figures and pages are pure functions of these records, so a record holds all they need:
what was run, what came out, what it cost and on which machine.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from functools import cache
from io import FileIO
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, TypeAlias, get_type_hints

from annotated_types import Ge, Interval, MaxLen
from filelock import FileLock
from typing_extensions import TypedDict

from gmixout.errors import StateError
from gmixout.evaluation.official import HARDEST
from gmixout.plain import checked, read_json

SCHEMA = 2
ID_SETS = ("id_val", "id_test")

Share: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
Amount: TypeAlias = Annotated[float, Interval(ge=0, le=1e100)]
Count: TypeAlias = Annotated[int, Ge(0)]
Name: TypeAlias = Annotated[str, MaxLen(4000)]


_BELOW = "ended at"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One evaluated model. Accuracies, metrics and calibration errors are fractions in [0, 1].

    What is chosen and compared by is `official`: the benchmark's official metric, mostly accuracy.

    Texts are made `printable`. The annotations are what `checked` holds a record to, wherever it
    comes from.

    Raises:
        StateError: If a field has a foreign type, a figure is out of range, `accuracy` lacks
            `id_val` or `id_test`, another figure is not given for the same sets, or the official
            metric is missing for one of them.
    """

    schema: int = SCHEMA
    """Version of this layout."""
    time: Name = field(default_factory=_now)
    """When the model was evaluated, UTC, ISO 8601."""
    run: Name
    """Hash of what the training run is; the variants of one run (WiSE-FT's alphas) share it."""
    benchmark: Name
    method: Name
    options: dict[str, Any]
    """The method's own settings; `alpha` is the place on WiSE-FT's interpolation path."""
    lr: Amount | None
    """Learning rate as the user gave it; None when nothing was trained."""
    head_lr: Amount | None
    seed: Count
    step: Count
    """Optimizer steps done when the model was evaluated; `steps` at the end of training."""
    steps: Count
    """Optimizer steps of the whole run; 0 when nothing was trained."""
    batch_size: Count | None
    training: dict[str, Any]
    """All other training settings that decide the outcome; empty when nothing was trained."""
    train_loss: Annotated[float, Interval(ge=-1e100, le=1e100)] | None
    """Mean training loss of the stretch of steps before the evaluation."""
    accuracy: dict[Name, Share]
    """`id_val`, `id_test` and one entry for each shift, named "group" or "group/part"; whatever
    the official metric is."""
    nll: dict[Name, Amount]
    """Mean negative log-likelihood in nats of the same sets."""
    ece: dict[Name, Share]
    """Expected calibration error of the same sets (see `metrics.Scores`)."""
    examples: dict[Name, Count]
    """Images in each of the same sets."""
    trainable: Count
    """Number of values that got a gradient in a step."""
    parameters: Annotated[int, Ge(1)]
    seconds: Amount
    """Wall time of the training run."""
    step_seconds: Amount | None
    """Median wall time of an optimizer step."""
    peak_memory_bytes: Count | None
    """Peak memory of training above the loaded model."""
    device: Name
    threads: Count
    versions: dict[Name, Name]
    git: Name | None
    pool: list[Name] = field(default_factory=list)
    """Hashes of the training runs that a soup was made of or chosen from; empty for others."""
    members: list[Name] = field(default_factory=list)
    """Those of `pool` that are in the mean."""
    metric: Name = "accuracy"
    """The benchmark's official metric, a name in `official.METRICS`."""
    figures: dict[Name, dict[Name, Share]] = field(default_factory=dict)
    """Of a set its metrics by name, other than accuracy and as far as the set has them."""
    summary: dict[Name, Amount] = field(default_factory=dict)
    """Official figures over all shifts, by name in `official.SUMMARIES`."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures has to know."""
    digests: dict[Name, Name] = field(default_factory=dict)
    """Of what the benchmark's name stood for: `data`, all images with their labels, and
    `pretrained`, the weights that training started from; as far as they are known."""

    def __post_init__(self) -> None:
        try:
            values = checked(vars(self), _form())
        except ValueError as error:
            raise StateError(f"record field {error}") from None
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.schema != SCHEMA:
            raise StateError(
                f"a record of schema {self.schema}; this version of gmixout reads schema {SCHEMA}"
            )
        if not set(ID_SETS) <= self.accuracy.keys():
            raise StateError(
                f"a record's accuracy needs `id_val` and `id_test`, got {sorted(self.accuracy)}"
            )
        for name in ("nll", "ece", "examples"):
            if getattr(self, name).keys() != self.accuracy.keys():
                raise StateError(
                    f"a record's {name} must be of the same sets as its accuracy, "
                    f"{sorted(self.accuracy)}, got {sorted(getattr(self, name))}"
                )
        if unknown := sorted(self.figures.keys() - self.accuracy.keys()):
            raise StateError(
                "a record's figures must be of the same sets as its accuracy, "
                f"{sorted(self.accuracy)}, got {unknown}"
            )
        alpha = self.alpha
        if alpha is not None and not (type(alpha) in (int, float) and 0 <= alpha <= 1):
            raise StateError(f"record field `options.alpha` is {alpha!r}: it must be in [0, 1]")
        without = self.accuracy.keys() - self.official.keys()
        if without:
            raise StateError(
                f"a record's {self.metric} is missing for {', '.join(sorted(without))}"
            )
        if not 0 <= self.step <= self.steps:
            raise StateError(f"step={self.step} of a run of {self.steps} steps")

    @property
    def final(self) -> bool:
        """Whether this is the model at the end of its training (and not on the way there)."""
        return self.step == self.steps

    @property
    def alpha(self) -> float | None:
        """Place on the line from the pretrained (0) to the finetuned weights (1), if it has one."""
        return self.options.get("alpha")

    def of(self, metric: str) -> dict[str, float]:
        """A metric of each set that has it."""
        if metric == "accuracy":
            return self.accuracy
        return {name: each[metric] for name, each in self.figures.items() if metric in each}

    @property
    def official(self) -> dict[str, float]:
        """The official metric of each set; "the figure" of a set everywhere in this project."""
        return self.of(self.metric)

    @property
    def id_val(self) -> float:
        """The figure of in-domain validation: the one that choices are made on."""
        return self.official["id_val"]

    @property
    def id(self) -> float:
        """The figure of the in-domain test."""
        return self.official["id_test"]

    @property
    def shifts(self) -> dict[str, float]:
        """The figure of each shift group: the mean over its parts.

        Where a benchmark has no other domains, its worst-served images stand for them: few-shot or
        worst-group accuracy of the in-domain test, if it has one; else there are none.
        """
        own = self.figures.get("id_test", {})
        return by_group(self.official) or {name: own[name] for name in HARDEST if name in own}

    @property
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
        options = json.dumps(self.options, sort_keys=True)
        step = None if self.final else self.step
        return self.benchmark, self.run, self.method, options, self.seed, step

    @property
    def below_start(self) -> str:
        """The note that `against_start` left; empty without one."""
        return next((note for note in self.notes if note.startswith(_BELOW)), "")

    def against_start(self, start: float) -> "Record":
        """The record, with a note where the model is clearly worse than the one it was made of.

        Clearly: by more than two standard errors of the difference of two shares of `id_val`.

        Args:
            start: `id_val` of the pretrained model.
        """
        end = self.id_val
        variance = (start * (1 - start) + end * (1 - end)) / max(1, self.examples["id_val"])
        if start - end <= 2 * variance**0.5:
            return self
        what = "" if self.metric == "accuracy" else f" ({self.metric})"
        note = (
            f"{_BELOW} {100 * end:.1f}%{what} on ID validation, below its start of "
            f"{100 * start:.1f}%: lower --lr"
        )
        return replace(self, notes=[*self.notes, note])

    def to_json(self) -> str:
        """The record as one line, without its line break."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> "Record":
        """The record that a line holds.

        Raises:
            StateError: If the line is no JSON object of this schema.
        """
        try:
            values = read_json(line)
        except ValueError as error:
            raise StateError(f"not a line of JSON ({error})") from None
        if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
            found = values.get("schema") if isinstance(values, Mapping) else None
            raise StateError(
                f"not a record of schema {SCHEMA} (found schema {found!r}): "
                "it was written by another program or another version of gmixout"
            )
        names = {each.name for each in fields(cls)}
        needed = {each.name for each in fields(cls) if _has_no_default(each)}
        if not needed <= values.keys() <= names:
            raise StateError(
                f"fields missing: {sorted(needed - values.keys())}, "
                f"unknown: {sorted(values.keys() - names)}"
            )
        return cls(**values)


@cache
def _form() -> Any:
    return TypedDict("Record", get_type_hints(Record, include_extras=True))  # type: ignore[operator]


def _has_no_default(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def by_group(figures: Mapping[str, float]) -> dict[str, float]:
    """The mean of each shift group over its parts; the in-domain sets are left out."""
    parts: dict[str, list[float]] = {}
    for name, value in figures.items():
        if name not in ID_SETS:
            parts.setdefault(name.split("/")[0], []).append(value)
    return {group: fmean(values) for group, values in parts.items()}


class RecordLog:
    """The records of a run folder, in one file that only ever grows.

    Several processes may append; a lock file beside it keeps their lines apart.

    A writer that is killed can leave one torn line at the end. Reading passes over it, and the
    next `append` cuts it off; anything else that is broken is an error, not a silent loss.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, record: Record) -> None:
        """Write one record and return when it is on the disk.

        Raises:
            StateError: It cannot be written; the file is as before then.
        """
        line = record.to_json().encode() + b"\n"
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        with _named(self.path), lock, open(self.path, "a+b", buffering=0) as file:
            file.seek(0)
            content = file.read()
            lines, torn = _split(content)
            end = len(content) - len(torn)
            if torn:
                file.truncate(end)
            elif lines and content[-1:] not in _ENDS:  # an editor left out the last line break
                line = b"\n" + line
            try:
                _write_all(file, line)
            except OSError:
                file.truncate(end)
                raise
            os.fsync(file.fileno())

    def read(self, run: str = "") -> list[Record]:
        """The records in the order they were written; none when there is no file yet.

        Args:
            run: Hash of the training run whose records are wanted; empty: all.

        Raises:
            StateError: If the file cannot be read, or a line other than a torn last one is broken;
                names file and line.
        """
        if not self.path.exists():
            return []
        with _named(self.path):
            lines, _ = _split(self.path.read_bytes())
        records = []
        for number, line in enumerate(lines, start=1):
            if run.encode() not in line:
                continue
            try:
                record = Record.from_json(line)
                records += [record] if run in ("", record.run) else []
            except StateError as error:
                raise StateError(
                    f"{self.path}, line {number}: {error}. Correct or remove that line; "
                    "the others stay as they are."
                ) from None
        return records


_ENDS = (b"\n", b"\r")  # an editor may have written the line breaks of any system


def _split(content: bytes) -> tuple[list[bytes], bytes]:
    """The lines of a log, and what a killed writer left of one at its end."""
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    if lines and content[-1:] not in _ENDS and _is_torn(lines[-1]):
        return lines[:-1], lines[-1]
    return lines, b""


def _is_torn(tail: bytes) -> bool:
    """Whether a last line without line break is the beginning of a record, and no more."""
    try:
        read_json(tail)
    except ValueError:
        return True
    return False


def _write_all(file: FileIO, content: bytes) -> None:
    """Writes every byte: on a full disk the system takes some of them without an error."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names the file in an error of the system."""
    try:
        yield
    except OSError as error:
        raise StateError(f"{path} cannot be used: {error.strerror or error}") from error
