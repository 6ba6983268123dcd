"""Many runs on one benchmark: every method with every learning rate and seed."""

import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import Progress

from gmixout.bench.checks import check_training
from gmixout.bench.folder import is_trained
from gmixout.bench.identity import hash_of, identity_of, identity_of_training
from gmixout.bench.job import Job, make_record
from gmixout.bench.progress import RunBar, bars, print_outcome
from gmixout.bench.task import Task
from gmixout.bench.threads import few_threads, is_small
from gmixout.bench.tracked import finish_tracking, trackers_of
from gmixout.bench.workers import carry_out, workers_for
from gmixout.errors import ConfigError, GmixoutError, TrainingError
from gmixout.files import write_text
from gmixout.methods import METHODS, Derived, Method
from gmixout.reports import write_report
from gmixout.results import MethodFacts, Record, RecordLog, RunFolder, Training
from gmixout.results.model_file import about_model, load_model, save_model
from gmixout.results.selection import id_validation
from gmixout.training import TrainingArguments, TrainingInterrupted
from gmixout.training.faults import explained

_LIVE_SECONDS = 20.0
"""Shortest time between two refreshes of the page during runs."""


@dataclass(frozen=True)
class Run:
    """A training run and the methods that use it."""

    job: Job
    builders: tuple[Method, ...]
    out: Path

    @property
    def folder(self) -> Path:
        """Folder of the run's model."""
        return RunFolder(self.out).run(self.job.run).path

    def __call__(self, on_progress: Callable[[int, float], None]) -> None:
        """Train, evaluate and record what is missing.

        Raises:
            GmixoutError: The run failed. Unexpected errors (out of GPU memory, a bug in a user's
                own method) leave their traceback in the run's folder.
        """
        try:
            log = RunFolder(self.out).log
            with trackers_of(self.job, self.folder, log) as tracking:
                state, training = self.job.train_or_load(self.folder, log, on_progress, tracking)
                made = [self.job.record(each, state, training, log) for each in self.builders]
                if made:
                    finish_tracking(tracking, id_validation.choose(made[0]))
            self.job.finish(self.folder)
            return
        except GmixoutError:
            raise
        except Exception as error:
            note = write_text(RunFolder(self.folder).error, traceback.format_exc())
            text = explained(error) or f"{type(error).__name__}: {error}"
            failure = f"{text} (traceback: {note})"
        # Not from `error`, which holds the failed run's tensors: the next run needs their memory
        raise TrainingError(failure)


