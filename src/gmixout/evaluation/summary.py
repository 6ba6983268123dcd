"""Records over seeds: one cell for each setting of a method, with its mean and its spread."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Protocol, TypeVar

from scipy.special import stdtrit

from gmixout.errors import StateError
from gmixout.evaluation.records import Record


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. One seed has no spread: `sd` is None then, never 0."""

    mean: float
    sd: float | None
    """Standard deviation over seeds, with n - 1 in the denominator."""
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Estimate":
        """Mean and spread of one value a seed."""
        values = list(values)
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values))

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Student's t interval of the mean; None when there is one seed only."""
        if self.sd is None:
            return None
        half = stdtrit(self.n - 1, (1 + confidence) / 2) * self.sd / self.n**0.5
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Cell:
    """One setting of one method, run with one or several seeds."""

    method: str
    variant: str
    """What tells this curve of the method from its others ("mask_rate=0.95"); mostly empty."""
    lr: float | None
    alpha: float | None
    records: tuple[Record, ...]
    """One for each seed, in the order of seeds."""

    @property
    def series(self) -> tuple[str, str]:
        """The curve this cell lies on."""
        return self.method, self.variant

    @property
    def id_val(self) -> float:
        """In-domain validation accuracy, mean over seeds."""
        # rounded, so that means equal on paper are a tie for the selection rule too
        return round(fmean(record.id_val for record in self.records), 9)

    def estimate(self, value: Callable[[Record], float]) -> Estimate:
        """Mean and spread of any figure of the records: `cell.estimate(lambda r: r.ood)`."""
        return Estimate.of(value(record) for record in self.records)


class Candidate(Protocol):
    """What a selection rule may look at: nothing out of domain, nothing of the test sets."""

    @property
    def id_val(self) -> float:
        """In-domain validation accuracy."""

    @property
    def lr(self) -> float | None:
        """Learning rate."""

    @property
    def alpha(self) -> float | None:
        """Place on an interpolation path."""


C = TypeVar("C", bound=Candidate)


def select_by_id_validation(candidates: Iterable[C]) -> C:
    """The selection rule "id_val": highest in-domain validation accuracy.

    Of equals the one with the lower learning rate, then the lower alpha: the one that moved less.

    Args:
        candidates: Records of one method, or cells (then the mean over seeds decides).

    Raises:
        StateError: If there are no candidates.
    """
    candidates = list(candidates)
    if not candidates:
        raise StateError("nothing to select from: there are no records")
    return min(candidates, key=lambda each: (-each.id_val, each.lr or 0.0, each.alpha or 0.0))


def summarise(records: Iterable[Record]) -> list[Cell]:
    """Records gathered over seeds, sorted by learning rate and alpha within each curve.

    Curves keep the order in which they first occur. A model that was evaluated again counts once,
    with its latest record.

    Raises:
        StateError: If the records are of several benchmarks, or two runs of one cell have the
            same seed, so that something differs between them that no cell shows.
    """
    records = list(records)
    benchmarks = sorted({record.benchmark for record in records})
    if len(benchmarks) > 1:
        raise StateError(f"records of several benchmarks {benchmarks}: report on one at a time")
    latest = {(r.run, r.method, r.seed, json.dumps(r.options, sort_keys=True)): r for r in records}
    unique = list(latest.values())
    variants = _variants(unique)
    groups: dict[tuple[str, str, float | None, float | None], list[Record]] = {}
    for record, variant in zip(unique, variants, strict=True):
        groups.setdefault((record.method, variant, record.lr, record.alpha), []).append(record)
    cells = [
        Cell(*key, tuple(sorted(group, key=lambda record: record.seed)))
        for key, group in groups.items()
    ]
    for cell in cells:
        _refuse_repeated_seeds(cell)
    order = list(dict.fromkeys(cell.series for cell in cells))
    return sorted(cells, key=lambda c: (order.index(c.series), c.lr or 0.0, c.alpha or 0.0))


def by_series(cells: Iterable[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """The cells of each curve."""
    series: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        series.setdefault(cell.series, []).append(cell)
    return series


def _variants(records: Sequence[Record]) -> list[str]:
    """For each record the settings in which its method's records differ; rate and alpha aside."""
    settings = [
        {(key, json.dumps(value)) for key, value in record.options.items() if key != "alpha"}
        | {("steps", str(record.steps)), ("batch_size", str(record.batch_size))}
        for record in records
    ]
    common: dict[str, set[tuple[str, str]]] = {}
    for record, setting in zip(records, settings, strict=True):
        common[record.method] = common.get(record.method, setting) & setting
    return [
        ", ".join(f"{key}={value}" for key, value in sorted(setting - common[record.method]))
        for record, setting in zip(records, settings, strict=True)
    ]


def _refuse_repeated_seeds(cell: Cell) -> None:
    seeds = [record.seed for record in cell.records]
    repeated = {seed for seed in seeds if seeds.count(seed) > 1}
    if repeated:
        runs = sorted({record.run for record in cell.records if record.seed in repeated})
        raise StateError(
            f"several runs of {cell.method} (lr={cell.lr}, alpha={cell.alpha}) with seed "
            f"{sorted(repeated)[0]}: {', '.join(runs)}. They differ in a setting that tables do "
            "not show (head_lr, say); keep such runs in folders of their own."
        )
