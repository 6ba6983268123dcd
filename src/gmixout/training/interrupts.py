"""Signals that ask a process to stop, and training that loses nothing by them."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ASKING = ("SIGINT", "SIGTERM", "SIGHUP")
WORKER_STOP = getattr(signal, "SIGUSR1", signal.SIGINT)
"""How a worker process is asked to stop by its parent; Ctrl-C is for the parent to hear."""
_PATIENCE = 2
"""Signals after which training still ends at a step, with its state saved."""


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop.

    Args:
        message: Where things stand.
        number: The signal.
    """

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = int(number)


def exit_code(error: KeyboardInterrupt) -> int:
    """Return what a shell expects of a process that a signal ended: 130 after Ctrl-C."""
    return 128 + int(getattr(error, "number", signal.SIGINT))


@contextmanager
def stoppable() -> Iterator[None]:
    """Make SIGTERM and SIGHUP what Ctrl-C is, unless they are ignored (nohup) or handled."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("", number)

    numbers = [number for number in _numbers() if signal.getsignal(number) == signal.SIG_DFL]
    with _handled(dict.fromkeys(numbers, stop)):
        yield


class StopFlag:
    """What has been heard during training."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal."""
        self._count, self._shielded = 0, False

    def is_set(self) -> bool:
        """Return whether this process was asked to stop."""
        return self.number is not None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first ones ask for an end after this step, then for one at once."""
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
    """Turn signals into a flag, so that neither a step nor the saving of it is torn.

    The third one ends a step at once: it may hang.
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
    """Handle signals inside, where that is possible: they reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
