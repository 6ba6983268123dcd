"""What is seen of a run where no bar can be: in a log file."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from gmixout.bench import progress


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_says_now_and_then_how_far_it_is(monkeypatch, terminal):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    bar = progress.RunBar(
        Progress(console=Console(file=file, force_terminal=terminal)), "one", steps=90
    )
    for step in range(10, 91, 10):
        now[0] += progress.SECONDS_A_LINE / 3
        bar.advance(step, loss=1.5)
    lines = [line for line in file.getvalue().splitlines() if "of 90" in line]
    expected = [f"one loss=1.500 step {step} of 90" for step in (30, 60, 90)]
    assert lines == ([] if terminal else expected)
