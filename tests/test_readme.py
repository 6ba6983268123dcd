"""The README and the pages that it leads to are run, not only read."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = ("library", "command_line", "benchmarks", "data", "recipes", "use", "tutorial", "how_to")
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in GUIDES)]


def blocks(language: str) -> list[str]:
    found = (re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S) for page in PAGES)
    return [block for own in found for block in own]


def commands(program: str) -> list[list[str]]:
    """Every command line of a program, in code blocks and between backticks, once."""
    quoted = [re.findall(r"`([^`\n]+)`", page.read_text()) for page in PAGES]
    text = "\n".join([*blocks("sh"), *(each for own in quoted for each in own)])
    lines = [shlex.split(line, comments=True) for line in text.splitlines() if "'" not in line]
    lines = [words[: words.index(">")] if ">" in words else words for words in lines]
    found = [words for words in lines if words[:1] == [program] and len(words) > 1]
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


PLACEHOLDERS = {"COMMAND", "RUN", "FILES", "MODEL"}
"""Commands with these words show a form, and cannot be run."""


def test_the_python_of_the_readme_runs():
    code = blocks("python")
    assert code
    for block in code:
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize(
    "words", [words for words in commands("gmixout") if not PLACEHOLDERS & {*words}], ids=" ".join
)
def test_each_command_of_the_readme_parses(words, capsys, tmp_path, monkeypatch):
    from gmixout.cli import main

    for label in ("cat", "dog"):  # a folder or table without a name is recognized
        for root in ("DATA/mine", "DIR", "shapes"):
            folder = tmp_path / root / label
            folder.mkdir(parents=True)
            (folder / "a.jpg").touch()
    for name in ("DATA/mine.csv", "DIR/split.csv"):
        (tmp_path / name).write_text("file,label\n")
    for name in ("mine.yaml", "shapes.yaml"):
        (tmp_path / name).write_text("seed: 0\n")
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        (tmp_path / "DATA" / "PACS" / domain / "dog").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    named = " ".join(words[1:]).startswith("completion") or " ".join(words[1:]) in (
        "data check",
        "predict",
        "export",
        "calibrate",
    )
    asked = any(word.endswith("help") for word in words)
    ask = [] if asked else ["--help"] if named else ["--print_config"]
    with pytest.raises(SystemExit) as end:
        main([*words[1:], *ask])
    assert end.value.code == 0, capsys.readouterr().err


def test_every_file_that_the_readme_names_is_there():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for path in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / path).exists(), f"{page.name}: {path}"
    scripts = [words[1] for words in commands("python")]
    assert scripts
    for path in scripts:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_the_make_targets_of_the_readme_exist(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert words[1] in targets
