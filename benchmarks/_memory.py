"""Peak memory of training, and the largest batch that a budget allows.

On the CPU each measurement has a process of its own: resident memory is the process's, whoever used
it first. On CUDA the allocator counts, and one process will do.
"""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from _trainers import Setting, Trainer

from gmixout.training import PeakMemory

GB = 1e9
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h
ALLOCATORS = {
    "in_use": {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 2**16},
    "resident": {M_ARENA_MAX: 1},
}
"""What glibc is told in the processes that measure memory: to give freed tensors back to the system
at once, so that the peak is memory in use; or to keep what it likes, as it does by default."""
PRELOADED = ["timm", "torch._dynamo", "gmixout.training"]
"""What is slow to import, and done once for all these processes."""
WARM_UP_MODEL = "test_vit"


def measure(setting: Setting, method: str, batch: int) -> dict[str, Any]:
    """Peak memory above the loaded model, and the exact size of what is kept for training.

    The steps measured hold a redraw. What a compiler needs in the first step is no cost of
    training: it is left out.
    """
    model = _warm_up(setting, method)
    images, labels = setting.make_batch(model, batch)
    with PeakMemory(torch.device(setting.device)) as memory:
        trainer = setting.start(method, model)
        if setting.compiler != "none":
            with memory.paused():
                trainer.step(images, labels)
        for _ in range(setting.resample_every + 1):
            trainer.step(images, labels)
        peak_bytes = memory.read()
    trainer.loss(images, labels).backward()
    kept = {
        name: sum(t.nbytes for t in (p.grad, *trainer.optimizer.state[p].values()))
        for name, p in trainer.model.named_parameters()
        if p.requires_grad
    }
    record: dict[str, Any] = {"peak_bytes": peak_bytes, "gradient_and_optimizer_bytes": kept}
    if trainer.masked is not None:
        summary = trainer.masked.summary()
        record["masked"] = {
            "density": summary.density,
            "bytes": summary.bytes,
            "weights": [weight.name for weight in summary.weights],
        }
    return record


def measure_largest(setting: Setting, method: str, budget_gb: float) -> dict[str, Any]:
    """The largest batch whose training, with the model, peaks within a budget in GB.

    The peak of every size that was tried comes with it. Masks stay those of the first period, in
    which a random start depth trains all layers.
    """
    setting = replace(setting, resample_every=10**9)
    model = _warm_up(setting, method)
    model_bytes = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    peaks: dict[int, int | None] = {}
    with PeakMemory(torch.device(setting.device)) as memory:
        trainer = setting.start(method, model)

        def fits(batch: int) -> bool:
            peaks[batch] = _peak(trainer, batch, memory)
            used = None if peaks[batch] is None else model_bytes + peaks[batch]
            return used is not None and used <= budget_gb * GB

        largest = largest_that(fits)
    return {"batch": largest, "model_bytes": model_bytes, "peak_bytes": peaks}


def largest_that(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, to a thirty-second part; 0 if 1 does not. By bisection."""
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 32):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def measure_apart(setting: Setting, method: str, batch: int) -> dict[str, Any]:
    """`measure`, with the peak by each of `ALLOCATORS`; on CUDA torch's own counts."""
    peaks = {}
    record: dict[str, Any] = {}
    for allocator in ALLOCATORS if setting.device == "cpu" else ["in_use"]:
        record = apart(measure, setting, method, batch, allocator)
        peaks[allocator] = record["peak_bytes"]
    return record | {"peak_bytes": peaks}


def apart(
    measurement: Callable[[Setting, str, Any], dict[str, Any]],
    setting: Setting,
    method: str,
    size: float,
    allocator: str = "in_use",
) -> dict[str, Any]:
    """`measure` or `measure_largest` in a process of its own, on CUDA straight away."""
    if setting.device != "cpu":
        return measurement(setting, method, size)
    starts = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in starts else "spawn")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, context, _set_up, (allocator, setting.threads)) as process:
        return process.submit(measurement, setting, method, size).result()


def _set_up(allocator: str, threads: int) -> None:
    """Prepares a process that measures."""
    torch.set_num_threads(threads)
    for parameter, value in ALLOCATORS[allocator].items():
        try:
            ctypes.CDLL(None).mallopt(parameter, value)
        except (AttributeError, OSError, TypeError):
            return  # not glibc


def _warm_up(setting: Setting, method: str) -> torch.nn.Module:
    """A new model, after a step of the method on a tiny one: imports are no cost of training."""
    _collect()
    tiny = replace(setting, model=WARM_UP_MODEL, options={}, compiler="none")
    tiny.start(method, model := tiny.build()).step(*tiny.make_batch(model, 2))
    return setting.build()


def _peak(trainer: Trainer, batch: int, memory: PeakMemory) -> int | None:
    """Peak bytes of a step with a new size of batch; None where the device has too few."""
    try:
        images, labels = trainer.setting.make_batch(trainer.model, batch)
        with memory.paused():  # compiles for the size, makes the optimizer's state
            trainer.step(images, labels)
        trainer.step(images, labels)
        return memory.read()
    except torch.OutOfMemoryError:
        trainer.optimizer.zero_grad()
    _collect()
    return None


def _collect() -> None:
    """Frees what an earlier measurement left on a device, compiled code too."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
