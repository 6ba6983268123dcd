"""Every config that comes with the package, through the command line on miniature data."""

from dataclasses import fields
from pathlib import Path

import official_trees as trees
import pytest
import yaml
from tiny_foundations import clip_folder

from gmixout.bench import task as task_module
from gmixout.cli import CONFIGS, main
from gmixout.data import SOURCES
from gmixout.data.common_corruptions.constants import KINDS
from gmixout.methods import METHODS
from gmixout.training import TrainingArguments

pytest.importorskip("open_clip")

TREES = {
    "domainnet": trees.domainnet,
    "imagenet": trees.imagenet,
    "imagenet_lt": trees.imagenet_lt,
    "iwildcam": trees.iwildcam,
    "cifar100": lambda root: trees.cifar100(root, KINDS),
    "pacs": lambda root: trees.domains(root, ["photo", "sketch"], ["dog", "horse"], images=20),
    "imagefolder": trees.imagefolder,
}
MORE = {"imagenet": ["--val-share", "0.2"]}  # of five images a class
SMALL = ["--counts", "any", "--steps", "3", "--warmup-steps", "0", "--batch-size", "2"]
SMALL += ["--num-workers", "0", "--workers", "1"]


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task_module._load.cache_clear()
    yield
    task_module._load.cache_clear()


@pytest.fixture
def tiny(tmp_path):
    """A CLIP in open_clip's own form."""
    (tmp_path / "tiny").mkdir()
    return f"open_clip:{clip_folder(tmp_path / 'tiny')}"


def run(*words: object) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)


def held(name: str) -> dict[str, object]:
    return yaml.safe_load(CONFIGS[name].read_text())


def data_of(name: str) -> str:
    return held(name)["benchmark"]["class_path"]


def test_there_is_a_config_for_each_table_and_a_tree_for_each_config():
    asked = {"domainnet", "imagenet", "imagenet_lt", "iwildcam", "cifar100", "pacs", "imagefolder"}
    assert {data_of(name) for name in CONFIGS} == asked == TREES.keys()
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert '"configs/*.yaml"' in project


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_dry_run_and_leaves_nothing(name, tiny, tmp_path, capsys):
    root = TREES[data_of(name)](tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    words = ["--config", name, "--data-root", root, "--model", tiny, *SMALL]
    words += [*MORE.get(data_of(name), []), "--dry-run"]
    assert run("compare", *words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "does not work with" not in printed
    assert "warning" not in printed
    for method in held(name)["methods"]:
        spelled = method if isinstance(method, str) else method["class_path"]
        assert METHODS[spelled].several_runs or spelled in printed
    assert str(held(name)["out"]) in printed
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", CONFIGS)
def test_every_value_of_a_config_reaches_the_command_unless_words_say_otherwise(name, capsys):
    words = ["compare", "--config", name, "--data-root", "DIR", "--seeds", "7", "--print_config"]
    assert run(*words) == 0
    parsed, asked = yaml.safe_load(capsys.readouterr().out), held(name)
    assert parsed["seeds"] == [7]
    assert parsed["benchmark"]["init_args"]["root"] == "DIR"
    options = asked.pop("benchmark").get("init_args", {})
    assert parsed["benchmark"]["init_args"].items() >= options.items()
    assert len(parsed["methods"]) == len(asked.pop("methods"))
    del asked["seeds"]
    assert parsed.items() >= asked.items()
    settings = {field.name for field in fields(TrainingArguments)}
    TrainingArguments(**{name: value for name, value in asked.items() if name in settings})


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.endswith("_clip")])
def test_the_model_is_one_that_open_clip_knows(name):
    import open_clip

    family, _, source = held(name)["model"].partition(":")
    assert family == "open_clip"
    assert open_clip.get_pretrained_cfg(*source.split("/"))


def test_words_override_the_config(tiny, tmp_path, capsys):
    root = trees.domainnet(tmp_path / "data")
    words = ["--config", "domainnet_clip", "--data-root", root, "--model", tiny, *SMALL]
    words += ["--train-domain", "real", "--methods", "full", "--lrs", "1e-3", "--out", "mine"]
    assert run("compare", *words, "--seeds", "0,1", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "train_domain='real'" in printed
    assert "runs 2 " in printed
    assert "mine" in printed
    assert "gmixout" not in printed


def test_without_a_folder_the_error_says_how_to_name_one(capsys):
    assert run("compare", "--config", "domainnet_clip") == 2
    assert "--data-root DIR" in capsys.readouterr().err


def test_an_unknown_config_or_key_is_refused(tmp_path, capsys):
    assert run("compare", "--config", "domainnet_clop") == 2
    assert "domainnet_clip" in capsys.readouterr().err
    for wrong in ("stepz: 3", "benchmark: {class_path: pacs, init_args: {domain: photo}}"):
        (tmp_path / "wrong.yaml").write_text(wrong)
        assert run("compare", "--config", "wrong.yaml", "--dry-run") == 2
        message = capsys.readouterr().err
        assert "stepz" in message or "domain" in message


def test_a_file_here_comes_before_a_shipped_config_of_its_name(tmp_path, capsys):
    (tmp_path / "pacs_small").write_text("steps: 41")
    assert run("compare", "--config", "pacs_small", "--print_config") == 0
    assert yaml.safe_load(capsys.readouterr().out)["steps"] == 41


def test_data_sets_of_configs_are_known():
    assert {data_of(name) for name in CONFIGS} <= SOURCES.keys()
