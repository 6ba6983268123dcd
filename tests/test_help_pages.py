"""Help without a wait: pages are stored, equal what signatures say, and need no torch."""

import json
import subprocess
import sys
import time

import pytest

from gmixout.bench.help_pages import STORED, page_text, requested_page, stored_pages
from gmixout.bench.options import options_of
from gmixout.bench.usage import all_pages
from gmixout.cli import COMMANDS, Command, main


def typed():
    """The commands by what a user types."""
    for name, found in COMMANDS.items():
        inside = {name: found} if isinstance(found, Command) else {
            f"{name} {last}": each for last, each in found.items()
        }  # fmt: skip
        for words, command in inside.items():
            yield f"gmixout {words}", command


TYPED = dict(typed())


def test_stored_pages_are_those_of_the_signatures():
    """Where they are not, the file is written anew: commit it."""
    now = all_pages({title: command.function for title, command in TYPED.items()})
    now = json.loads(json.dumps(now))
    then = dict(stored_pages())
    if then != now:
        STORED.write_text(json.dumps(now, indent=1) + "\n")
    changed = sorted(title for title in {*then, *now} if then.get(title) != now.get(title))
    assert not changed, f"the help of {', '.join(changed)} has changed: {STORED.name} is new"


@pytest.mark.parametrize("title", TYPED)
def test_each_page_names_its_options_and_defaults(title, capsys):
    with pytest.raises(SystemExit) as end:
        main([*title.split()[1:], "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {title}")
    assert ("--allow MODULE" in printed) == bool(options_of(TYPED[title].function))
    assert printed.rstrip("\n") == page_text(stored_pages()[title]).rstrip("\n")


def test_without_the_file_help_comes_from_the_signatures(monkeypatch, tmp_path, capsys):
    asked = (["evaluate", "--help"], ["compare", "--methods.help", "wise_ft"])
    stored = [page_text(requested_page(f"gmixout {words[0]}", words[1:])) for words in asked]
    monkeypatch.setattr("gmixout.bench.help_pages.STORED", tmp_path / "none.json")
    for content in (None, "{", "[]", '{"gmixout evaluate": 3}'):
        if content is not None:
            (tmp_path / "none.json").write_text(content)
        for words, page in zip(asked, stored, strict=True):
            assert shown(words, capsys) == page.strip()


def shown(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    "words",
    [
        "finetune --method.help gmixout",
        "finetune --method.help=gmixout",
        "compare --method.help lora",  # the singular of a list
        "compare mine --seed 0 --methods.help lora --out x",
        "finetune --optimizer.help sgd",
        "finetune --loss.help cross_entropy",
        "data check --source.help csv",
        "sweep --benchmark.help imagenet_c",
    ],
)
def test_help_of_a_name_is_the_stored_one_and_that_of_the_signature(words, capsys, monkeypatch):
    command, *rest = words.replace("data check", "data-check").split()
    title = f"gmixout {command.replace('-', ' ')}"
    stored = page_text(requested_page(title, rest)).strip()
    assert shown(words.split(), capsys) == stored
    monkeypatch.setattr("gmixout.cli.requested_page", lambda *_: None)
    assert shown(words.split(), capsys) == stored


@pytest.mark.parametrize("words", [[], ["--out", "help"], ["--method", "lora"], ["x.help"]])
def test_words_that_ask_for_no_help_have_no_page(words):
    assert requested_page("gmixout finetune", words) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("finetune --method.help gmixuot", "did you mean gmixout"),
        ("report --method.help gmixout", "unknown option --method.help"),
        ("finetune --method.help", "takes a name"),
        ("finetune --method.of.help lora", "unknown option --method.of.help"),
        ("finetune --lr.help gmixout", "unknown option --lr.help"),
    ],
)
def test_help_of_an_unknown_name_or_option_is_an_error(words, said, capsys):
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err


WITHOUT_TORCH = (
    [], ["--help"], ["finetune", "--help"], ["data", "check", "-h"],
    ["finetune", "--method.help", "gmixout"], ["completion", "zsh"], ["completion", "zsh", "x"],
)  # fmt: skip


@pytest.mark.parametrize("words", WITHOUT_TORCH, ids=" ".join)
def test_help_takes_less_than_a_second_of_the_processor_and_no_torch(words):
    code = (
        "import sys, time\n"
        "from gmixout.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, time.process_time())"
    )
    begun = time.monotonic()
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    torch, seconds = printed.splitlines()[-1].split()
    assert torch == "False"
    assert float(seconds) < 1.0, time.monotonic() - begun


def test_the_bare_command_says_in_ten_lines_what_can_be_done(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) <= 10
    assert all(len(line) <= 110 for line in lines)
    commands = [line.split() for line in lines if line.startswith("  gmixout ")]
    assert len(commands) >= 6
    for _, first, *rest in commands:
        found = COMMANDS.get(first)
        assert found
        assert not isinstance(found, dict) or rest[0] in found
