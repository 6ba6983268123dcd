"""One training run in its folder: trained once, evaluated, recorded, found again when done."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from gmixout.bench.code_version import git_commit, versions
from gmixout.bench.folder import is_trained, load_model, save_model
from gmixout.bench.task import SCHEMA, LoadedTask, Task
from gmixout.errors import ConfigError, StateError
from gmixout.evaluation.metrics import check_metrics, evaluate, figure, summarise_shifts
from gmixout.losses.cross_entropy import class_counts
from gmixout.methods import Finetuning, Method, Runs
from gmixout.methods.zero_shot import zero_shot
from gmixout.named import NotAllowedError, changed, defaults_of, from_spec, identity, plain
from gmixout.regularizers import Regularizer
from gmixout.results import (
    BenchmarkFacts,
    Machine,
    MethodFacts,
    Record,
    RecordLog,
    RunFolder,
    Training,
)
from gmixout.training.arguments import TrainingArguments
from gmixout.training.checkpoint import delete_checkpoint
from gmixout.training.loop import check_settings, train
from gmixout.weightspace import State

_OWN_FIELDS = ("lr", "head_lr", "seed", "steps", "batch_size")
"""Training settings that have a field of their own in a record; `settings` holds the others."""
_COSTS = ("trainable", "seconds", "step_seconds", "peak_memory_bytes")
_LAST_LOSSES = 30
"""Steps that a finished run's training loss is the mean of."""


def method_of(spec: Any) -> Method | None:
    """Return the method that a file spells; None if there is none, or not with these options.

    Raises:
        NotAllowedError: It is of the user's own, and its module is not allowed.
    """
    try:
        return from_spec(spec, Method)  # type: ignore[type-abstract]
    except NotAllowedError:
        raise
    except ConfigError:
        return None


def hash_of(what: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that stand for plain values."""
    text = json.dumps({"schema": SCHEMA, **what}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity_of_training(method: Method, arguments: TrainingArguments) -> dict[str, Any]:
    """Return what tells a training run from others on its benchmark, as plain values.

    What has its default value is left out, so that a run stays itself when options are added.
    """
    own = arguments.identity()
    settings = {k: plain(v, identity) for k, v in changed(arguments).items() if k in own}
    return {"method": identity(method), "training": settings}


def identity_of(task: LoadedTask) -> dict[str, Any]:
    """Returns what tells a task from others in the hash of a run."""
    return {"benchmark": task.name, **task.identity}


def digests_of(task: LoadedTask) -> dict[str, str]:
    """Returns what tells data and start of a task from others of its name, where known."""
    identity, found = task.identity, {}
    if "images" in identity:
        found["data"] = hash_of({name: identity.get(name) for name in ("images", "classes")})
    if "pretrained" in identity:
        found["pretrained"] = str(identity["pretrained"])
    return found


def load_weights(task: LoadedTask, state: State) -> nn.Module:
    """Returns the task's model with these weights, on the device.

    Raises:
        StateError: The weights are of another model.
    """
    return fitted(task.pretrained.copy().model, state, f"benchmark {task.name}")


def fitted(model: nn.Module, state: State, of: str) -> nn.Module:
    """Returns a model with other weights, on the device.

    Args:
        model: Takes the weights.
        state: The weights.
        of: What they should be of, for the error.

    Raises:
        StateError: They are of another model.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise StateError(f"these weights do not fit {of}: {error}") from error
    return model.to(PartialState().device)


def id_validation_figure(task: LoadedTask, state: State, num_workers: int | None = None) -> float:
    """What soups are chosen by: the official metric of weights on in-domain validation data."""
    benchmark = task.benchmark
    model = load_weights(task, state)
    return figure(model, benchmark.id_val, benchmark.metric, num_workers=num_workers)


def about_model(record: Record) -> dict[str, Any]:
    """Return what a model file says of itself: enough to find its record again."""
    return _about(record.benchmark.name, record.run, record.method.name, record.method.spelled)


def _about(benchmark: str, run: str, method: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"benchmark": benchmark, "run": run, "method": method, "options": options}


def make_record(
    task: LoadedTask,
    run: str,
    method: MethodFacts,
    state: State,
    training: Training | None,
    num_workers: int | None = None,
) -> Record:
    """Evaluate a model and return the record of it.

    Args:
        task: What it is evaluated on.
        run: Hash of what made it.
        method: What made it, with what tells the model from others of the run.
        state: Its weights.
        training: What is known of its training; None without one.
        num_workers: Processes that decode images; by default see `loading_processes`.
    """
    model, benchmark = load_weights(task, state), task.benchmark
    device = PartialState().device
    scores = evaluate(model, benchmark, num_workers=num_workers)
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
        notes=[*task.notes, *notes],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        machine=Machine(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            threads=torch.get_num_threads(),
            versions=versions(),
            git=git_commit(),
        ),
    )