class Grid:
    """The runs of a comparison, planned before anything is written.

    Args:
        task: Benchmark and model.
        methods: The methods; several may build on one training run.
        lrs: Learning rates of each method.
        seeds: Seeds of each method.
        settings: All other training settings.
        out: Folder for records and runs.
        workers: Runs at a time; None: see `workers_for`.
        leave_out: Leave out methods that do not work on this model, and list them in `left_out`.
        lrs_of: Other learning rates than `lrs` for some trained methods, by name; methods that are
            not in the comparison are ignored.
        reported: Refresh a page during the runs, and print how each of them ended.

    Raises:
        GmixoutError: A setting is wrong, or a method cannot be used on this model.
    """

    def __init__(
        self,
        task: Task,
        methods: Sequence[Method],
        lrs: Sequence[float],
        seeds: Sequence[int],
        settings: TrainingArguments,
        out: Path,
        workers: int | None = None,
        leave_out: bool = False,
        lrs_of: Mapping[str, Sequence[float]] | None = None,
        reported: bool = True,
    ) -> None:
        own = {name: list(dict.fromkeys(rates)) for name, rates in (lrs_of or {}).items()}
        if not (methods and lrs and seeds and all(own.values())):
            raise ConfigError("a comparison needs at least one method, one lr and one seed")
        trained = {method: method.trained.name if method.trained else "" for method in methods}
        trainable = {name for name, kind in METHODS.items() if not issubclass(kind, Derived)}
        if unknown := sorted(own.keys() - {*trained.values(), *trainable}):
            raise ConfigError(
                f"lrs_of names {', '.join(unknown)}, which is not a method that is trained itself; "
                f"these are: {', '.join(sorted(trainable))}"
            )
        if workers is not None and workers < 1:
            raise ConfigError(f"workers={workers} is not allowed: it must be at least 1")
        self.task, self.out = task, out
        self._settings, self._workers, self._reported = settings, workers, reported
        self.errors: dict[str, GmixoutError] = {}
        """Errors of the runs that failed, by their hashes."""
        self._lrs, self._seeds = list(dict.fromkeys(lrs)), list(dict.fromkeys(seeds))
        self._of_several = [method for method in methods if method.several_runs]
        runs: dict[str, Run] = {}
        rates = dict.fromkeys((*self._lrs, *chain.from_iterable(own.values())))
        for seed, lr, method in product(self._seeds, rates, methods):
            if lr not in own.get(trained[method], self._lrs):
                continue
            run = Run(Job(task, method.trained, replace(settings, lr=lr, seed=seed)), (), out)
            run = runs.get(run.job.run, run)
            # each ingredient of a soup is also a model of its own, and recorded as such
            builder = method.trained if method.several_runs and method.trained else method
            builders = dict.fromkeys((*run.builders, builder))
            runs[run.job.run] = replace(run, builders=tuple(builders))
        self.runs = list(runs.values())
        self.loaded = task.load()
        if any(run.job.method for run in self.runs):
            check_training(self.loaded, settings)  # errors of all runs leave out no method
        self.left_out: dict[Method | None, ConfigError] = {}
        for run in {run.job.method: run for run in self.runs}.values():
            try:
                run.job.check()
            except ConfigError as error:
                if not leave_out:
                    raise
                self.left_out[run.job.method] = error
        self.runs = [run for run in self.runs if run.job.method not in self.left_out]

    def settings(self) -> dict[str, Any]:
        """Return plain values by name, in the spelling of the command line."""
        training = {k: v for k, v in self._settings.plain().items() if k not in ("lr", "seed")}
        return {"lrs": self._lrs, "seeds": self._seeds, **training}

    def may_change(self) -> tuple[str, ...]:
        """Names of settings that a resumed comparison may change."""
        return "lrs", "seeds", *self._settings.conduct()

    def at_a_time(self) -> tuple[int, int]:
        """Return the number of concurrent runs, and the CPU threads of each."""
        return workers_for(is_small(self.loaded.pretrained.model), self._workers)

    @property
    def log(self) -> RecordLog:
        """The records of all models."""
        return RunFolder(self.out).log

    def carry_out(self) -> None:
        """Train what is missing, then make the models from several runs.

        Raises:
            TrainingError: Some runs failed; all others are finished and recorded.
            TrainingInterrupted: After Ctrl-C; `--resume` continues.
        """
        count, threads = self.at_a_time()
        log = self.log
        finished, failed = 0, []
        live = _LivePage(self.out)
        here = few_threads(self.loaded.pretrained.model) if count == 1 else nullcontext()
        with bars() as progress, here:
            total = progress.add_task("all runs", total=len(self.runs))
            under_way = _Bars(progress, self.runs)
            try:
                for number, error in carry_out(self.runs, count, threads, under_way.advance):
                    under_way.remove(number)
                    progress.advance(total)
                    finished += 1
                    if error is not None:
                        failed.append(f"{self.runs[number].job.title}: {error}")
                        self.errors[self.runs[number].job.run] = error
                    if self._reported:
                        live.refresh(f"{finished} of {len(self.runs)} runs")
            except KeyboardInterrupt as stop:
                raise TrainingInterrupted(
                    f"stopped with {finished} of {len(self.runs)} runs finished",
                    getattr(stop, "number", signal.SIGINT),
                ) from None
        with few_threads(self.loaded.pretrained.model):
            self._pool(log)
        if self._reported:
            self._print_notes(log)
        if failed:
            raise TrainingError(
                f"{len(failed)} of {len(self.runs)} runs failed, the others are recorded in "
                f"{self.out}: " + "; ".join(failed)
            )

    def _print_notes(self, log: RecordLog) -> None:
        """Report the steps that runs kept, and runs that ended below their start, once each."""
        by_run = {record.run: record for record in log.read() if record.final}
        for run in self.runs:
            if record := by_run.get(run.job.run):
                print_outcome(run.job.title, record)

    def _pool(self, log: RecordLog) -> None:
        """Make, evaluate and record the models from all runs of a seed."""
        for seed in self._seeds:
            for method in self._of_several:
                parts = [
                    run
                    for run in self.runs
                    if run.job.method == method.trained
                    and run.job.arguments.seed == seed
                    and is_trained(run.folder)
                ]
                if parts:
                    self._pool_runs(method, parts, log)

    def _pool_runs(self, method: Method, parts: list[Run], log: RecordLog) -> None:
        """Make a model from several runs, unless these runs already have one."""
        names = [part.job.run for part in parts]
        what = identity_of_training(method, parts[0].job.arguments)
        what["training"].pop("lr", None)  # any learning rates: with more, it is made again
        run = hash_of({**identity_of(self.loaded), **what})
        if any(record.pool == names for record in log.read(run)[-1:]):
            return
        job, workers = parts[0].job, self._settings.num_workers
        runs = job.runs(*(load_model(part.folder)[0] for part in parts))
        training = _training_of_several([part.job.known(log)[0] for part in parts])
        ((options, state, members),) = method.models(job.pretrained(), runs)
        facts = MethodFacts.of(method.name, options)
        record = make_record(self.loaded, run, facts, state, training, workers)
        record = replace(record, pool=names, members=[names[member] for member in members])
        model = RunFolder(self.out).run(run).model
        save_model(model, state, about_model(record) | self.task.about())
        log.append(record)


