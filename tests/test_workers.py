"""Runs in processes of their own end when they are told to, whatever they are at."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gmixout.bench import workers
from gmixout.bench.workers import carry_out
from gmixout.training import TrainingInterrupted
from gmixout.training.interrupts import Stopped, interrupt_flag, stoppable


@dataclass(frozen=True)
class Evaluating:
    """Work that no training loop watches over."""

    folder: Path

    def __call__(self, on_progress):
        (self.folder / str(os.getpid())).touch()
        time.sleep(600)


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_signal_ends_workers_that_evaluate(number, tmp_path):
    def stop():
        while not any(tmp_path.iterdir()):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(TrainingInterrupted) as stopped, stoppable():
        list(carry_out([Evaluating(tmp_path)], 2, 1, lambda *_: None))
    assert stopped.value.number == number
    assert time.monotonic() - began < 300
    with pytest.raises(ProcessLookupError):
        os.kill(int(next(tmp_path.iterdir()).name), 0)


def test_a_worker_hears_its_parent_in_training_and_in_evaluation(monkeypatch):
    before = signal.signal(workers.WORKER_STOP, workers._stop_work)
    try:
        with interrupt_flag() as flag:
            signal.raise_signal(workers.WORKER_STOP)
        assert flag.is_set()
        signal.raise_signal(workers.WORKER_STOP)  # between two pieces of work
        monkeypatch.setattr(workers, "_busy", True)
        with pytest.raises(Stopped):
            signal.raise_signal(workers.WORKER_STOP)
    finally:
        signal.signal(workers.WORKER_STOP, before)


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stoppable(), interrupt_flag() as flag:
            signal.raise_signal(signal.SIGHUP)
        assert not flag.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)
