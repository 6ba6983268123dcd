"""Signals that stop a process without losing training progress."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ASKING = ("SIGINT", "SIGTERM", "SIGHUP")
WORKER_STOP = getattr(signal, "SIGUSR1", signal.SIGINT)
"""Signal by which a parent stops a worker process; the parent handles Ctrl-C itself."""
_PATIENCE = 2
"""Signals after which training still ends at a step, with its state saved."""


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop.

    Args:
        message: The state of the run.
        number: The signal.
    """

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = int(number)


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code that a shell expects after a signal: 130 after Ctrl-C."""
    return 128 + int(getattr(error, "number", signal.SIGINT))


@contextmanager
def stoppable() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, unless they are ignored (nohup) or handled."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("", number)

    numbers = [number for number in _numbers() if signal.getsignal(number) == signal.SIG_DFL]
    with _handled(dict.fromkeys(numbers, stop)):
        yield


class StopFlag:
    """Signals received during training."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal."""
        self._count, self._shielded = 0, False

    def is_set(self) -> bool:
        """Return whether this process was asked to stop."""
        return self.number is not None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first ones stop after this step, a later one at once."""
        del frame
        self.number = number if self.number is None else self.number
        self._count += 1
        if self._count > _PATIENCE and not self._shielded:
            raise Stopped("stopped in the middle of a step", self.number)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Keep signals from cutting the block short."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False


@contextmanager
def interrupt_flag() -> Iterator[StopFlag]:
    """Turn signals into a flag, so that they interrupt neither a step nor a save.

    The third one ends the step at once, in case it hangs.
    """
    flag = StopFlag()
    heard = [number for number in _numbers() if signal.getsignal(number) != signal.SIG_IGN]
    if callable(signal.getsignal(WORKER_STOP)):  # this is a worker
        heard.append(WORKER_STOP)
    with _handled(dict.fromkeys(heard, flag.hear)):
        yield flag


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in _ASKING if hasattr(signal, name)]


@contextmanager
def _handled(handlers: dict[int, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Handle signals in the context, if possible: only the main thread receives them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
