"""The documentation: the site builds without a warning, and what the pages say is true."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import gmixout
from gmixout.cli import main

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"


def module_at(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def build(folder, config="mkdocs.yml"):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    end = build(folder)
    assert end.returncode == 0, end.stderr
    return folder


def test_the_site_builds_and_has_all_pages(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    sources = {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert sources | {"index.html", "contributing.html", "changelog.html"} <= pages
    for name in gmixout.__all__:
        assert f'id="gmixout.{name}"' in (site / "api.html").read_text(), name


def test_the_site_loads_nothing_from_other_hosts(site):
    for page in site.glob("*.html"):
        loaded = re.findall(r'(?:src|<link[^>]*href)="(https?:[^"]*)"', page.read_text())
        assert loaded == [], page.name


def test_links_are_rewritten_for_the_site():
    rewritten = module_at(ROOT / "docs" / "site_hooks.py").rewritten
    for text, source, expected in (
        ("[a](docs/use.md#export)", "README.md", "[a](use.md#export)"),
        ("![a](docs/id_ood.png)", "README.md", "![a](id_ood.png)"),
        ("[a](CONTRIBUTING.md)", "README.md", "[a](contributing.md)"),
        ("[a](../README.md#two-lines)", "docs/library.md", "[a](index.md#two-lines)"),
        ("[a](speed.md)", "docs/library.md", "[a](speed.md)"),
        ("[a](../benchmarks/README.md)", "docs/speed.md", "a"),
        ("[a](https://x.org/b) [a](#b)", "README.md", "[a](https://x.org/b) [a](#b)"),
    ):
        assert rewritten(text, source) == expected
    with pytest.raises(FileNotFoundError, match="nothing"):
        rewritten("[a](nothing.md)", "README.md")


def masked(text):
    return " ".join(re.sub(r"\d+\.\d+", "#", text).split())


def blocks(page):
    """Language and text of the code blocks of a page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.long
def test_the_tutorial_runs_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = printed = ""
    for language, text in blocks(TUTORIAL):
        if language in ("sh", "py"):
            ran = text
            for line in text.splitlines() if language == "sh" else ():
                assert main(shlex.split(line)[1:]) == 0, line
            if language == "py":
                exec(compile(text, "tutorial.md", "exec"), {})
            printed = "".join(capsys.readouterr())
        elif language == "yaml":
            held = (tmp_path / "shapes.yaml").read_text()
            assert all(f"{line}\n" in held for line in text.splitlines())
        elif ran and not text.startswith(("gmixout ", "pip ")):
            lines = {masked(line): line for line in printed.splitlines()}
            for line in text.splitlines():
                assert masked(line) in lines, f"not printed: {line}"
                if line.startswith("GMixout"):
                    said, now = (
                        [float(each) for each in re.findall(r"\d+\.\d", each)][:2]
                        for each in (line, lines[masked(line)])
                    )
                    assert now == pytest.approx(said, abs=15)
    assert (tmp_path / "shapes.onnx").exists()
    assert (tmp_path / "predictions.csv").read_text().count("\n") == 31


def test_the_pictures_of_the_method_are_of_real_tensors():
    """A period moves its share of a weight, by whole units; the last anchor is of the weights."""
    figures = module_at(ROOT / "benchmarks" / "method_figures.py")
    for structure, along in (("row", 1), ("column", 0), ("element", None)):
        masks = figures.moved(structure)
        assert len({tuple(mask.flatten().tolist()) for mask in masks}) == len(masks)
        for mask in masks:
            assert mask.float().mean() == pytest.approx(0.3, abs=0.03)
            assert along is None or (mask.all(along) == mask.any(along)).all()
    run = figures.path(gmixout.GMixout(0.7, 0.7), steps=20)
    assert (run.weights[0] == run.anchors[0]).all()
    excursion = run.weights[9] - run.anchors[0]
    kept = run.anchors[1] - run.anchors[0]
    moved = excursion != 0
    assert (kept[~moved] == 0).all()
    assert 0 < kept.norm() < excursion.norm()
    assert not len(figures.path(None, steps=2).anchors)


def test_the_pictures_are_small():
    figures = module_at(ROOT / "benchmarks" / "method_figures.py")
    for name in figures.FIGURES:
        assert 0 < (ROOT / "docs" / name).stat().st_size < 200_000
        assert f"]({name})" in (ROOT / "docs" / "method.md").read_text()
