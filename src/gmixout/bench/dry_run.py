"""`--dry-run`: cost estimates before anything is written, from a few steps or for another GPU."""

import gc
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import psutil
import torch
from accelerate import PartialState
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import Dataset

from gmixout.bench.costs import Costs, MethodCosts
from gmixout.bench.grid import Grid, Run
from gmixout.bench.progress import print_notes
from gmixout.bench.task import LoadedTask
from gmixout.bench.threads import few_threads
from gmixout.cost_model import DeviceSpec, bytes_of, get_device, predict_step
from gmixout.data import LabelledImages
from gmixout.data.batch import collate
from gmixout.errors import ConfigError, ShortOfMemoryError
from gmixout.evaluation.metrics import predict
from gmixout.loading import loading_processes, make_loader
from gmixout.methods import Method
from gmixout.regularizers import Regularizer
from gmixout.training import TrainingArguments
from gmixout.training.augmentation import Augmented
from gmixout.training.batches import Batches
from gmixout.training.faults import savings
from gmixout.training.imagined import trace_evaluation, trace_training
from gmixout.training.loop import train
from gmixout.training.memory import PeakMemory
from gmixout.training.steps import asks_of

STEPS = 5
"""Steps behind a method's median time: the first are slow, especially on a GPU."""
SMALL_GPU = 24 * 2**30
"""Memory of the GPU that the shipped configs target, in bytes."""
CONTEXT = 2**30
"""Memory of a GPU that CUDA and its libraries take, in bytes, where the device is not there."""


def check_device_spec(name: str | None, dry_run: bool) -> DeviceSpec | None:
    """Return the GPU to predict the costs on; None: measure them here.

    Raises:
        ConfigError: Its figures are not known, or there is no dry run to make.
    """
    if name is None:
        return None
    device = get_device(name)
    if not dry_run:
        raise ConfigError(f"device_spec={name} predicts costs and trains nothing: add --dry-run")
    return device


def dry_run(grid: Grid, methods: Sequence[Method], device: DeviceSpec | None = None) -> None:
    """Train each method for a few steps and print the cost of all runs; write nothing.

    For lp_ft the steps that train everything are measured, and all steps count as such.

    Args:
        grid: The runs.
        methods: The requested methods.
        device: Predict the costs on this GPU by `gmixout.cost_model`, and train nothing.

    Raises:
        ConfigError: None of the methods works with the model, or a step cannot be predicted.
        GmixoutError: A setting does not fit the machine, or the loss is not finite.
    """
    say = partial(Console(highlight=False, markup=False).print, soft_wrap=True)
    for method, reason in grid.left_out.items():
        say(f"{method} does not work with this model: {reason}")
    if not grid.runs:
        raise ConfigError("none of the methods works with this model: there is nothing to run")
    print_notes(grid.loaded)
    costs = measure_costs(grid, methods, device)
    here = _here() if device is None else _predicted(device)
    for line in (
        *_about(grid.loaded, costs, here),
        "",
        _table(costs),
        *_warnings(costs, grid, here),
    ):
        say(line)
    say(
        f"\nin all: runs {costs.runs} ({costs.workers} at a time), soups {costs.soups}, about "
        f"{_time(costs.seconds)}, memory {_gib(costs.memory_bytes)}, disk "
        f"{_gib(costs.disk_bytes)} in {grid.out}. Nothing was written."
    )


def measure_costs(grid: Grid, methods: Sequence[Method], device: DeviceSpec | None = None) -> Costs:
    """Measure or predict the `Costs`; arguments and errors are those of `dry_run`."""
    train, settings = grid.loaded.benchmark.train, grid.runs[0].job.arguments
    model = grid.loaded.pretrained.copy().model
    count, threads = grid.at_a_time() if device is None else (1, torch.get_num_threads())
    groups: dict[Method | None, list[Run]] = {}
    for run in grid.runs:
        groups.setdefault(run.job.method, []).append(run)
    with few_threads(model):
        if count > 1:
            torch.set_num_threads(threads)
        batch, loading = _load(train, settings)
        forward, peak = _evaluate(model, batch, device)
        kinds = tuple(_train(runs, batch, device) for runs in groups.values())
    return Costs(
        kinds=kinds,
        soups=sum(m.several_runs for m in methods) * len({r.job.arguments.seed for r in grid.runs}),
        images=sum(_tests(grid.loaded).values()),
        id_val_images=len(grid.loaded.benchmark.id_val),  # type: ignore[arg-type]
        batch_size=len(batch),
        loading=loading / len(batch),
        forward=forward / len(batch),
        processes=_processes(train, settings),
        workers=count,
        devices=max(1, torch.cuda.device_count()) if device is None else 1,
        model_bytes=sum(value.nbytes for value in model.state_dict().values()),
        evaluation_bytes=peak,
    )


