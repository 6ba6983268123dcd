"""`benchmarks/first_run.py`: how it chooses and judges, what it skips, and that it runs."""

import json

import first_run
import pytest
import torch
from torch import nn

from gmixout.data import LabelledImages
from gmixout.models.pretrained import Pretrained

ENDS = {("full", 1e-4): 50.0, ("full", 1e-3): 70.0, ("mixout", 1e-3): 40.0}


@pytest.fixture
def case(monkeypatch):
    """A case whose runs end where ENDS says, GMixout one point up or down by turns."""
    images = LabelledImages(torch.zeros(4, 1, 2, 2), torch.tensor([0, 0, 0, 1]))
    monkeypatch.setattr(first_run, "CASES", {"toy": lambda args: toy})
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    pretrained = Pretrained(model, head="1", classes=("a", "b"))
    toy = first_run.Case(pretrained, images, images, {}, 1)
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([1.0, 0.0])  # right for three in four

    def run(case, method, lr, seed):
        end = 75 + (-1.0, 2.0)[seed] if method == "gmixout" else ENDS[method, lr]
        return {"method": method, "lr": lr, "seed": seed, "validation": end}

    monkeypatch.setattr(first_run, "run", run)
    monkeypatch.setattr(first_run, "RATES", (1e-4, 1e-3))


def examined(tmp_path, *words):
    out = tmp_path / "found.json"
    options = ["--cases", "toy", "--rates", "1e-4", "1e-3", "--methods", "gmixout", "mixout"]
    first_run.main([*options, *words, "--out", str(out)])
    return json.loads(out.read_text())["cases"]["toy"]


@pytest.mark.usefixtures("case")
def test_the_best_rate_of_full_finetuning_is_everybodys(tmp_path):
    found = examined(tmp_path, "--seeds", "0", "1")
    assert found["start"]["validation"] == 75
    assert found["best_lr"] == 1e-3
    assert found["change"] == {"full": -5, "gmixout": 0.5, "mixout": -35}
    assert found["safe"]  # GMixout alone is judged, by its mean
    assert [r["lr"] for r in found["runs"]].count(1e-4) == 1


@pytest.mark.usefixtures("case")
def test_a_mean_below_the_start_is_not_safe(tmp_path):
    assert not examined(tmp_path, "--seeds", "0")["safe"]


@pytest.mark.usefixtures("case")
def test_cases_measured_before_are_kept(tmp_path):
    before = {"cases": {"lite0": {"safe": True}}}
    (tmp_path / "found.json").write_text(json.dumps(before))
    examined(tmp_path, "--seeds", "0")
    assert json.loads((tmp_path / "found.json").read_text())["cases"]["lite0"] == {"safe": True}


def test_what_is_not_there_is_skipped_and_said(tmp_path, capsys):
    out = tmp_path / "found.json"
    first_run.main(["--cases", "lite0", "vit", "--out", str(out)])
    cases = json.loads(out.read_text())["cases"]
    assert all("--data" in cases[name]["skipped"] for name in ("lite0", "vit"))
    assert "--data" in capsys.readouterr().out


def test_it_runs(tmp_path):
    out = tmp_path / "found.json"
    first_run.main(["--quick", "--methods", "gmixout", "--out", str(out)])
    runs = json.loads(out.read_text())["cases"]["digits"]["runs"]
    assert [(r["method"], r["seed"]) for r in runs] == [("full", 0), ("gmixout", 0)]
    assert all(50 < r["validation"] < 100 for r in runs)
