"""`gmixout init`: a config of which every line can be removed, and every comment is true."""

import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import yaml
from models.tiny_foundations import timm_folder
from PIL import Image

from gmixout.bench.choices import choose_settings
from gmixout.bench.commands.finetune import finetune
from gmixout.bench.options import options_of
from gmixout.bench.recipes import CITATIONS
from gmixout.bench.task import Task
from gmixout.bench.words import Reading, split
from gmixout.cli import main
from gmixout.methods import METHODS, get_method

OF_A_CALL = ("benchmark", "model", "method", "out")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a folder `mine` of two classes and a tiny model `tiny`."""
    draws = np.random.default_rng(0)
    for label in ("cat", 'it\'s a "dog"\nlr: 7 # <b>ü'):
        folder = tmp_path / "mine" / label
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    timm_folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(text):
    """The settings of a run that a config gives."""
    Path("tried.yaml").write_text(text)
    with ExitStack() as trust:
        values = Reading(options_of(finetune), trust).read(split(["--config", "tried.yaml"]))
    task = Task(
        *(values.get(name, usual) for name, usual in (("benchmark", "digits"), ("model", None)))
    )
    method = values.get("method") or get_method("gmixout")
    others = {name: value for name, value in values.items() if name not in OF_A_CALL}
    of_the_task = (
        "head",
        "corruptions",
        "corruption_share",
        "image_size",
        "prompts",
        "class_names",
        "tune",
        "fit",
    )
    for name in of_the_task:
        assert others.pop(name, None) in (None, "none", 1.0, False)
    return task, method, choose_settings(task, others, method).arguments


def written(*words):
    assert main(["init", *map(str, words), "--overwrite"]) == 0
    return Path("gmixout.yaml").read_text()


@pytest.mark.usefixtures("here")
def test_each_line_can_be_removed_and_each_comment_be_used(capsys):
    text = written("mine", "--model", "timm:tiny")
    settings = re.findall(r"^\w+: .*$", text, re.M)
    commented = re.findall(r"^#(\w+): .*$", text, re.M)
    assert len(settings) > 10
    assert len(commented) > 20
    task, method, chosen = arguments(text)
    assert (task.model, method) == ("timm:tiny", get_method("gmixout"))
    plain = choose_settings(task, {}, method)
    assert chosen == plain.arguments
    for line in settings:
        if not line.startswith(("benchmark:", "model:")):
            assert arguments(text.replace(f"{line}\n", "")) == (task, method, chosen), line
    for name in commented:
        assert arguments(re.sub(f"^#{name}: ", f"{name}: ", text, flags=re.M)) == (
            (task, method, chosen)
        ), name
    every = {*commented, *(line.partition(":")[0] for line in settings)}
    assert {*options_of(finetune)} - every == {"resume", "overwrite", "dry_run", "device_spec"}
    for name, value in plain.values.items():
        assert re.search(rf"^#?{name}: .*# {re.escape(value.source)}", text, re.M)
        assert CITATIONS[value.source][:40] in text
    comments = " ".join(line.removeprefix("#").strip() for line in text.splitlines())
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  ")]
    assert len(printed) > 5
    assert all(line.strip() in comments for line in printed)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_and_its_options_come_back(name, here, capsys):
    if METHODS[name]().several_runs:
        assert main(["init", "mine", "--model", "timm:tiny", "--method", name]) == 2
        assert "several runs" in capsys.readouterr().err
        return
    text = written("mine", "--model", "timm:tiny", "--method", name)
    task, method, chosen = arguments(text)
    assert method == get_method(name)
    assert chosen == choose_settings(task, {}, method).arguments
    for option in options_of(METHODS[name]):
        assert f"#   {option}=" in text


@pytest.mark.parametrize(
    "method", ["gmixout(mask_rate=0.5, structure=element)+sam(rho=0.1)", "wise_ft(alphas=(0.5,))"]
)
@pytest.mark.usefixtures("here")
def test_typed_options_of_data_and_method_are_kept(method):
    text = written("mine", "--model", "timm:tiny", "--id-val-share", "0.3", "--method", method)
    task, found, _ = arguments(text)
    assert task.benchmark.options["id_val_share"] == 0.3
    assert found == get_method(method)


@pytest.mark.usefixtures("here")
def test_without_a_model_nothing_is_chosen_and_the_next_command_asks_for_one(capsys):
    text = written("mine")
    assert "--config gmixout.yaml --model NAME" in capsys.readouterr().err
    assert not re.search(r"^#?(lr|steps|batch_size|epochs): ", text, re.M)
    assert {*yaml.safe_load(text)} == {"benchmark", "method"}
    for name in re.findall(r"^#(\w+): ", text, re.M):
        if name != "model":
            arguments_ = re.sub(f"^#{name}: ", f"{name}: ", text, flags=re.M)
            assert {*yaml.safe_load(arguments_)} == {"benchmark", "method", name}


@pytest.mark.usefixtures("here")
def test_alone_it_is_for_the_digits_of_the_package():
    task, method, chosen = arguments(written())
    assert (task, method.name) == (Task("digits"), "gmixout")
    assert chosen == choose_settings(task, {}, method).arguments


def test_a_run_with_the_file_is_the_run_without_it(here, capsys):
    words = ["--model", "timm:tiny", "--steps", "2", "--batch-size", "4", "--image-size", "32"]
    written("mine", "--model", "timm:tiny")
    config = ["--config", "gmixout.yaml", *words[2:]]
    assert main(["finetune", *config, "--out", "with"]) == 0
    assert main(["finetune", "mine", *words, "--out", "without"]) == 0
    held = [yaml.safe_load((here / out / "config.yaml").read_text()) for out in ("with", "without")]
    assert held[0] == held[1]


@pytest.mark.usefixtures("here")
def test_a_file_is_kept_and_wrong_words_write_none(capsys):
    Path("gmixout.yaml").write_text("mine")
    assert main(["init", "mine"]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert Path("gmixout.yaml").read_text() == "mine"
    for words in (["nowhere"], ["mine", "--model", "timm:nothing"], ["mine", "--modell", "x"],
                  ["--model", "timm:tiny"], ["mine", "--out", "mine"]):  # fmt: skip
        assert main(["init", *words, *([] if "--out" in words else ["--out", "new.yaml"])]) == 2
        assert capsys.readouterr().err.startswith("gmixout: ")
    assert not Path("new.yaml").exists()
