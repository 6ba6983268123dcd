"""`benchmarks/finetune.py`: its phases are those of the loop, and it runs."""

import json
import time
from pathlib import Path

import finetune
import pytest
import torch
from torch import nn

from gmixout.data.images import ImageSet

CPU = torch.device("cpu")


class Sleeper(nn.Module):
    """Takes 30 ms forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.03)
        return self.inner(x)


def test_phases_hold_what_happens_in_them() -> None:
    model = Sleeper()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with finetune.Phases(CPU) as phases:
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            time.sleep(0.02)  # a slow backward
            optimizer.step()
            time.sleep(0.1)  # a slow loader
            nn.Identity()(torch.ones(1))  # transforms of images may be modules, too
    found = phases.read()
    # the rest after the last step is no batch's
    assert [len(found[phase]) for phase in ("model", "update", "rest")] == [3, 3, 2]
    assert min(found["model"]) >= 0.05
    assert min(found["rest"]) >= 0.1
    assert "end" not in found
    with torch.no_grad(), finetune.Phases(CPU) as phases:
        model(torch.ones(1, 2))
        time.sleep(0.1)
        model(torch.ones(1, 2))
    found = phases.read()
    assert [len(found[phase]) for phase in ("model", "rest")] == [2, 1]
    assert found["rest"][0] >= 0.1
    model(torch.ones(1, 2))  # the hooks are gone
    assert phases.read() == found


def test_nothing_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune.make_images(tmp_path, train=2, test=4)
    benchmark = finetune.load(tmp_path, "test_vit")
    opened = []
    monkeypatch.setattr(
        ImageSet,
        "picture",
        lambda images, index, old=ImageSet.picture: opened.append(index) or old(images, index),
    )
    settings = {"steps": 1, "batch_size": 2}
    finetune.measure(benchmark, "full", 0, settings)
    first = list(opened)
    assert len(first) >= 2 + 2
    finetune.measure(benchmark, "full", 0, settings)
    assert opened == 2 * first


def test_shares_are_of_the_batches_and_the_rest_of_the_call() -> None:
    times = {"model": [3.0, 3.0], "update": [1.0, 1.0], "rest": [2.0], "whole": 20.0}
    assert finetune.shares(times) == pytest.approx(
        {"model": 0.6, "update": 0.2, "rest": 0.2, "start and end": 0.5}
    )


def test_writes_every_time_and_prints_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "finetune.json"
    words = ["--models", "test_vit", "--methods", "gmixout", "--workers", "0", "--batch", "2"]
    finetune.main([*words, "--steps", "3", "--test", "20", "--repeats", "2", "--out", str(out)])
    (case,) = json.loads(out.read_text())["cases"]
    for run in case["runs"]:
        assert [len(run["train"][phase]) for phase in ("model", "update", "rest")] == [3, 3, 2]
        assert all(sum(finetune.shares(run[part]).values()) >= 1 for part in run)
    assert len(case["runs"]) == 2
    assert "evaluation: rest" in capsys.readouterr().out
