"""`benchmarks/cost_model.py`: its committed traces against the measured steps, and a tiny run."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import cost_model
import pytest
from test_step import TINY

from gmixout.cost_model import CALIBRATED_ON_H100, DEVICES, get_device, predict_step

ROOT = Path(cost_model.__file__).parents[1]
SPEED = ROOT / "docs" / "speed.md"


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def traces() -> dict:
    """The traces that the repository holds."""
    return json.loads((ROOT / cost_model.RESULTS / "cost-model.json").read_text())["traces"]


@pytest.fixture(scope="module")
def rows(traces: dict) -> list:
    """Predicted and measured values of all eager steps."""
    before = os.getcwd()
    os.chdir(ROOT)
    found = cost_model.validate(traces, CALIBRATED_ON_H100)
    os.chdir(before)
    return found


def test_predicted_times_are_as_close_as_the_documentation_says(rows: list) -> None:
    bounds = {"h100": 0.05, "h200": 0.10}
    seen = set()
    for row in rows:
        error = row["predicted_seconds"] / row["measured_seconds"] - 1
        bound = 0.10 if row["method"] == "gmixout_row_depth" else bounds[row["file"][:4]]
        assert abs(error) < bound, row
        seen.add((row["file"][:4], row["method"]))
    on_h100 = ("full", "floor", "linear_probe", "lora", "gmixout_row", "gmixout_column")
    assert {*(("h100", m) for m in on_h100), ("h200", "floor_held")} <= seen
    assert sum(not row["fitted"] for row in rows) >= 6


def test_predicted_memory_is_within_a_fiftieth(rows: list) -> None:
    measured = [row for row in rows if row["measured_bytes"]]
    assert len(measured) >= 6
    for row in measured:
        assert abs(row["predicted_bytes"] / row["measured_bytes"] - 1) < 0.02, row


def test_the_calibration_is_what_the_raw_values_give(traces: dict) -> None:
    fitted = asdict(cost_model.fit(traces))
    assert fitted == pytest.approx(asdict(CALIBRATED_ON_H100), rel=0.01)


def test_the_documentation_has_these_values(rows: list) -> None:
    table = {
        tuple(cells[:2]): cells[2:]
        for line in SPEED.read_text().splitlines()
        if (cells := [cell.strip() for cell in line.strip("| ").split("|")])[0]
        in cost_model.MEASURED
    }
    expected = {(r["file"], f"`{r['method']}`"): cost_model.validation_cells(r) for r in rows}
    assert table == expected


def test_the_documentation_names_every_device_and_its_source() -> None:
    text = SPEED.read_text()
    assert all(f"`{name}`" in text for name in DEVICES)


def test_measured_files_name_no_path() -> None:
    for file in (ROOT / cost_model.RESULTS / "gpu").glob("*.json"):
        assert not re.search(r"/(home|root|work|tmp|usr)\b", file.read_text()), file.name


def test_a_trace_survives_its_file() -> None:
    setting = cost_model.FakeSetting(**{**asdict(TINY), "precision": "autocast"})
    plain = cost_model.trace_method(setting, "full", 2)
    masked = cost_model.trace_method(setting, "gmixout:structure=row,density=0.5", 2)
    assert ("redraw" in masked, "redraw" in plain) == (True, False)
    for found in (plain, masked):
        once = cost_model.load(found)
        again = cost_model.load(json.loads(json.dumps(found)))
        assert once == again
        step = predict_step(again, get_device("l4"))
        assert step.seconds > 0
        assert step.peak_bytes > 0
    redraw = len(masked["redraw"]["calls"])
    assert redraw > len(masked["plain"]["calls"]) > len(plain["plain"]["calls"])


def test_a_random_start_depth_is_traced_at_two_starts() -> None:
    setting = cost_model.FakeSetting(**{**asdict(TINY), "precision": "autocast"})
    device = get_device("h100")
    deep, row = (
        predict_step(cost_model.load(cost_model.trace_method(setting, method, 2)), device)
        for method in ("gmixout_row_depth", "gmixout_row")
    )
    assert 0 < deep.total.flops < row.total.flops


@pytest.mark.parametrize("word", ["rows", "lora:rank=8"])
def test_an_unknown_method_is_named(word: str) -> None:
    with pytest.raises(SystemExit, match=f"{word}: known are full"):
        cost_model.find_variant(word)
