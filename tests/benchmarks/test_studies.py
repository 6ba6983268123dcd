"""The scripts that read studies: what they print of the raw values is what the documents say."""

import re
import runpy
import sys
from pathlib import Path
from statistics import fmean

import pytest

from gmixout.results import RecordLog

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DEPTH = [*RESULTS.glob("pacs/cnn-300-*"), *RESULTS.glob("pacs/cnn-400-depth-*")]
STUDIES = {
    "depth": ("pacs/depth.py", DEPTH, "speed.md", r"^\| mean_start_depth [^|]*"),
    "levers": (
        "levers.py",
        [RESULTS / "digits-levers"],
        "levers.md",
        r"^  [\d.]+:|against [\d.]+:",
    ),
    **{
        name: (
            "levers.py",
            [RESULTS / f"digits-{name}", 0.93, 0.935, 0.94],
            "levers.md",
            r"^  [^:]*:|against usual:",
        )
        for name in ("shares", "structures")
    },
}
"""Scripts, what they are given, the page that has the table, and what else a line says."""


def printed(study, monkeypatch, capsys):
    """The lines of a script's table."""
    script, words, _, aside = STUDIES[study]
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
    return [line for line in capsys.readouterr().out.splitlines() if re.search(aside, line)]


@pytest.mark.parametrize("study", STUDIES)
def test_the_documents_have_the_figures(study, monkeypatch, capsys):
    _, _, page, aside = STUDIES[study]
    rows = [figures(line) for line in (ROOT / "docs" / page).read_text().splitlines()]
    lines = printed(study, monkeypatch, capsys)
    assert len(lines) > 2
    for line in lines:
        wanted = figures(re.sub(aside, "", line))
        assert len(wanted) > 4
        assert any(row[-len(wanted) :] == wanted for row in rows), line


def figures(line):
    return re.findall(r"[+-]?\d+\.\d+", line)


@pytest.mark.parametrize("script", ["claims.py", "real/rates.py", "precision.py"])
def test_the_documents_have_every_line(script, capsys):
    pages = ROOT / "README.md", *(ROOT / "docs" / f"{n}.md" for n in ("claims", "real", "levers"))
    written = {line for page in pages for line in page.read_text().splitlines()}
    runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert [line for line in lines if line[:1] == "|" and line not in written] == []


def test_depth_is_compared_at_the_same_seed_source_and_rate(monkeypatch, capsys):
    lines = printed("depth", monkeypatch, capsys)
    found = {
        (r.benchmark.name, r.seed, r.method.options["mean_start_depth"]): r.ood
        for folder in DEPTH
        for r in RecordLog(folder / "records.jsonl").read()
        if r.method.name == "gmixout"
        and r.lr == 3e-4
        and r.steps == 300
        and not r.method.options["anchor_pull"]
    }
    gains = [ood - found[(*case, 0.0)] for (*case, depth), ood in found.items() if depth]
    assert len(gains) == 3 * 5
    (row,) = (line for line in lines if "0.5, 300 steps" in line)
    assert float(row.split("|")[6].strip(" *").split()[0]) == round(100 * fmean(gains), 1)
