"""`benchmarks/gpu.py`: its machinery with small parts of its own, its tables, and what it needs."""

import argparse
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import mean, median

import gpu
import pytest
import step
from _parts import Job, Part, Skipped, print_tables, run_parts
from rich.console import Console
from rich.table import Table

from gmixout.methods import masking

ROOT = Path(__file__).parents[2]
RAW = ROOT / "benchmarks" / "results" / "gpu"


def fine(job: Job) -> None:
    job.save({"value": 7, "seconds": job.seconds, "before": sorted(os.listdir(job.data))})


def slow(job: Job) -> None:
    child = subprocess.Popen(["sleep", "60"])
    job.save({"value": 1, "child": child.pid})
    time.sleep(60)


def broken(job: Job) -> None:
    job.save({"value": 2})
    raise ValueError("no such kernel")


def dead(job: Job) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lacking(job: Job) -> None:
    import no_such_package  # noqa: F401


def refusing(job: Job) -> None:
    raise SystemExit("--fit 1: give more GB")


def unable(job: Job) -> None:
    raise Skipped("it needs a CUDA device")


def table(raw: dict) -> list[Table]:
    found = Table("value", title="a small table")
    found.add_row(str(raw["value"]))
    return [found]


def run(tmp_path: Path, minutes: float, *parts: tuple) -> tuple[dict, dict, str]:
    """How each part ended, the raw values and the text; a part is its function and its share."""
    out, folder = tmp_path / "out", tmp_path / "temporary"
    out.mkdir()
    folder.mkdir()
    args = argparse.Namespace(device="cpu", quick=True, data=out, minutes=minutes, out=out)
    named = {p[0].__name__: Part("a trial", p[1], p[0], p[2] if p[2:] else table) for p in parts}
    context = multiprocessing.get_context("fork")
    states = run_parts(named, args, context, folder, {"machine": {"gpu": None}})
    return states, json.loads((out / "gpu.json").read_text()), (out / "gpu.txt").read_text()


def gone(pid: int) -> bool:
    """Whether a process is over, or waits for its parent to notice."""
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def test_a_part_that_cannot_go_on_says_so_and_stops_no_other(tmp_path: Path) -> None:
    parts = [broken, dead, lacking, refusing, unable, fine]
    states, results, text = run(tmp_path, 1, *((part, 10) for part in parts))
    assert states == {
        "broken": "failed: ValueError: no such kernel",
        "dead": "failed: exit code -9",
        "lacking": "skipped: the package no_such_package is missing",
        "refusing": "failed: SystemExit: --fit 1: give more GB",
        "unable": "skipped: it needs a CUDA device",
        "fine": "done",
    }
    assert {name: part["state"] for name, part in results["parts"].items()} == states
    assert all(f"== {name}: a trial. {state}" in text for name, state in states.items())
    # what the broken part had measured is there, and so is the table of it
    assert results["parts"]["broken"]["raw"] == {"value": 2}
    assert results["parts"]["dead"]["raw"] is None
    assert text.count("a small table") == 2
    log = (tmp_path / "out" / "gpu.log").read_text()
    assert "ValueError: no such kernel" in log


def test_results_are_written_after_each_part(tmp_path: Path) -> None:
    _, results, _ = run(tmp_path, 1, (unable, 1), (fine, 1))
    assert "gpu.json" in results["parts"]["fine"]["raw"]["before"]


def test_a_part_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    started = time.monotonic()
    states, results, text = run(tmp_path, 7 / 60, (slow, 6), (fine, 1))
    assert time.monotonic() - started < 30
    assert states["slow"].startswith("stopped after 6 s")
    assert states["fine"] in ("done", "no time is left")
    raw = results["parts"]["slow"]["raw"]
    assert raw["value"] == 1
    assert "a small table" in text
    assert gone(raw["child"])


