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
from multiprocessing.synchronize import Event
from typing import Any, Protocol

import torch

from gmixout.errors import GmixoutError, TrainingError
from gmixout.training import TrainingInterrupted


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
        TrainingInterrupted: After Ctrl-C, when the runs under way have saved where they stand.
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
                raise TrainingInterrupted("stopped; the runs under way are saved") from None
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


_told: Any = None
_stop: Event | None = None


def _start_worker(told: Any, stop: Event, started: Any, threads: int, parent: int) -> None:
    global _told, _stop
    _told, _stop = told, stop
    # Ctrl-C reaches the whole process group; while a run trains, its loop hears it and saves
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with started.get_lock():
        rank = started.value
        started.value += 1
    if gpus := torch.cuda.device_count():  # before CUDA starts in this process
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[rank % gpus]
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone: nobody else may go on with its run then."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _in_worker(piece: Work, number: int) -> GmixoutError | None:
    assert _stop is not None
    if _stop.is_set():
        raise TrainingInterrupted("stopped")

    def tell(number: int, step: int, loss: float) -> None:
        assert _stop is not None
        _told.put((number, step, loss))
        if _stop.is_set():
            signal.raise_signal(signal.SIGINT)  # heard by the training loop, ignored elsewhere

    return _outcome(piece, number, tell)
