"""Distribution of runs over cores or devices: one process per active run."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from types import FrameType
from typing import Any, Protocol

import torch

from gmixout.errors import GmixoutError, TrainingError
from gmixout.training import TrainingInterrupted
from gmixout.training.interrupts import WORKER_STOP


class Work(Protocol):
    """A piece of work for another process."""

    def __call__(self, on_progress: Callable[[int, float], None]) -> None:
        """Do the work; call `on_progress` from time to time with steps done and the loss."""


OnWork = Callable[[int, int, float], None]
"""Gets the number of the piece of work, its steps done and its loss."""


def carry_out(
    work: Sequence[Work], workers: int, threads: int, on_progress: OnWork
) -> Iterator[tuple[int, GmixoutError | None]]:
    """Do every piece of work and yield the number of each when it is done.

    Args:
        work: The pieces, in the order of their start. With one worker they are done in this
            process, one after the other; otherwise they must be picklable.
        workers: Number of concurrent pieces. With GPUs each process gets one of them.
        threads: CPU threads of each process.
        on_progress: Called while waiting for the iterator.

    Yields:
        The number of a finished piece and its error, if any. A `GmixoutError` ends only its own
        piece; any other error ends everything.

    Raises:
        TrainingInterrupted: After Ctrl-C, SIGTERM or SIGHUP, when the active runs have saved their
            state. An interrupted evaluation is repeated when the run is resumed.
    """
    if workers == 1:
        for number, piece in enumerate(work):
            yield number, _outcome(piece, number, on_progress)
        return
    context = multiprocessing.get_context("spawn")
    told, stop, started = context.SimpleQueue(), context.Event(), context.Value("i", 0)
    pool = ProcessPoolExecutor(
        min(workers, len(work)) or 1,
        mp_context=context,
        initializer=_start_worker,
        initargs=(told, stop, started, threads, os.getpid()),
    )
    with pool:
        with _deferred():  # a process that is just starting would die of Ctrl-C with a traceback
            futures: dict[Future[Any], int] = {
                pool.submit(_in_worker, piece, number): number for number, piece in enumerate(work)
            }
        try:
            left = set(futures)
            while left:
                done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
                while not told.empty():
                    on_progress(*told.get())
                for future in done:
                    yield futures[future], future.result()
        except BaseException as error:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                number = getattr(error, "number", signal.SIGINT)
                raise TrainingInterrupted("stopped; the active runs are saved", number) from None
            if isinstance(error, BrokenProcessPool):
                raise TrainingError(
                    "a worker process died without an error, most often for lack of memory; "
                    "finished runs are recorded. Use --resume, perhaps with fewer --workers"
                ) from error
            raise


def workers_for(small: bool, asked: int | None = None) -> tuple[int, int]:
    """Return the number of concurrent runs, and the CPU threads of each.

    The requested number. By default, one per GPU; without a GPU one per core for models too small
    for several threads, and a single run with all cores otherwise.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if gpus := torch.cuda.device_count():
        count, threads = gpus, max(1, cores // gpus)
    else:
        count, threads = (cores, 1) if small else (1, torch.get_num_threads())
    return (count, threads) if asked is None else (asked, max(1, count * threads // asked))


def _outcome(piece: Work, number: int, on_progress: OnWork) -> GmixoutError | None:
    try:
        piece(lambda step, loss: on_progress(number, step, loss))
    except GmixoutError as error:
        # Its frames hold the model, which the next piece may need the memory of
        error.__cause__ = error.__context__ = None
        failure = error.with_traceback(None)
    else:
        return None
    gc.collect()
    return failure


@contextmanager
def _deferred() -> Iterator[None]:
    """Delay Ctrl-C and similar signals to the end, also for processes started inside."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_FOR_THE_PARENT = {getattr(signal, n) for n in ("SIGINT", "SIGHUP") if hasattr(signal, n)}
"""Signals that a terminal sends to all processes of a command; the parent handles them."""
_told: Any = None
_stop: Event | None = None
_busy = False


def _start_worker(told: Any, stop: Event, started: Any, threads: int, parent: int) -> None:
    global _told, _stop
    _told, _stop = told, stop
    for number in _FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    if WORKER_STOP not in _FOR_THE_PARENT:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_PARENT)
    signal.signal(WORKER_STOP, _stop_work)
    with started.get_lock():
        rank = started.value
        started.value += 1
    if gpus := torch.cuda.device_count():  # before CUDA starts in this process
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[rank % gpus]
    torch.set_num_threads(threads)
    threading.Thread(target=_follow, args=(parent, stop), daemon=True).start()


def _follow(parent: int, stop: Event) -> None:
    """Stop work at the parent's request, and end this process when the parent is gone.

    Otherwise nobody else could resume its run.
    """
    told = False
    while os.getppid() == parent:
        if told:
            time.sleep(0.5)
        elif stop.wait(0.5):
            _wake(WORKER_STOP)
            told = True
    os._exit(1)


def _wake(number: int) -> None:
    """Send a signal to the main thread, so that it also interrupts waiting."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def _stop_work(number: int, frame: FrameType | None) -> None:
    """Handle `WORKER_STOP`, unless a training loop handles it and saves."""
    if _busy:
        raise TrainingInterrupted("stopped")


def _in_worker(piece: Work, number: int) -> GmixoutError | None:
    global _busy
    assert _stop is not None
    if _stop.is_set():
        raise TrainingInterrupted("stopped")
    _busy = True
    try:
        return _outcome(piece, number, lambda *progress: _told.put(progress))
    except TrainingInterrupted as stopped:
        if stopped.number == signal.SIGTERM:  # its run is saved; this process should end
            os._exit(128 + stopped.number)
        raise
    finally:
        _busy = False
