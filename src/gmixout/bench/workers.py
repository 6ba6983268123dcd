"""Runs spread over the cores or devices that there are: one process for each run under way."""

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
    """A piece of work that another process can be told of."""

    def __call__(self, on_progress: Callable[[int, float], None]) -> None:
        """Does it; `on_progress` is to be called now and then with steps done and the loss."""


OnWork = Callable[[int, int, float], None]
"""Gets the number of the piece of work, its steps done and its loss."""


def carry_out(
    work: Sequence[Work], workers: int, threads: int, on_progress: OnWork
) -> Iterator[tuple[int, GmixoutError | None]]:
    """Does every piece of work and yields the number of each when it is done.

    Args:
        work: The pieces, in the order in which they are begun. With one worker they are done in
            this process, one after the other; otherwise they must be picklable.
        workers: How many are under way at a time. With GPUs each process gets one of them.
        threads: CPU threads of each process.
        on_progress: Called while the iterator is waited for.

    Yields:
        The number of a finished piece and the error it ended with, if it did. An error ends its own
        piece alone; whatever is no `GmixoutError` ends everything.

    Raises:
        TrainingInterrupted: After Ctrl-C, SIGTERM or SIGHUP, when the runs under way have saved
            where they stand. An evaluation is cut short, and made anew when the run goes on.
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
        with _deferred():  # a process that is just beginning would die of Ctrl-C with a traceback
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
                raise TrainingInterrupted("stopped; the runs under way are saved", number) from None
            if isinstance(error, BrokenProcessPool):
                raise TrainingError(
                    "a worker process died without a word, for lack of memory most often: what was "
                    "finished is recorded. Go on with --resume, with fewer --workers perhaps"
                ) from error
            raise


def workers_for(small: bool, asked: int | None = None) -> tuple[int, int]:
    """How many runs go at a time, and the CPU threads of each.

    As many as are asked for. When nobody says: one for each GPU; without a GPU one for each core
    while the model is worth a single thread, and one that has all cores otherwise.
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
    """Ctrl-C and its like wait until the end, also for processes that are begun inside."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_FOR_THE_PARENT = {getattr(signal, n) for n in ("SIGINT", "SIGHUP") if hasattr(signal, n)}
"""Signals that a terminal sends to all processes of a command; the parent decides about them."""
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
    """Stops work when the parent says so, and ends this process when the parent is gone.

    Nobody else may go on with its run then.
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
    """Sends a signal to the main thread, so that it is heard in the middle of waiting, too."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def _stop_work(number: int, frame: FrameType | None) -> None:
    """Is what `WORKER_STOP` does, unless a training loop hears it and saves."""
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
        if stopped.number == signal.SIGTERM:  # its run is saved; this process was to end
            os._exit(128 + stopped.number)
        raise
    finally:
        _busy = False
