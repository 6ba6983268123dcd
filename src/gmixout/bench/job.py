"""One training run in its folder: trained once, evaluated, recorded, and reused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import torch
from accelerate import PartialState
from torch import nn

from gmixout.allowed import NotAllowedError
from gmixout.bench.checks import check_training
from gmixout.bench.code_version import git_commit, versions
from gmixout.bench.crew import Shared
from gmixout.bench.folder import is_trained
from gmixout.bench.identity import digests_of, hash_of, identity_of, identity_of_training
from gmixout.bench.task import LoadedTask, Task
from gmixout.bench.tracked import tracked_scores
from gmixout.errors import ConfigError, StateError
from gmixout.evaluation.detection import Detecting
from gmixout.evaluation.metrics import (
    OnPredictions,
    check_metrics,
    evaluate,
    figure,
    summarise_shifts,
)
from gmixout.evaluation.official import METRICS
from gmixout.methods import Finetuning, Method, Runs
from gmixout.methods.zero_shot import zero_shot
from gmixout.named import defaults_of, from_spec, plain
from gmixout.ranks import ALONE, Ranks
from gmixout.results import (
    BenchmarkFacts,
    Machine,
    MethodFacts,
    Record,
    RecordLog,
    RunFolder,
    Training,
)
from gmixout.results.model_file import load_model, save_model
from gmixout.training.arguments import TrainingArguments
from gmixout.training.checkpoint import delete_checkpoint
from gmixout.training.loop import check_optimizer, train
from gmixout.training.tracking import Tracking, check_trackers
from gmixout.training.trainer import TrainingResult
from gmixout.use.gathering import Gathering
from gmixout.weightspace import State

Gathered: TypeAlias = list[tuple[dict[str, Any], Gathering]]
"""The predictions of models, beside the options that make them."""
_OWN_FIELDS = ("lr", "head_lr", "seed", "steps", "batch_size")
"""Training settings with their own field in a record; `settings` holds the others."""
_COSTS = ("trainable", "seconds", "step_seconds", "peak_memory_bytes")
_LAST_LOSSES = 30
"""Steps behind the mean training loss of a finished run."""


def method_of(spec: Any) -> Method | None:
    """Return the method of a spec in a file; None if it or its options do not exist.

    Raises:
        NotAllowedError: It is the user's own, and its module is not allowed.
    """
    try:
        return from_spec(spec, Method)  # type: ignore[type-abstract]
    except NotAllowedError:
        raise
    except ConfigError:
        return None


def load_weights(task: LoadedTask, state: State) -> nn.Module:
    """Return the task's model with these weights, on the device.

    Raises:
        StateError: The weights belong to another model.
    """
    return fitted(task.pretrained.copy().model, state, f"benchmark {task.name}")


def fitted(model: nn.Module, state: State, of: str) -> nn.Module:
    """Return a model with other weights, on the device.

    Args:
        model: Takes the weights.
        state: The weights.
        of: The expected model, for the error.

    Raises:
        StateError: They belong to another model.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise StateError(f"these weights do not fit {of}: {error}") from error
    return model.to(PartialState().device)


def id_validation_figure(task: LoadedTask, state: State, num_workers: int | None = None) -> float:
    """Return the official metric of weights on in-domain validation data."""
    model, own = load_weights(task, state), task.benchmark
    return figure(model, own.id_val, own.metric, num_workers=num_workers, task=own.task)


def id_validation_worth(task: LoadedTask, state: State, num_workers: int | None = None) -> float:
    """Return the official metric such that higher is better, for soups and the best model."""
    own = METRICS[task.benchmark.metric]
    return own.worth(id_validation_figure(task, state, num_workers))


def make_record(
    task: LoadedTask,
    run: str,
    method: MethodFacts,
    state: State,
    training: Training | None,
    num_workers: int | None = None,
    seen: OnPredictions | None = None,
) -> Record:
    """Evaluate a model and return its record.

    Args:
        task: The task to evaluate on.
        run: Hash of the run.
        method: The method, with the options that identify the model among those of the run.
        state: Its weights.
        training: Facts on its training; None without one.
        num_workers: Processes that decode images; by default see `loading_processes`.
        seen: Called with the predictions on each set, those of unknown classes as well.
    """
    model, benchmark = load_weights(task, state), task.benchmark
    device, detecting = PartialState().device, Detecting(seen)
    scores = evaluate(model, benchmark, num_workers=num_workers, seen=detecting.see)
    summary, notes = summarise_shifts(benchmark.summary, scores)
    return Record(
        run=run,
        benchmark=BenchmarkFacts(
            name=task.name,
            parts=dict(task.parts),
            metric=benchmark.metric,
            digests=digests_of(task),
        ),
        method=method,
        training=training,
        scores=scores,
        summary=summary,
        detection=detecting.measure(model, benchmark.unknown, num_workers),
        notes=[*task.notes, *notes],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        machine=Machine(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            threads=torch.get_num_threads(),
            versions=versions(),
            git=git_commit(),
        ),
    )


