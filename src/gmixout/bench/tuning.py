"""`--tune`: the learning rate by in-domain validation, in short runs with a budget said before."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from gmixout.bench.choices import ChosenSettings
from gmixout.bench.folder import before_run, run_folder
from gmixout.bench.grid import Grid
from gmixout.bench.task import LoadedTask, Task
from gmixout.errors import ConfigError, DivergedError, TrainingError
from gmixout.methods import Method
from gmixout.named import spec_of
from gmixout.results import Record, RunFolder
from gmixout.results.selection import id_validation
from gmixout.training import TrainingArguments

RATES_TRIED = 5
"""Learning rates that `--tune` alone tries."""
MOST_RATES = 25
"""Most learning rates: they span twelve orders of magnitude."""
_STEP = 10**0.5
"""Ratio of neighbouring rates: two for each order of magnitude."""
_SHARE = 4
"""A short run has this part of the steps of the run itself,"""
_LEAST_STEPS = 50
"""and no fewer than these, unless the run itself has."""
_FEW = 50
"""A validation set with fewer images is called small."""


@dataclass(frozen=True)
class ValidationTask(Task):
    """A task that is tested on its in-domain validation set, and on nothing else."""

    def load(self) -> LoadedTask:
        """Load data and model without the test sets; see `Task.load`."""
        plain = Task(**{each.name: getattr(self, each.name) for each in fields(Task)})
        loaded = plain.load()
        own, identity = loaded.benchmark, dict(loaded.identity)
        if "images" in identity:
            identity["images"] = {name: identity["images"][name] for name in ("train", "id_val")}
        return replace(
            loaded,
            name=f"{loaded.name}, validation alone",
            benchmark=replace(own, id_test=own.id_val, shifts={}, dev_shifts={}, summary=None),
            identity=identity,
        )

    @classmethod
    def of_task(cls, task: Task) -> "ValidationTask":
        """Return a task without its test sets."""
        return cls(**{each.name: getattr(task, each.name) for each in fields(Task)})


@dataclass(frozen=True)
class Search:
    """A search of the learning rate of one run, planned before anything is trained.

    Args:
        task: Data and model.
        method: The method.
        arguments: Settings of the run itself; the search is around its `lr`.
        count: Number of learning rates.

    Raises:
        ConfigError: The number is out of range, or there is nothing to search.
    """

    task: Task
    method: Method
    arguments: TrainingArguments
    count: int = RATES_TRIED

    def __post_init__(self) -> None:
        """Refuse a number out of range, and methods that are not trained."""
        if not 2 <= self.count <= MOST_RATES:
            raise ConfigError(
                f"--tune {self.count}: the number of learning rates to try must be from 2 to "
                f"{MOST_RATES}; --tune alone tries {RATES_TRIED}"
            )
        if self.method.trained is None:
            raise ConfigError(f"--tune: method {self.method} trains nothing; leave it out")
        if self.arguments.lr == 0:
            raise ConfigError("--tune searches around --lr, and there is nothing around 0")

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates, rising, with that of the run in the middle or just above it."""
        places, lr = range(-(self.count // 2), self.count - self.count // 2), self.arguments.lr
        return tuple(float(f"{lr * _STEP**place:.2g}") if place else float(lr) for place in places)

    @property
    def short(self) -> TrainingArguments:
        """Settings of the short runs."""
        steps = min(self.arguments.steps, max(_LEAST_STEPS, self.arguments.steps // _SHARE))
        return self.arguments.shortened(steps)

    @property
    def budget(self) -> list[str]:
        """What the search costs, as lines."""
        steps, whole = self.short.steps, self.arguments.steps
        every, images = self.count * steps, len(self.task.load().benchmark.id_val)  # type: ignore[arg-type]
        return [
            f"tune: {self.count} learning rates around {self.arguments.lr:g} "
            f"({', '.join(f'{rate:g}' for rate in self.rates)}), a run of {steps} steps each (the "
            f"run itself: {whole})",
            f"  budget: {every:,} steps, {every / whole:.2g} times those of the run itself, and "
            f"{self.count} evaluations of the {images:,} ID validation images; test images and "
            "shifts are not looked at",
        ]

    def carry_out(
        self, out: Path, resume: bool, overwrite: bool, comments: tuple[str, ...]
    ) -> tuple[float, list[str]]:
        """Train what is missing; return the best learning rate and the outcome as lines.

        Args:
            out: Folder of the run itself, in which the search has a folder.
            resume: Continue the search in the folder.
            overwrite: Delete the run in the folder first.
            comments: Lines for the head of the search's config.yaml.

        Raises:
            GmixoutError: The folder cannot be used, every run diverged, or one of them failed in
                another way.
        """
        folder, task = RunFolder(out).tuning.path, ValidationTask.of_task(self.task)
        seed = self.arguments.seed
        settings = replace(self.short, lr=0.0, seed=0)  # each run gets an lr, a seed
        grid = Grid(task, [self.method], self.rates, [seed], settings, folder, reported=False)
        config = {**task.plain(), "methods": [spec_of(self.method)], **grid.settings()}
        changes = ("lrs", *settings.conduct())
        with (
            before_run(out, resume, overwrite),
            run_folder(folder, config, resume, False, changes, task, comments),
        ):
            try:
                grid.carry_out()
            except TrainingError:
                others = [e for e in grid.errors.values() if not isinstance(e, DivergedError)]
                if others or len(grid.errors) == len(grid.runs):
                    raise
            runs = {run.job.run for run in grid.runs}
            name = self.method.name
            records = [r for r in grid.log.read() if r.run in runs and r.method.name == name]
        best = id_validation.choose(records)
        assert best.lr is not None
        return best.lr, list(self._outcome(best, records))

    def _outcome(self, best: Record, records: list[Record]) -> Iterator[str]:
        scores: dict[float | None, float] = {}
        for record in records:  # of several models of a run the best
            seen = scores.get(record.lr, record.id_val)
            scores[record.lr] = max(record.id_val, seen, key=best.worth)
        metric = best.benchmark.metric
        shown = "{:.1%}".format if best.metric.is_share else "{:.4g}".format
        for rate in self.rates:
            said = shown(scores[rate]) if rate in scores else "diverged"
            yield f"  lr {rate:g}: {said}{' <- chosen' if rate == best.lr else ''}"
        yield (
            f"  lr {best.lr:g}: the best ID validation {metric} of {self.count} runs of "
            f"{self.short.steps} steps (--tune)"
        )
        level = [rate for rate in scores if scores[rate] == scores[best.lr] and rate != best.lr]
        if level:
            yield f"  level with {', '.join(f'{r:g}' for r in level)}: the lowest is taken"
        if (images := best.scores["id_val"].examples) < _FEW and metric == "accuracy":
            yield (
                f"  note: with {images} validation images one image is {100 / images:.1f} points: "
                "a coarse choice"
            )
        if best.lr in (edge := (min(scores), max(scores))) and len(scores) > 1:  # type: ignore[type-var]
            side = "lowest" if best.lr == edge[0] else "highest"
            yield f"  note: it is the {side} that ended: --lr {best.lr:g} --tune searches further"


def tuned(
    search: Search, chosen: ChosenSettings, out: Path, resume: bool, overwrite: bool
) -> ChosenSettings:
    """Return the settings of a run with the learning rate that a search finds best.

    Args:
        search: The search; its budget and its outcome are printed.
        chosen: The settings before.
        out: Folder of the run.
        resume: See `Search.carry_out`.
        overwrite: See `Search.carry_out`.
    """
    chosen = chosen.with_lines(chosen.arguments, search.budget)
    lr, lines = search.carry_out(out, resume, overwrite, chosen.lines)
    return chosen.with_lines(replace(chosen.arguments, lr=lr), lines)
