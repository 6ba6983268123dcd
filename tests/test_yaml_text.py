"""YAML of strangers is read in bounded time or refused, from files and as values of options."""

import time

import pytest
import yaml
from toy_benchmark import install

from gmixout.bench.yaml_text import LONGEST, load_yaml
from gmixout.cli import main

LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
HOSTILE = {
    "deep flow": "x: " + "[" * 2000,
    "deep flow, closed": "x: " + "[" * 2000 + "]" * 2000,
    "very deep": "[" * 500_000,
    "deep mappings": "{a: " * 3000,
    "deep block": "\n".join(" " * n + f"k{n}:" for n in range(900)),
    "deep sequences": "- " * 3000 + "x",
    "laughs": LAUGHS,
    "laughs in mappings": LAUGHS.replace("[", "{a: ").replace("]", "}").replace(", ", ", b: "),
    "merged laughs": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30)),
    "aliases of one list": f"a: &a [{', '.join('x' * 1000)}]\nb: [{', '.join(['*a'] * 1000)}]",
    "refers to itself": "x: &x [*x]",
    "refers to itself below": "x: &x {a: {b: [1, *x]}}",
    "unknown alias": "x: *nowhere",
    "long": "x: " + "y" * (LONGEST + 1),
    "many": "x: [" + "1, " * 100_000 + "]",
    "digits": "steps: " + "9" * 5000,
    "number as key": "1: 2",
    "nothing as key": "~: 2",
    "list as key": "? [a]\n: 2",
    "list as key, in flow": "{[a]: 2}",
    "half a character": r'x: "\ud800"',
    "half a character as key": r'"\ud800": 1',
    "zero byte": r'x: "a\0b"',
    "zero byte itself": "x: a\0b",
    "python tag": "x: !!python/object/apply:os.system [true]",
    "own tag": "x: !mine 1",
    "integer tag": "x: !!int ''",
    "float tag": "x: !!float abc",
    "binary": "x: !!binary aGk=",
    "set": "x: !!set {a, b}",
    "pairs": "x: !!pairs [a: 1]",
    "date tag": "x: !!timestamp 2001-99-99",
    "documents": "a: 1\n---\nb: 2",
    "tabs": "a:\n\t- b",
    "open quote": 'a: "b',
}


def quickly(function):
    begun = time.process_time()
    result = function()
    assert time.process_time() - begun < 1
    return result


@pytest.fixture(autouse=True)
def _toy(monkeypatch, tmp_path):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)


def run(*words):
    try:
        return main(list(words))
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("name", HOSTILE)
def test_what_nobody_can_mean_is_refused_at_once(name, tmp_path, capsys):
    with pytest.raises(yaml.YAMLError):
        quickly(lambda: load_yaml(HOSTILE[name]))
    (tmp_path / "hostile.yaml").write_text(HOSTILE[name])
    assert quickly(lambda: run("finetune", "--config", "hostile.yaml")) == 2
    told = capsys.readouterr().err
    assert told.startswith("gmixout: ")
    assert "hostile.yaml" in told
    assert len(told) < 2000


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: [x, 2.5, null, true]\nc: {d: é}",
        "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]",
        "",
        "x",
        "'[not a list'",
        "# only a comment",
        "🦊: 🦊",
        "a: " + "[" * 30 + "]" * 30,
    ],
)
def test_what_people_write_is_read_as_it_is(text):
    assert load_yaml(text) == yaml.safe_load(text)


BYTES = {
    "latin-1": b"model: caf\xe9\n",
    "utf-16": "steps: 2\n".encode("utf-16"),
    "nothing": b"",
    "text": b"steps",
    "list": b"[1, 2]",
    "zeros": bytes(100),
    "picture": b"\x89PNG\r\n\x1a\n\x00\x00",
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_settings_are_refused(name, tmp_path, capsys):
    (tmp_path / "c.yaml").write_bytes(BYTES[name])
    assert run("finetune", "--config", "c.yaml") == 2
    told = capsys.readouterr().err
    assert told.startswith("gmixout: ")
    assert "Traceback" not in told


LONG = "9" * 400
WORDS = [
    ["compare", "--methods", ""],
    ["compare", "--methods", ","],
    ["compare", "--seeds", ","],
    ["compare", "--seeds", ""],
    ["compare", "--lrs", ",,"],
    ["compare", "--seeds", LONG],
    ["compare", "--lrs", LONG],
    ["sweep", "--over.mask_rate", ","],
    ["sweep", "--over", "x"],
    ["finetune", "--layer-decay", LONG],
    ["finetune", "--lr", LONG],
    ["finetune", "--lr", "9" * 6000],
    ["finetune", "--steps", LONG],
    ["finetune", "--steps", "9" * 6000],
    ["finetune", "--method", ""],
    ["finetune", "--method.mask_rate", LONG],
    ["finetune", "--method.mask_rate", "[" * 3000],
    ["finetune", "--benchmark", ""],
    ["finetune", "--benchmark", "[" * 3000],
    ["finetune", "--benchmark", "x" * 5000],
    ["finetune", "--benchmark", ":"],
    ["finetune", "--benchmark", "a:"],
    ["finetune", "--benchmark", LAUGHS],
    ["finetune", "--steps", LAUGHS],
    ["finetune", "--head", LAUGHS],
    ["finetune", "--method.mask_rate", LAUGHS],
    ["sweep", "--over.mask_rate", LAUGHS.replace(",", " ")],
    ["compare", "--lrs-of.full", LAUGHS],
    ["finetune", "--config", ""],
    ["finetune", "--config", "."],
    ["finetune", "--config", LAUGHS],
    ["finetune", "--out", ""],
    ["soup", ""],
    ["report", ""],
    ["evaluate", ""],
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words)[:40])
def test_words_that_mean_nothing_end_with_code_2(words, capsys):
    if words[0] in ("finetune", "compare", "sweep") and "--benchmark" not in words:
        words = [*words, "--batch-size", "0"]  # nothing is trained by mistake
    assert run(*words) == 2
    told = capsys.readouterr().err
    assert told.startswith("gmixout: ")
    assert "Traceback" not in told