@dataclass(frozen=True)
class Job(Shared):
    """One training run, or none: `method=None` is the pretrained model itself."""

    task: Task
    method: Method | None
    arguments: TrainingArguments
    ranks: Ranks = field(default=ALONE, compare=False)
    """Processes that share its work."""

    @property
    def loaded(self) -> LoadedTask:
        """Data and model."""
        return self.task.load()

    @property
    def run(self) -> str:
        """Hash of everything that determines the result."""
        what = identity_of(self.loaded)
        if self.method is not None:
            what |= identity_of_training(self.method, self.arguments)
        return hash_of(what)

    @property
    def title(self) -> str:
        """Title of the run, for a progress bar."""
        if self.method is None:
            return "pretrained"
        return f"{self.method.name} lr={self.arguments.lr:g} seed={self.arguments.seed}"

    def check(self) -> None:
        """Check what can be checked before a folder is touched.

        Raises:
            GmixoutError: The data or the model do not allow this run.
        """
        check_metrics(self.loaded.benchmark)
        check_trackers(self.arguments.tracker)
        if self.method is not None:
            check_training(self.loaded, self.arguments, self.method.regularizers)
            self.method.check_steps(self.arguments.steps)
            started = self.method.start(self.loaded.pretrained.copy(), self.arguments.seed)
            check_optimizer(started, self.arguments)

    def known(self, log: RecordLog) -> list[Record]:
        """Return the records of finished models from this run."""
        return [record for record in log.read(self.run) if record.final]

    def is_finished(self, folder: Path, log: RecordLog) -> bool:
        """Return whether the run is trained, saved and recorded."""
        return is_trained(folder) and bool(self.known(log))

    def train_or_load(
        self,
        folder: Path,
        log: RecordLog,
        on_progress: Callable[[int, float], None],
        tracking: Tracking | None = None,
    ) -> tuple[State, Training | None]:
        """Return the finetuned weights and facts on the run; train if necessary.

        The checkpoint stays until `finish`: however a process ends, the next one finds either a
        complete run or a state to resume.

        Args:
            folder: Folder of the model file and, during training, the checkpoint.
            log: The records.
            on_progress: See `gmixout.training.train`.
            tracking: The trackers of the run.
        """
        if self.is_finished(folder, log):
            return load_model(folder)[0], self.known(log)[0].training
        own, training = RunFolder(folder), None
        if self.method is None:
            state = self.pretrained()
        else:
            state, training = self._train(own.checkpoint, log, on_progress, tracking)
        method = self.method or zero_shot()
        about: dict[str, Any] = {"benchmark": self.loaded.name, "run": self.run}
        about |= {"method": method.name, "options": method.options}
        save_model(own.model, state, about | self.task.about())
        return state, training

    def record(
        self,
        method: Method,
        state: State,
        training: Training | None,
        log: RecordLog,
        gathered: Gathered | None = None,
    ) -> list[Record]:
        """Evaluate and record the models a method makes from the run; keep old records.

        Args:
            method: Makes the models.
            state: The finetuned weights.
            training: Facts on the training.
            log: The records.
            gathered: Takes the predictions of each model that is evaluated.

        Returns:
            The records of all of them.
        """
        usual = defaults_of(type(method))  # options may have been added since a record was written
        known = (record for record in self.known(log) if record.method.name == method.name)
        done = {_text(record.method.spelled, usual): record for record in known}
        records, start = [], None
        for options, variant, _ in method.models(self.pretrained(), self.runs(state)):
            record = done.get(_text(options, usual))
            if record is None:
                own = Gathering(self.loaded.benchmark.task)
                seen = None if gathered is None else own.see
                record = self.on_all("measure", method, options, variant, training, seen=seen)
                if gathered is not None:
                    gathered.append((options, own))
                if self.method is not None:
                    start = self._start(log) if start is None else start
                    record = record.against_start(start)
                log.append(record)
            records.append(record)
        return records

    def _start(self, log: RecordLog) -> float:
        """Return the ID validation of the pretrained model, from a record or measured."""
        name = zero_shot().name
        for record in log.read():
            if (record.method.name, record.benchmark.name) == (name, self.loaded.name):
                return record.id_val
        return id_validation_figure(self.loaded, self.pretrained(), self.arguments.num_workers)

    def measure(
        self,
        method: Method,
        options: dict[str, Any],
        state: State,
        training: Training | None,
        seen: OnPredictions | None = None,
    ) -> Record:
        """Evaluate a model of the run; return its record."""
        facts, workers = MethodFacts.of(method.name, options), self.arguments.num_workers
        return make_record(self.loaded, self.run, facts, state, training, workers, seen)

    def finish(self, folder: Path) -> None:
        """Delete the checkpoint: everything is recorded."""
        delete_checkpoint(RunFolder(folder).checkpoint)

    def pretrained(self) -> State:
        """Return the weights that training starts from."""
        return self.loaded.pretrained.copy().model.state_dict()

    def validate(self, state: State) -> float:
        """Return the worth of weights on in-domain validation data; higher is better."""
        return float(self.on_all("worth_of", state))

    def worth_of(self, state: State) -> float:
        """Return it as one of the ranks."""
        return id_validation_worth(self.loaded, state, self.arguments.num_workers)

    def runs(self, *finetuned: State) -> Runs:
        """Return finished runs, for methods that make models from them.

        Args:
            *finetuned: The final weights of each.
        """
        return Runs(finetuned, self.validate)

    def _train(
        self,
        checkpoint: Path,
        log: RecordLog,
        on_progress: Callable[[int, float], None],
        tracking: Tracking | None = None,
    ) -> tuple[State, Training]:
        method, arguments, tracking = self.method, self.arguments, tracking or Tracking()
        assert method is not None
        self.check()  # imports what the method needs, which must not count as training memory
        settings = {name: getattr(arguments, name) for name in _OWN_FIELDS}
        settings["settings"] = {
            name: value for name, value in arguments.identity().items() if name not in _OWN_FIELDS
        }

        def evaluate_on_the_way(step: int, finetuning: Finetuning, loss: float) -> None:
            # recorded by a process that ended before its checkpoint of this step
            found = [record for record in log.read(self.run) if record.step == step]
            if not found:
                training, state = Training(**settings, step=step, loss=loss), finetuning.snapshot()
                found = [self.on_all("measure", method, method.options, state, training)]
                log.append(found[0])
            tracking.add(tracked_scores(found[0]))

        result: TrainingResult = self.on_all(
            "take_steps",
            observe=partial(self.lead, evaluate_on_the_way),
            validate=partial(self.lead, self.validate),
            checkpoint=checkpoint,
            run=self.run,
            on_progress=on_progress,
            track=tracking.log,
        )
        costs = {name: getattr(result, name) for name in _COSTS}
        loss = fmean(result.losses[-_LAST_LOSSES:])
        chosen = arguments.select != "last"
        training = Training(
            **settings,
            **costs,
            step=arguments.steps,
            loss=loss,
            kept_step=result.kept_step if chosen else None,
            done_steps=result.step if chosen else None,
            soup_steps=[*result.soup_steps] or None,
        )
        return result.model.state_dict(), training

    def take_steps(self, **own: Any) -> TrainingResult:
        """Train as one of the ranks.

        Args:
            **own: What rank 0 gives `train`; the others follow where it observes and validates.
        """
        method, arguments = self.method, self.arguments
        assert method is not None
        every = arguments.evaluate_every_steps
        return train(
            self.loaded.pretrained.copy(),
            partial(method.start, seed=arguments.seed),
            self.loaded.benchmark.train,
            arguments,
            observe_at=range(every, arguments.steps, every) if every else (),
            regularizers=method.regularizers,
            **(own or {"observe": self.follow, "validate": self.follow}),
        )


def _text(options: dict[str, Any], usual: Mapping[str, Any]) -> str:
    """Return the non-default options as text."""
    there = {name: plain(value) for name, value in usual.items()}
    unusual = {n: v for n, v in options.items() if n not in there or v != there[n]}
    return json.dumps(unusual, sort_keys=True)