def test_time_that_a_part_leaves_is_for_those_after_it(tmp_path: Path) -> None:
    _, results, _ = run(tmp_path, 1, (unable, 10), (fine, 10))
    assert 45 < results["parts"]["fine"]["raw"]["seconds"] <= 60
    (tmp_path / "again").mkdir()
    _, results, _ = run(tmp_path / "again", 1, (fine, 10), (unable, 50))
    assert 9 < results["parts"]["fine"]["raw"]["seconds"] <= 10


def test_no_part_starts_without_time(tmp_path: Path) -> None:
    states, results, _ = run(tmp_path, 0.01, (fine, 10))
    assert states == {"fine": "no time is left"}
    assert results["parts"]["fine"]["raw"] is None


def test_ctrl_c_keeps_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "temporary" / "slow.json"

    def interrupt() -> None:
        while not file.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    states, results, text = run(tmp_path, 2, (unable, 1), (slow, 10), (fine, 1))
    assert states == {"unable": "skipped: it needs a CUDA device", "slow": "interrupted"}
    raw = results["parts"]["slow"]["raw"]
    assert raw["value"] == 1
    assert gone(raw["child"])
    assert "a small table" in text


def test_a_table_that_cannot_be_drawn_stops_nothing(tmp_path: Path) -> None:
    def no_table(raw: dict) -> list[Table]:
        raise KeyError("batches")

    states, results, text = run(tmp_path, 1, (broken, 1, no_table), (fine, 1))
    assert states["fine"] == "done"
    assert results["parts"]["broken"]["raw"] == {"value": 2}
    assert "no table: failed: KeyError: 'batches'" in text


def test_the_list_names_every_part_and_the_shares_leave_time_to_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gpu.main(["--list"]) == 0
    told = capsys.readouterr().out
    assert all(name in told and part.what in told for name, part in gpu.PARTS.items())
    assert 400 < sum(part.seconds for part in gpu.PARTS.values()) <= 60 * gpu.MINUTES


@pytest.mark.parametrize("words", [["--parts", "speed"], ["--device", "cpu"]])
def test_words_that_make_no_sense_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        gpu.main(words)
    assert refused.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_every_method_is_measured_or_said_not_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    here = gpu.methods_here()
    assert {*step.METHODS} - {*here} == {"lora", "shira"}  # peft makes these
    assert {*gpu.NOT_COMPILED} <= {*step.METHODS}
    assert gpu.methods_here("gmixout_row", "full") == ["gmixout_row", "full"]
    family = gpu.methods_here("full", "gmixout_", without=["gmixout_row"])
    assert family[0] == "full"
    assert {*family} == {n for n in step.METHODS if n[:8] == "gmixout_"} - {"gmixout_row"} | {
        "full"
    }


ABSENT = ("jsonargparse", "docstring_parser", "typeshed_client", "open_clip", "pydantic", "plotly")


def test_methods_need_no_docstring_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any("mask_rate" in text for text in masking._help_texts())
    monkeypatch.setitem(sys.modules, "docstring_parser", None)
    assert masking._help_texts() == []


@pytest.mark.long
def test_its_parts_load_without_what_only_the_command_line_needs(tmp_path: Path) -> None:
    for name in ABSENT:
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('none', name='{name}')")
    folders = (tmp_path, ROOT / "src", ROOT / "benchmarks")
    end = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(gpu.PRELOADED)}, gmixout.bench.workers"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert end.returncode == 0, end.stderr


def text_of(tables: list[Table]) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        print_tables(console, tables)
    return captured.get()


