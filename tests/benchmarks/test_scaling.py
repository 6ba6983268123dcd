"""`benchmarks/scaling.py`: its fit, and that it runs."""

import json
from pathlib import Path

import pytest
import scaling
from hypothesis import given, settings
from hypothesis import strategies as st

BASE = ["--width", "64", "--depth", "1", "--image", "32", "--batch", "2", "--repeats", "1"]


@settings(deadline=None)
@given(factor=st.floats(1e-3, 1e3), exponent=st.floats(-3, 3))
def test_the_fit_finds_a_power_law(factor: float, exponent: float) -> None:
    sizes = [1.0, 2.0, 3.0, 7.0]
    found = scaling.fit(sizes, [factor * size**exponent for size in sizes])
    assert abs(found["exponent"] - exponent) < 1e-6
    assert found["standard_error"] < 1e-6


def test_sizes_are_those_of_the_model() -> None:
    point = scaling.Point(width=128, depth=2, image=48, density=0.5, period=7)
    model = point.setting().build()
    assert (model.embed_dim, len(model.blocks)) == (128, 2)
    assert model.pos_embed.shape[1] == point.size("image")
    assert point.setting().round_steps % 7 == 0


def test_prints_exponents_of_both_methods_and_writes_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def peak(measurement, setting, method, batch) -> dict[str, int]:
        return {"peak_bytes": 1000 * setting.options["depth"] ** 2}

    monkeypatch.setattr(scaling, "apart", peak)
    out = tmp_path / "scaling.json"
    scaling.main([*BASE, "--axis", "depth=1,2,3", "--out", str(out)])
    axis = json.loads(out.read_text())["axes"]["depth"]
    assert len(axis["cases"]) == 6
    assert all(len(case["wall"][0]) == 10 for case in axis["cases"])
    assert axis["fits"]["peak memory"]["gmixout_row"]["exponent"] == pytest.approx(2)
    assert "2.00 ± 0.00" in capsys.readouterr().out


def test_periods_are_timed_whole(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    words = ["--methods", "gmixout_row", "--no-memory", "--axis", "period=1,2,5"]
    scaling.main([*BASE, *words, "--out", str(out)])
    axis = json.loads(out.read_text())["axes"]["period"]
    lengths = {len(case["wall"][0]) for case in axis["cases"]}
    assert all(length % case["size"] == 0 for length in lengths for case in axis["cases"])
    assert list(axis["fits"]) == ["time"]


def test_an_axis_needs_three_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.parse(["--axis", "width=64,128"])
    assert "three values" in capsys.readouterr().err
