"""Ctrl-C during training, which loses nothing."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_flag() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into a flag, so that a step is never torn; a second one raises."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals reach the main thread alone
        return
    before = signal.getsignal(signal.SIGINT)

    def raise_flag(number: int, frame: object) -> None:
        del number, frame
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, raise_flag)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