def test_tables_have_the_values_of_parts_that_are_done_or_not() -> None:
    raw = json.loads((RAW / "h100-autocast-eager.json").read_text())
    (batch,) = raw["batches"]
    batch["memory"].pop("gmixout_row")  # stopped before
    batch["inference"].pop("gmixout_row")
    batch["times"].pop("shira")  # left out for want of time
    rows = {
        cells[1]: cells[2:]
        for line in text_of(gpu.steps_table(raw)).splitlines()
        if len(cells := [cell.strip() for cell in line.strip("│").split("│")]) > 5
    }
    assert rows["full"][:2] == ["51.8", "1.00"]
    assert rows["gmixout_row"][1].startswith("0.96")
    assert rows["gmixout_row"][4] == rows["gmixout_row"][-1] == "-"
    assert rows["shira"][0] == "not warm in time"

    cases = {
        "a::b": {"outcome": "passed", "seconds": 1.0, "reason": ""},
        "a::c": {"outcome": "failed", "seconds": 1.0, "reason": "first\nE assert 1 == 2"},
        "a::d": {"outcome": "skipped", "seconds": 0.0, "reason": ""},
    }
    text = text_of(gpu.tests_table({"cases": cases}))
    assert "1 passed, 1 failed, 1 skipped" in text
    assert "E assert 1 == 2" in text
    assert "a::b" not in text

    each = {"weights": 50, "operations": 1250.0, "launches": 800.0, "share": 0.013}
    raw = {"model": "vit", "batch": 128, "redraws": {"gmixout_row": each}}
    assert "1250" in (text := text_of(gpu.redraws_table(raw)))
    assert "1.30%" in text

    largest = {"autocast": {"full": {"batch": 31}, "lora": {"batch": 30}}, "bfloat16": {}}
    text = text_of(gpu.fit_table({"model": "vit", "budget_gb": 24.0, "largest": largest}))
    assert "31" in text
    assert "24 GB" in text

    run = {"method": "full", "lr": 1e-3, "validation": 90.0, "shifts": {"a": 60.0, "b": 70.0}}
    start = {"validation": 50.0, "shifts": {"a": 40.0}}
    raw = {"case": "digits", "steps": 300, "start": start, "processes": 8, "seconds": 30.0}
    text = text_of(gpu.compare_table({**raw, "runs": [run, {**run, "validation": 92.0}]}))
    assert "91.0 / 65.0 (n=2)" in text
    assert "4 a minute" in text


PAGE = (ROOT / "docs" / "speed.md").read_text().partition("\n## On a GPU\n")[2]
COLUMNS = (
    ("h100-autocast-eager",),
    ("h100-autocast-compiled",),
    ("h200-autocast-held",),
    ("h200-autocast-compiled-held",),
    ("h200-bf16-eager", "h200-bf16-held"),
    ("h200-bf16-compiled-held",),
)
"""The raw files of each column of the page's table, before that of memory."""
ROWS = {
    "full": "full finetuning",
    "lora": "LoRA",
    "shira": "SHiRA",
    "dense_mixout": "Mixout, dense",
    "linear_probe": "linear probe",
    "floor": "*floor*",
    "floor_frozen": "*held floor*",
    "gmixout_row": "GMixout, `row`",
    "gmixout_column": "GMixout, `column`",
    "gmixout_element": "GMixout, `element`",
    "gmixout_block": "GMixout, `block`",
    "gmixout_row_depth": "GMixout, `row`, `mean_start_depth`",
    "row16": "trial: rows drawn",
    "row16_frozen": "trial: the same",
}


def rows_of(heading: str) -> dict[str, list[str]]:
    """The cells of the page's table whose header has a text, by the first of each row."""
    (lines,) = (
        part.strip().splitlines()
        for part in PAGE.split("\n\n")
        if part.startswith(f"| | {heading}")
    )
    cells = ([c.strip(" *") for c in line.strip("|").split("|")] for line in lines[2:])
    return {first: rest for first, *rest in cells}


def raw_batch(file: str) -> dict:
    (batch,) = json.loads((RAW / f"{file}.json").read_text())["batches"]
    return batch