def _load(images: Dataset[Any], settings: TrainingArguments) -> tuple[LabelledImages, float]:
    """Return a batch of training images, and the steady-state seconds to load one."""
    processes = _processes(images, settings)
    count = 2 * max(1, processes) + 1  # each process brings two; the first is waited for
    batches = Batches(images, settings.batch_size, count, settings.seed, order=settings.batches)
    device = PartialState().device
    by_domain = getattr(images, "groups", None) is not None
    seen = Augmented(images, settings, asks={"domains"} if by_domain else ())
    loader = make_loader(seen, device, processes, batch_sampler=batches, collate_fn=collate)
    if not processes:
        list(loader)  # small data sets stay in memory from then on
    loaded = iter(loader)
    first = next(loaded)
    names = getattr(images, "group_names", ())
    batch = LabelledImages(first.images, first.labels, first.domains, names)
    begun = time.perf_counter()
    others = sum(1 for _ in loaded)
    return batch, (time.perf_counter() - begun) / others


def _processes(images: Dataset[Any], settings: TrainingArguments) -> int:
    """Return the number of processes that load the training images."""
    device = PartialState().device
    return loading_processes(Augmented(images, settings), device, settings.num_workers)


def _evaluate(
    model: nn.Module, batch: LabelledImages, elsewhere: DeviceSpec | None
) -> tuple[float, int]:
    """Return seconds and peak memory of a model on a batch, after a warm-up."""
    if elsewhere is not None:
        found = predict_step(trace_evaluation(model, batch.images), elsewhere)
        return found.seconds, found.peak_bytes
    device = PartialState().device
    predict(model.to(device), batch)
    with PeakMemory(device) as memory:
        begun = time.perf_counter()
        predict(model, batch)
        seconds, peak = time.perf_counter() - begun, memory.read()
    model.to("cpu")
    return seconds, peak


def _train(runs: Sequence[Run], batch: LabelledImages, elsewhere: DeviceSpec | None) -> MethodCosts:
    """Take a few steps like one of the runs, on a batch that is already loaded, or trace one."""
    job, builders = runs[0].job, runs[0].builders
    settings, start = job.arguments, job.pretrained()
    models = sum(1 for builder in builders for _ in builder.models(start, job.runs(start)))
    kind = MethodCosts(", ".join(map(str, builders)), len(runs), models)
    if job.method is None:
        return kind
    if settings.select != "last" or settings.soup == "greedy":
        considered = len(settings.validate_at) + 1
        joins = considered - 1 if settings.soup == "greedy" else 0
        kind = replace(kind, validations=considered + joins)
    if every := settings.evaluate_every_steps:
        kind = replace(kind, models=models + len(range(every, settings.steps, every)))
    few = few_steps(settings, job.method.regularizers, STEPS)
    begin = partial(job.method.worst_case().start, seed=settings.seed)
    own, pretrained = job.method.regularizers, job.loaded.pretrained.copy()
    if elsewhere is not None:
        size = bytes_of(pretrained.model)
        trace, trainable = trace_training(pretrained, begin, batch, few, own)
        step = predict_step(trace, elsewhere)
        return replace(
            kind,
            steps=settings.steps,
            step_seconds=step.seconds,
            peak_memory_bytes=step.peak_bytes,
            trainable=trainable,
            fits=size + step.peak_bytes + CONTEXT <= elsewhere.memory_bytes,
        )
    try:
        result = train(pretrained, begin, batch, few, regularizers=own)
    except ShortOfMemoryError:
        result = None
    if result is None:
        gc.collect()  # a process and its model are a cycle, and the next measurement needs memory
        return replace(kind, fits=False)
    return replace(
        kind,
        steps=settings.steps,
        step_seconds=result.step_seconds,
        peak_memory_bytes=result.peak_memory_bytes,
        trainable=result.trainable,
    )


