"""The README is run, not only read."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands(program: str) -> list[list[str]]:
    """Every command line of a program, in code blocks and between backticks."""
    text = "\n".join(blocks("sh") + re.findall(r"`([^`\n]+)`", README))
    lines = [shlex.split(line, comments=True) for line in text.splitlines() if "'" not in line]
    return [words for words in lines if words[:1] == [program] and len(words) > 1]


def test_the_python_of_the_readme_runs():
    code = blocks("python")
    assert code
    for block in code:
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("words", commands("gmixout"), ids=" ".join)
def test_each_command_of_the_readme_parses(words, capsys, tmp_path, monkeypatch):
    from gmixout.cli import main

    for label in ("cat", "dog"):  # a folder or table without a name is recognized
        folder = tmp_path / "DATA" / "mine" / label
        folder.mkdir(parents=True)
        (folder / "a.jpg").touch()
    (tmp_path / "DATA" / "mine.csv").write_text("file,label\n")
    monkeypatch.chdir(tmp_path)
    ask = [] if any(word.endswith("help") for word in words) else ["--print_config"]
    with pytest.raises(SystemExit) as end:
        main([*words[1:], *ask])
    assert end.value.code == 0, capsys.readouterr().err


def test_every_file_that_the_readme_names_is_there():
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    scripts = [words[1] for words in commands("python")]
    assert linked
    for path in linked + scripts:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_the_make_targets_of_the_readme_exist(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert words[1] in targets