def check_training(
    task: LoadedTask, arguments: TrainingArguments, regularizers: Sequence[Regularizer] = ()
) -> None:
    """Finds out before training whether settings go with a task, whatever the method.

    Args:
        task: What is trained on, and from where.
        arguments: The settings.
        regularizers: What acts beside the method.

    Raises:
        ConfigError: They do not.
        DataError: There is nothing to train on.
    """
    benchmark, train = task.benchmark, task.benchmark.train
    check_settings(task.pretrained.model, train, arguments, regularizers)
    if arguments.logit_adjustment:
        counts = class_counts(train, len(benchmark.classes))
        acting: tuple[Any, ...] = (arguments.criterion, *arguments.beside, *regularizers)
        if counts.min() == 0 and (soft := [each.name for each in acting if each.soft]):
            empty = benchmark.classes[int(counts.argmin())]
            raise ConfigError(
                f"logit_adjustment: class {empty} has no training image, and its loss would be "
                f"infinite with the soft targets of {', '.join(soft)}: leave that out"
            )


@dataclass(frozen=True)
class Job:
    """One training run, or none at all: `method=None` is the pretrained model as it is."""

    task: Task
    method: Method | None
    arguments: TrainingArguments

    @property
    def loaded(self) -> LoadedTask:
        """Data and model."""
        return self.task.load()

    @property
    def run(self) -> str:
        """Hash of what decides the outcome."""
        what = identity_of(self.loaded)
        if self.method is not None:
            what |= identity_of_training(self.method, self.arguments)
        return hash_of(what)

    @property
    def title(self) -> str:
        """What the run is, for a progress bar."""
        if self.method is None:
            return "pretrained"
        return f"{self.method.name} lr={self.arguments.lr:g} seed={self.arguments.seed}"

    def check(self) -> None:
        """Finds out what can be found out before a folder is touched.

        Raises:
            GmixoutError: The data or the model do not allow this run.
        """
        check_metrics(self.loaded.benchmark)
        if self.method is not None:
            check_training(self.loaded, self.arguments, self.method.regularizers)
            self.method.check_steps(self.arguments.steps)
            self.method.start(self.loaded.pretrained.copy(), self.arguments.seed)

    def known(self, log: RecordLog) -> list[Record]:
        """The records of finished models that were built on this run."""
        return [record for record in log.read(self.run) if record.final]

    def is_finished(self, folder: Path, log: RecordLog) -> bool:
        """Whether the run is trained, saved and recorded."""
        return is_trained(folder) and bool(self.known(log))

    def obtain(
        self, folder: Path, log: RecordLog, on_progress: Callable[[int, float], None]
    ) -> tuple[State, Training | None]:
        """Returns the finetuned weights and what is known of the run; trains unless that is done.

        The checkpoint stays until `finish`: however a process ends, the next one finds either all
        of a run or where to go on with it.

        Args:
            folder: Where the model file and, meanwhile, the checkpoint are.
            log: Where the records are.
            on_progress: See `gmixout.training.train`.
        """
        if self.is_finished(folder, log):
            return load_model(folder)[0], self.known(log)[0].training
        own, training = RunFolder(folder), None
        if self.method is None:
            state = self.pretrained()
        else:
            state, training = self._train(own.checkpoint, log, on_progress)
        method = self.method or zero_shot()
        about = _about(self.loaded.name, self.run, method.name, method.options)
        save_model(own.model, state, about | self.task.about())
        return state, training

    def record(
        self, method: Method, state: State, training: Training | None, log: RecordLog
    ) -> list[Record]:
        """Evaluates and records the models a method builds on the run; old records are kept.

        Returns:
            The records of all of them.
        """
        usual = defaults_of(type(method))  # options may have been added since a record was written
        own = (record for record in self.known(log) if record.method.name == method.name)
        done = {_text(record.method.spelled, usual): record for record in own}
        records, start = [], None
        for options, variant, _ in method.models(self.pretrained(), self.runs(state)):
            record = done.get(_text(options, usual))
            if record is None:
                record = self._record(method, options, variant, training)
                if self.method is not None:
                    start = self._start(log) if start is None else start
                    record = record.against_start(start)
                log.append(record)
            records.append(record)
        return records

    def _start(self, log: RecordLog) -> float:
        """ID validation of the pretrained model: recorded already, or measured."""
        name = zero_shot().name
        for record in log.read():
            if (record.method.name, record.benchmark.name) == (name, self.loaded.name):
                return record.id_val
        workers = self.arguments.num_workers
        return id_validation_figure(self.loaded, self.pretrained(), workers)

    def _record(
        self, method: Method, options: dict[str, Any], state: State, training: Training | None
    ) -> Record:
        facts, workers = MethodFacts.of(method.name, options), self.arguments.num_workers
        return make_record(self.loaded, self.run, facts, state, training, num_workers=workers)

    def finish(self, folder: Path) -> None:
        """Notes that everything is recorded: the checkpoint goes."""
        delete_checkpoint(RunFolder(folder).checkpoint)

    def pretrained(self) -> State:
        """The weights that training starts from."""
        return self.loaded.pretrained.copy().model.state_dict()

    def runs(self, *finetuned: State) -> Runs:
        """Return finished runs as methods make models of them.

        Args:
            *finetuned: The weights that each ended with.
        """
        workers = self.arguments.num_workers
        score = partial(id_validation_figure, self.loaded, num_workers=workers)
        return Runs(finetuned, score)

    def _train(
        self, checkpoint: Path, log: RecordLog, on_progress: Callable[[int, float], None]
    ) -> tuple[State, Training]:
        method, arguments = self.method, self.arguments
        assert method is not None
        every = arguments.evaluate_every_steps
        self.check()  # imports what the method needs, which is no memory of its training
        settings = {name: getattr(arguments, name) for name in _OWN_FIELDS}
        settings["settings"] = {
            name: value for name, value in arguments.identity().items() if name not in _OWN_FIELDS
        }

        def evaluate_on_the_way(step: int, finetuning: Finetuning, loss: float) -> None:
            if any(record.step == step for record in log.read(self.run)):
                return  # before the process ended that had no checkpoint of this step yet
            training = Training(**settings, step=step, loss=loss)
            log.append(self._record(method, method.options, finetuning.snapshot(), training))

        result = train(
            self.loaded.pretrained.copy(),
            partial(method.start, seed=arguments.seed),
            self.loaded.benchmark.train,
            arguments,
            checkpoint,
            self.run,
            on_progress,
            evaluate_on_the_way,
            range(every, arguments.steps, every) if every else (),
            method.regularizers,
        )
        costs = {name: getattr(result, name) for name in _COSTS}
        loss = fmean(result.losses[-_LAST_LOSSES:])
        training = Training(**settings, **costs, step=arguments.steps, loss=loss)
        return result.model.state_dict(), training


def _text(options: dict[str, Any], usual: Mapping[str, Any]) -> str:
    """The options that are not at their defaults."""
    there = {name: plain(value) for name, value in usual.items()}
    unusual = {n: v for n, v in options.items() if n not in there or v != there[n]}
    return json.dumps(unusual, sort_keys=True)
