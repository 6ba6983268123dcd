import torch

from gmixout.training import PeakMemory
from gmixout.training import memory as module

MB = 10**6


def test_a_peak_that_is_gone_is_seen():
    before = torch.ones(30 * MB, dtype=torch.uint8)
    with PeakMemory(torch.device("cpu")) as memory:
        at_start = memory.read()
        gone = torch.ones(100 * MB, dtype=torch.uint8)
        del gone
        kept = torch.ones(20 * MB, dtype=torch.uint8)
        peak = memory.read()
    assert at_start < 10 * MB
    assert 95 * MB < peak < 130 * MB
    assert before.sum() + kept.sum() > 0


def test_a_second_stretch_starts_from_its_own_level():
    for _ in range(2):
        with PeakMemory(torch.device("cpu")) as memory:
            torch.ones(50 * MB, dtype=torch.uint8)
            assert 45 * MB < memory.read() < 80 * MB


def test_sampling_where_the_system_keeps_no_mark(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_CLEAR_REFS", tmp_path / "missing" / "file")
    with PeakMemory(torch.device("cpu")) as memory:
        kept = torch.ones(50 * MB, dtype=torch.uint8)
        assert 45 * MB < memory.read() < 80 * MB
    assert kept.all()