def few_steps(
    arguments: TrainingArguments, regularizers: Sequence[Regularizer], steps: int
) -> TrainingArguments:
    """Return the settings of a few steps like a run's, on a batch that is already augmented.

    Args:
        arguments: Settings of the run.
        regularizers: Regularizers of its method.
        steps: Number of steps.
    """
    few = replace(arguments.shortened(steps), log_every_steps=1, num_workers=0)
    few = replace(few, augment="none", crop_scale=1.0, batches="shuffled")
    # for regularizers that need a second view; else the batch is unchanged
    return replace(few, flip="views" in asks_of((*few.beside, *regularizers)))


class _Machine(NamedTuple):
    """The device that costs are those of."""

    name: str
    memory_bytes: int
    origin: str
    """Where the times come from."""


def _here() -> _Machine:
    device = PartialState().device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU, without GPU"
    return _Machine(name, _memory(device), "all times are measured on it")


def _predicted(device: DeviceSpec) -> _Machine:
    origin = (
        "predicted from its published figures, for eager steps and a host like the measured one, "
        "usually within 10% on an H100 (docs/speed.md); only loading is measured, on this machine"
    )
    return _Machine(device.title, device.memory_bytes, origin)


def _about(task: LoadedTask, costs: Costs, machine: _Machine) -> Iterator[str]:
    """Yield lines about the data, the model, the machine, and the bottleneck."""
    benchmark = task.benchmark
    sets: Counter[str] = Counter()
    for test, count in _tests(task).items():
        sets[test.partition("/")[0]] += count  # a corruption with all its severities
    counted = ", ".join(f"{test} {count:,}" for test, count in sets.items())
    parameters = sum(parameter.numel() for parameter in task.pretrained.model.parameters())
    slower = "loading" if costs.loading > costs.forward else "computing"
    yield task.name
    yield f"data: {len(benchmark.classes)} classes; train {len(benchmark.train):,}, {counted}"  # type: ignore[arg-type]
    yield f"model: {parameters:,} parameters, images {list(benchmark.id_val[0][0].shape)}"
    yield f"device: {machine.name}, {_gib(machine.memory_bytes)}; {machine.origin}"
    yield f"loading: {costs.loading * 1e3:.2f} ms per image, {costs.processes} processes per run"
    yield (
        f"evaluation: {_time(costs.evaluation_seconds)} per model, {costs.images:,} images; "
        f"{costs.forward * 1e3:.2f} ms of computing per image: {slower} is the bottleneck"
    )


def _table(costs: Costs) -> Table:
    table = Table("run", "runs", "models", "trained", "step", "pace", "a run", "memory", box=None)
    for kind in costs.kinds:
        loads = costs.batch_size * costs.loading > kind.step_seconds
        step = f"{costs.step_seconds(kind):.3f} s", "loading" if loads else "computing"
        table.add_row(
            kind.name,
            str(kind.runs),
            str(kind.models),
            *((f"{kind.trainable:,}", *step) if kind.steps else ("", "", "")),
            _time(costs.run_seconds(kind)) if kind.fits else "",
            _gib(costs.model_bytes + kind.peak_memory_bytes) if kind.fits else "too much",
        )
    return table


def _warnings(costs: Costs, grid: Grid, machine: _Machine) -> Iterator[str]:
    there, need = machine.memory_bytes, costs.memory_bytes
    smaller = "use --accumulate N (the same batch in parts), --checkpointing, or fewer workers"
    for kind in costs.kinds:
        if not kind.fits:
            ways = savings(grid.runs[0].job.arguments)
            yield f"warning: {kind.name} does not fit in {_gib(there)}. {ways}"
    for limit, whose in ((there, "this device"), (SMALL_GPU, "a 24 GB GPU")):
        if need > limit:
            yield f"warning: {_gib(need)} of memory is more than {whose} has: {smaller}"
    folder = next(path for path in (grid.out, *grid.out.absolute().parents) if path.exists())
    if costs.disk_bytes > (free := shutil.disk_usage(folder).free):
        yield f"warning: models take {_gib(costs.disk_bytes)}, and {folder} has {_gib(free)} left"


def _tests(task: LoadedTask) -> dict[str, int]:
    """Return the number of images of each test set."""
    return {name: len(images) for name, images in task.benchmark.tests.items()}  # type: ignore[arg-type]


def _memory(device: torch.device) -> int:
    """Return the memory of a device in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