@pytest.mark.parametrize("method", ROWS)
def test_the_page_has_the_steps_that_were_measured(method: str) -> None:
    start = ROWS[method].strip("*")
    found = {
        row: cells for row, cells in rows_of("H100").items() if row.strip("*").startswith(start)
    }
    row = min(found, key=len)  # with a start depth it is longer
    expected = []
    for files in COLUMNS:
        batches = [batch for file in files if method in (batch := raw_batch(file))["times"]]
        if not batches:
            expected.append("-")
            continue
        ratios = step.step_ratios(batches[0]["times"], method, "full", "wall")
        rounds = batches[0]["times"][method]
        ms = 1000 * median(mean(each["wall"] for each in steps) for steps in rounds)
        expected.append(f"{ms:.1f} ({median(ratios):.2f})")
    memory = raw_batch(COLUMNS[0][0])["memory"].get(method)
    expected.append(f"{memory['peak_bytes']['in_use'] / 1e6:.0f}" if memory else "-")
    assert found[row] == expected


def test_the_page_has_the_profile_that_was_measured() -> None:
    raw = json.loads((RAW / "h100-autocast-profile.json").read_text())
    (drawn,) = gpu.profile_table(raw)
    columns = [[*column.cells] for column in drawn.columns]
    page = rows_of("full finetuning")
    assert [*page] == columns[0]
    assert [*page.values()] == [list(row) for row in zip(*columns[1:], strict=True)]
    parts = [float(cells[0]) for cells in page.values()]
    assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=0.3)


def test_the_page_has_the_shares_of_redraws_that_were_measured() -> None:
    shares: dict[str, list[float]] = {"autocast": [], "bf16": []}
    for file in sorted(RAW.glob("h?00-*.json")):
        for method, rounds in raw_batch(file.stem).get("times", {}).items():
            if method.startswith(("gmixout", "row16")) and not method.endswith("depth"):
                kind = file.stem.split("-")[1]
                shares[kind].append(step.redraw_share(rounds, 10) or 0.0)
    (said,) = re.findall(r"Redraws\*\* take ([\d.]+) to ([\d.]+)% .* ([\d.]+) to ([\d.]+)%", PAGE)
    ends = [100 * end(each) for each in shares.values() for end in (min, max)]
    assert [*said] == [f"{end:.1f}" for end in ends]


def test_the_readme_has_what_was_measured_on_a_cpu_and_on_a_gpu() -> None:
    speed = (ROOT / "README.md").read_text().partition("\n## Speed\n")[2]
    lines = [line for line in speed.partition("\n\nOn a GPU")[0].splitlines() if line[:1] == "|"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    files = (RAW.parent / "step-batch8.json", *(RAW / f"{file[0]}.json" for file in COLUMNS[:2]))
    batches = [json.loads(file.read_text())["batches"][0] for file in files]
    for label, *cells in rows[:-1]:
        method = min((m for m in ROWS if label.startswith(ROWS[m])), key=lambda m: -len(ROWS[m]))
        ratios = [
            f"{median(step.step_ratios(b['times'], method, 'full', 'wall')):.2f}"
            if method in b["times"]
            else "-"
            for b in batches
        ]
        assert cells == ratios, label
    label, *cells = rows[-1]
    peaks = [{m: b["memory"][m]["peak_bytes"]["in_use"] for m in b["memory"]} for b in batches]
    assert label == "peak memory of `column`, over LoRA's (in use)"
    assert cells == [f"{peak['gmixout_column'] / peak['lora']:.2f}" for peak in peaks]


def test_the_page_names_every_part() -> None:
    assert {*re.findall(r"`([\w-]+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", PAGE)))} == {
        *gpu.PARTS
    }


@pytest.mark.long
def test_a_miniature_of_every_part_runs(tmp_path: Path) -> None:
    """As the script is called; on a quiet core it takes two minutes."""
    script = ROOT / "benchmarks" / "gpu.py"
    end = subprocess.run(
        [sys.executable, script, "--device", "cpu", "--quick", "--out", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert end.returncode == 0, end.stdout + end.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [*parts] == [*gpu.PARTS]
    skipped = {name for name, part in parts.items() if part["state"] != "done"}
    assert skipped == {"cuda-graphs"}
    assert "no table" not in end.stdout
