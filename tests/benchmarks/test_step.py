"""`benchmarks/step.py` as a person runs it, on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("peft")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step.py"
METHODS = ["full", "lora", "gmixout_row"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """What the script printed and the raw values it wrote."""
    out = tmp_path_factory.mktemp("step") / "raw" / "step.json"
    command = [sys.executable, SCRIPT, "--model", "test_vit", "--batch", "2", "--repeats", "1"]
    command += ["--methods", *METHODS, "--density", "0.25", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_prints_one_row_a_method(run: tuple[str, dict]) -> None:
    rows = [line for line in run[0].splitlines() if line.startswith("│")]
    assert [row.split("│")[2].strip() for row in rows] == METHODS


def test_a_round_holds_exactly_one_redraw(run: tuple[str, dict]) -> None:
    (rounds,) = (b["times"]["gmixout_row"] for b in run[1]["batches"])
    assert [sum(step["redraw"] for step in steps) for steps in rounds] == [1]


def test_kept_bytes_of_masked_weights_are_their_density(run: tuple[str, dict]) -> None:
    memory = run[1]["batches"][0]["memory"]
    masked, full = memory["gmixout_row"]["masked"], memory["full"]["gradient_and_optimizer_bytes"]
    kept = masked["bytes"]["gradient"] + masked["bytes"]["optimizer"]
    share = kept / sum(full[name] for name in masked["weights"])
    assert abs(share - masked["density"]) < 0.01
    assert abs(masked["density"] - 0.25) < 0.01


def test_raw_values_name_no_host_and_no_path(run: tuple[str, dict]) -> None:
    text = json.dumps(run[1])
    assert str(Path.home()) not in text
    assert str(SCRIPT.parents[1]) not in text
    assert sys.executable not in text