def _training_of_several(records: Sequence[Record]) -> Training:
    """Return the training of a model made from several runs, for its record."""
    every = [record.training for record in records if record.training is not None]
    steps = sum(training.taken for training in every)
    times = [each.step_seconds for each in every if each.step_seconds is not None]
    peaks = [each.peak_memory_bytes for each in every if each.peak_memory_bytes is not None]
    return replace(
        every[0],
        lr=None,
        step=steps,
        steps=steps,
        loss=None,
        kept_step=None,
        done_steps=None,
        soup_steps=None,
        trainable=max(training.trainable for training in every),
        seconds=sum(training.seconds for training in every),
        step_seconds=median(times) if times else None,
        peak_memory_bytes=max(peaks, default=None),
    )


class _Bars:
    """A progress bar for each active run."""

    def __init__(self, progress: Progress, runs: Sequence[Run]) -> None:
        self._progress, self._runs = progress, runs
        self._bars: dict[int, RunBar] = {}

    def advance(self, number: int, step: int, loss: float) -> None:
        """Move the bar of a run."""
        if number not in self._bars:
            run = self._runs[number]
            self._bars[number] = RunBar(self._progress, run.job.title, run.job.arguments.steps)
        self._bars[number].advance(step, loss)

    def remove(self, number: int) -> None:
        """Remove the bar of a finished run."""
        if number in self._bars:
            self._bars.pop(number).remove()


class _LivePage:
    """The page of a running comparison, refreshed from time to time."""

    def __init__(self, out: Path) -> None:
        self._out, self._last = out, time.monotonic()

    def refresh(self, running: str) -> None:
        """Rewrite the page unless it was just written."""
        if time.monotonic() - self._last > _LIVE_SECONDS:
            with suppress(GmixoutError):  # a failing page must not end the training
                write_report(self._out, running=running)
            self._last = time.monotonic()
