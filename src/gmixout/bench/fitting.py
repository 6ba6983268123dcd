"""`--fit`: a batch in as many parts as the device's memory asks for."""

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import find_executable_batch_size
from torch.nn.modules.batchnorm import _BatchNorm

from gmixout.bench.checks import check_training
from gmixout.bench.dry_run import few_steps
from gmixout.bench.folder import read_run_config
from gmixout.bench.job import Job
from gmixout.data import LabelledImages
from gmixout.data.batch import collate
from gmixout.errors import ConfigError, ShortOfMemoryError
from gmixout.results import RunFolder
from gmixout.training import TrainingArguments
from gmixout.training.augmentation import Augmented
from gmixout.training.faults import savings
from gmixout.training.loop import train

_STEPS = 2
"""Steps of a trial: the second one has the optimizer's state, too."""


def fit_batch(job: Job, out: Path, resume: bool) -> tuple[TrainingArguments, list[str]]:
    """Return the settings of a run with an `accumulate` that fits the device, and notes on it.

    The batch of an optimizer step stays what it is: each trial takes two steps, from the given
    number of parts on, with half as many images in a pass than the one before.

    Args:
        job: The run.
        out: Its folder; a resumed run goes on with the parts that it began with.
        resume: Whether it is resumed.

    Raises:
        ConfigError: A single image does not fit, or the batch cannot be computed in parts.
        GmixoutError: A trial failed in another way.
    """
    arguments, device = job.arguments, PartialState().device
    if resume and (held := _held(out, arguments)):
        return replace(arguments, accumulate=held), [f"fit: accumulate {held}, as the run began"]
    if not _has_limit(device):
        return arguments, [
            "fit: nothing to fit on a CPU, where the system swaps or ends a process that takes too "
            f"much memory; accumulate stays {arguments.accumulate}"
        ]
    assert job.method is not None
    batch = _batch(job)
    tried: list[int] = []

    def smaller() -> int:
        """Return half as many images in a pass."""
        return 0 if tried[-1] == 1 else -(-tried[-1] // 2)

    def find(images: int) -> int:
        tried.append(images)
        parts = -(-arguments.batch_size // images)
        if len(tried) > 1:
            _check_parts(job, parts)
        if not _fits(job, replace(arguments, accumulate=parts), batch):
            raise torch.OutOfMemoryError("a step is out of memory.")
        return parts

    begin = -(-arguments.batch_size // arguments.accumulate)
    try:
        parts = find_executable_batch_size(find, begin, smaller)()
    except RuntimeError as error:
        if isinstance(error, ConfigError) or "reached zero" not in str(error):
            raise
        smallest = replace(arguments, accumulate=arguments.batch_size)
        raise ConfigError(
            f"--fit: a step does not fit {_named(device)}, not even with one image in a pass. "
            f"{savings(smallest)}"
        ) from None
    return replace(arguments, accumulate=parts), list(_notes(job, parts, tried, device))


def _notes(job: Job, parts: int, tried: list[int], device: torch.device) -> list[str]:
    arguments = job.arguments
    if len(tried) == 1:
        return [
            f"fit: the batch of {arguments.batch_size} fits {_named(device)}"
            f"{f' in {parts} parts' if parts > 1 else ''} (tried on {_STEPS} steps)"
        ]
    notes = [
        f"fit: {tried[-2]} images in a pass do not fit {_named(device)}: --accumulate {parts}, "
        f"{tried[-1]} in a pass; a step is still one of {arguments.batch_size} images"
    ]
    model = job.loaded.pretrained.model
    if not arguments.freeze_batch_norm and any(isinstance(m, _BatchNorm) for m in model.modules()):
        notes.append(
            f"  note: batch norms see {tried[-1]} images at a time without freeze_batch_norm"
        )
    return notes


def _has_limit(device: torch.device) -> bool:
    """Return whether a device says that its memory is exhausted, instead of the system's."""
    return device.type != "cpu"


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"this {device.type}"


def _held(out: Path, arguments: TrainingArguments) -> int | None:
    """Return the parts of a batch in the config of a run folder, if it is of such a batch."""
    if not RunFolder(out).config.exists():
        return None
    held: dict[str, Any] = read_run_config(out)
    parts = held.get("accumulate")
    fits = isinstance(parts, int) and 1 <= parts <= arguments.batch_size
    return parts if fits and held.get("batch_size") == arguments.batch_size else None


def _check_parts(job: Job, parts: int) -> None:
    assert job.method is not None
    settings = replace(job.arguments, accumulate=parts)
    try:
        check_training(job.loaded, settings, job.method.regularizers)
    except ConfigError as error:
        raise ConfigError(
            f"--fit: the batch of {settings.batch_size} does not fit, and cannot be computed in "
            f"parts: {error}"
        ) from error


def _batch(job: Job) -> LabelledImages:
    """Return as many training images as a batch has."""
    dataset, size = job.loaded.benchmark.train, job.arguments.batch_size
    domains = ("domains",) if getattr(dataset, "groups", None) is not None else ()
    seen = Augmented(dataset, job.arguments, domains)
    count = len(dataset)  # type: ignore[arg-type]
    batch = collate([seen[(place, place % count)] for place in range(size)])
    names = getattr(dataset, "group_names", ())
    return LabelledImages(batch.images, batch.labels, batch.domains, names)


def _fits(job: Job, arguments: TrainingArguments, batch: LabelledImages) -> bool:
    """Return whether the most expensive steps of a run fit the device."""
    assert job.method is not None
    own = job.method.regularizers
    begin = partial(job.method.worst_case().start, seed=arguments.seed)
    few = few_steps(arguments, own, _STEPS)
    try:
        train(job.loaded.pretrained.copy(), begin, batch, few, regularizers=own)
    except ShortOfMemoryError:
        fits = False
    else:
        fits = True
    gc.collect()  # a process and its model are a cycle, and the next trial needs memory
    return fits
