"""Recipes and epochs: settings that follow from the model and the data."""

from dataclasses import fields
from pathlib import Path
from typing import get_args

import official_trees as trees
import pytest
import yaml
from tiny_foundations import CLASSES, FOLDERS, timm_folder
from toy_benchmark import install

from gmixout import bench
from gmixout.bench import task as task_module
from gmixout.bench.choices import (
    CHOSEN,
    Choices,
    RecipeName,
    choose_settings,
    lr_multiplier,
)
from gmixout.bench.job import Job
from gmixout.bench.recipes import (
    CITATIONS,
    DATA_SIZES,
    HEAD_LR,
    LEAST_STEPS,
    NO_LAYERS,
    RATES,
    RECIPES,
    WARMUP_SHARE,
    WITHOUT_LAYERS,
    size_of,
)
from gmixout.bench.task import Task
from gmixout.cli import main
from gmixout.data import SOURCES
from gmixout.errors import ConfigError
from gmixout.methods import get_method
from gmixout.models import Pretrained, load_pretrained
from gmixout.models.architectures import ARCHITECTURES, architecture_of
from gmixout.results import RunFolder
from gmixout.training import TrainingArguments

pytest.importorskip("timm")

GUIDE = Path(__file__).parents[1] / "docs" / "recipes.md"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    install(monkeypatch)
    yield
    task_module._load.cache_clear()


@pytest.fixture
def words(tmp_path):
    """Data of one's own and a tiny ViT, as on the command line."""
    (tmp_path / "model").mkdir()
    model = timm_folder(tmp_path / "model")
    data = trees.imagefolder(tmp_path / "data")
    return ["--benchmark", "imagefolder", "--data-root", f"{data}", "--model", f"timm:{model}"]


@pytest.fixture
def task(words):
    return Task(SOURCES["imagefolder"](words[3]), words[5])


def run(*words):
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)


def test_tables_know_each_other():
    assert {*get_args(RecipeName)} == {"auto", "none", *RECIPES}
    assert RECIPES.keys() == ARCHITECTURES.keys()
    single = [LEAST_STEPS, WARMUP_SHARE, HEAD_LR, WITHOUT_LAYERS, NO_LAYERS]
    single += [value for size in DATA_SIZES for value in (size.batch_size, size.epochs)]
    every = [*single, *(value for recipe in RECIPES.values() for value in recipe.values())]
    assert {value.source for value in every} <= CITATIONS.keys()
    assert {*CHOSEN} <= {field.name for field in fields(TrainingArguments)}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_of_settings_that_training_takes(name):
    recipe = RECIPES[name]
    assert {"lr", "weight_decay", "crop_scale", "flip", "max_grad_norm"} <= recipe.keys()
    assert recipe.keys() <= {*CHOSEN}
    TrainingArguments(**{setting: value.value for setting, value in recipe.items()})


def test_sizes_cover_every_number_of_images_and_larger_sets_have_fewer_epochs():
    sizes = [size_of(images) for images in (1, 1_999, 2_000, 19_999, 20_000, 10**9)]
    assert [sizes.index(size) for size in sizes] == [0, 0, 2, 2, 4, 4]
    epochs = [size.epochs.value for size in DATA_SIZES]
    assert epochs == sorted(epochs, reverse=True)


KINDS = {
    "timm": "vit", "open_clip": "clip", "hf dinov2": "dino", "hf dinov3": "dino", "hf vit": "vit",
    "hf clip": "clip", "hf siglip": "siglip",
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLDERS)
def test_saved_models_of_each_library_are_recognized(kind, tmp_path):
    folder = tmp_path / "siglip-convnext-clip-dinov2"  # the name of a folder says nothing
    folder.mkdir()
    saved = FOLDERS[kind](folder)
    assert architecture_of(load_pretrained(f"{saved}", CLASSES)) == KINDS[kind]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("test_vit", "vit"),
        ("test_convnext", "convnext"),
        ("test_resnet", "cnn"),
        ("test_efficientnet", "cnn"),
        ("vit_small_patch14_dinov2", "dino"),
        ("vit_base_patch16_clip_224", "clip"),
        ("vit_base_patch16_siglip_224", "siglip"),
        ("swin_tiny_patch4_window7_224", "vit"),
        ("mixer_s32_224", "other"),
    ],
)
def test_architectures_of_timm_are_recognized(model, expected):
    import timm
    import torch

    with torch.device("meta"):
        made = timm.create_model(model, num_classes=3)
    pretrained = Pretrained(made, (), tuple(CLASSES), name="own")
    assert architecture_of(pretrained) == expected


def test_what_includes_its_own_model_has_plain_defaults():
    found = choose_settings(Task("toy"), {})
    assert found.arguments == TrainingArguments()
    assert found.lines == ()
    assert not found.rates_of([get_method("lora")])


def test_a_model_that_the_user_names_has_a_recipe_and_reasons(task):
    images = len(task.load().benchmark.train)
    found = choose_settings(task, {})
    recipe, own = RECIPES["vit"], found.arguments
    for name, value in recipe.items():
        assert getattr(own, name) == value.value
    assert own.batch_size == min(images, size_of(images).batch_size.value)
    epochs = size_of(images).epochs.value
    assert own.steps == max(LEAST_STEPS.value, round(epochs * images / own.batch_size))
    assert own.warmup_steps == int(WARMUP_SHARE.value * own.steps)
    assert own.head_lr == HEAD_LR.value
    text = "\n".join(found.lines)
    for name in (*CHOSEN, "head_lr", *CITATIONS):
        used = name in CHOSEN or any(v.source == name for v in recipe.values())
        assert not used or name in text
    assert "--head linear_probe" in text
    assert found.rates == tuple(float(f"{own.lr * each:.2g}") for each in RATES)


@pytest.mark.parametrize(
    "given",
    [
        {"lr": 0.5}, {"steps": 7}, {"batch_size": 3}, {"head_lr": None}, {"weight_decay": 0.3},
        {"flip": False}, {"crop_scale": 1.0}, {"layer_decay": 1.0}, {"max_grad_norm": None},
        {"warmup_steps": 0}, {"epochs": 1.5},
    ],
)  # fmt: skip
def test_any_option_overrides_the_recipe_and_the_others_stay(task, given):
    (name, value), usual = *given.items(), choose_settings(task, {}).arguments
    found = choose_settings(task, given)
    own = found.arguments
    if name == "epochs":
        name, value = "steps", round(1.5 * len(task.load().benchmark.train) / usual.batch_size)
    assert getattr(own, name) == value
    follow = {"steps": {"warmup_steps"}, "batch_size": {"steps", "warmup_steps"}}.get(name, set())
    for other in {*CHOSEN} - {name, *follow}:
        assert getattr(own, other) == getattr(usual, other)
    assert not any(line.startswith(f"  {name} ") for line in found.lines if name != "steps")


def test_everything_given_leaves_nothing_to_say(task):
    given = {name: getattr(TrainingArguments(), name) for name in CHOSEN}
    found = choose_settings(task, given)
    assert found.arguments == TrainingArguments()
    assert found.lines == ()


def test_a_model_without_layers_has_a_lower_rate_in_place_of_a_layer_decay(tmp_path, words):
    from tiny_foundations import hf_vit

    (tmp_path / "hf").mkdir()
    task = Task(SOURCES["imagefolder"](words[3]), f"hf:{hf_vit(tmp_path / 'hf', ['a', 'b'])}")
    own = choose_settings(task, {}).arguments
    assert (own.lr, own.layer_decay) == (WITHOUT_LAYERS.value, 1.0)


def test_blocks_of_transformers_are_layers_for_a_layer_decay(tmp_path, words):
    from tiny_foundations import hf_vit

    (tmp_path / "hf").mkdir()
    folder = hf_vit(tmp_path / "hf", ["a", "b"], layers=2)
    own = choose_settings(Task(SOURCES["imagefolder"](words[3]), f"hf:{folder}"), {}).arguments
    recipe = RECIPES["vit"]
    assert (own.lr, own.layer_decay) == (recipe["lr"].value, recipe["layer_decay"].value)


def test_a_short_run_has_ten_periods_unless_the_user_says_how_long_they_are(task):
    def method(name, **given):
        chosen = choose_settings(task, given, get_method(name))
        return str(chosen.method), "periods" in "\n".join(chosen.lines)

    assert method("gmixout", steps=99) == ("gmixout(resample_every=9)", True)
    assert method("gmixout", steps=5) == ("gmixout(resample_every=1)", True)
    assert method("gmixout+sam", steps=50) == ("gmixout(resample_every=5)+sam", True)
    assert method("gmixout_wise_ft", steps=50)[1]
    for name in ("gmixout(resample_every=20)", "mixout", "random_mask", "full", "wise_ft"):
        assert method(name, steps=50) == (name, False)
    assert method("gmixout", steps=100) == ("gmixout", False)
    assert method("gmixout", steps=50, recipe="none") == ("gmixout", False)


def test_a_schedule_with_a_warm_up_gets_no_other_one(task):
    own = choose_settings(task, {"schedule": "one_cycle"})
    assert own.arguments.warmup_steps == 0
    assert "the schedule has its own" in "\n".join(own.lines)
    assert choose_settings(task, {"schedule": "linear"}).arguments.warmup_steps > 0


def test_another_optimizer_keeps_the_plain_rates(task):
    own = choose_settings(task, {"optimizer": "sgd"})
    plain = TrainingArguments()
    for name in ("lr", "head_lr", "weight_decay", "layer_decay"):
        assert getattr(own.arguments, name) == getattr(plain, name)
    assert own.arguments.crop_scale == RECIPES["vit"]["crop_scale"].value
    assert "rates are AdamW's" in "\n".join(own.lines)


def test_methods_that_need_other_rates_get_them(task):
    lora = get_method("lora+sam")
    factor = lr_multiplier(lora)
    assert factor > 1
    full, own = (choose_settings(task, {}, get_method(name)) for name in ("wise_ft", "lora"))
    assert full.arguments.lr == RECIPES["vit"]["lr"].value
    assert own.arguments.lr == pytest.approx(factor * full.arguments.lr)
    rates = choose_settings(task, {}).rates_of([lora, get_method("full"), get_method("zero_shot")])
    assert list(rates) == ["lora+sam"]
    assert rates["lora+sam"] == pytest.approx([factor * rate for rate in full.rates], rel=0.05)


@pytest.mark.parametrize("epochs", [0, -1, float("nan"), float("inf"), True, "many"])
def test_epochs_are_a_number_above_zero(epochs):
    with pytest.raises(ConfigError, match="epochs"):
        Choices(epochs=epochs)


@pytest.mark.parametrize("epochs", [0.01, 0.5, 3, 2.25])
def test_epochs_are_counted_in_images(epochs):
    found = choose_settings(Task("toy"), {"epochs": epochs, "batch_size": 8})  # of 24 images
    assert found.arguments.steps == max(1, round(epochs * 3))
    (line,) = found.lines
    assert f"{epochs:g} epochs x 24 images / 8 a step" in line


def test_epochs_and_steps_together_are_refused(capsys):
    assert run("finetune", "--benchmark", "toy", "--epochs", "2", "--steps", "9") == 2
    assert "--epochs 2 and --steps 9 both set the length" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.usefixtures("_no_report")
def test_what_is_typed_replaces_the_other_spelling_of_a_config(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("benchmark: toy\nsteps: 900\nbatch_size: 8\n")
    assert run("finetune", "--config", "c.yaml", "--epochs", "1", "--out", "a") == 0
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["steps"] == 3
    (tmp_path / "d.yaml").write_text("benchmark: toy\nepochs: 900\nbatch_size: 8\n")
    assert run("finetune", "--config", "d.yaml", "--steps", "2", "--out", "b") == 0
    assert yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())["steps"] == 2


@pytest.mark.usefixtures("_no_report")
def test_a_run_by_a_recipe_is_the_run_with_the_same_values(words, tmp_path, capsys):
    few = ["--steps", "2", "--method", "full", "--num-workers", "0"]
    assert run("finetune", *words, *few, "--out", "a") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "recipe vit (Vision Transformer)" in said
    text = (tmp_path / "a" / "config.yaml").read_text()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert any("recipe vit" in line for line in comments)
    assert any("source MAE: facebookresearch/mae" in line for line in comments)
    held = yaml.safe_load(text)
    assert held["lr"] == RECIPES["vit"]["lr"].value
    assert "recipe" not in held
    # from its own config, and with every value typed
    assert run("finetune", "--config", "a/config.yaml", "--out", "b") == 0
    typed = [
        w for n in CHOSEN for w in (f"--{n.replace('_', '-')}", yaml.safe_dump(held[n]).split()[0])
    ]
    typed[typed.index("--flip") : typed.index("--flip") + 2] = ["--flip"]
    assert run("finetune", *words, *few[2:], *typed, "--recipe", "none", "--out", "c") == 0
    records = [RunFolder(tmp_path / name).log.read()[0] for name in "abc"]
    assert len({record.run for record in records}) == 1
    assert len({str(record.official) for record in records}) == 1
    assert "recipe" not in records[0].training.settings
    capsys.readouterr()
    assert run("finetune", *words, *few, "--out", "a", "--resume") == 0
    assert "is finished; nothing was trained" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("_no_report")
def test_a_comparison_has_rates_around_the_recipes(words, tmp_path):
    few = ["--steps", "1", "--methods", "full,bitfit", "--num-workers", "0", "--workers", "1"]
    assert run("compare", *words, *few, "--out", "a") == 0
    held = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    rate = RECIPES["vit"]["lr"].value
    assert held["lrs"] == [float(f"{factor * rate:.2g}") for factor in RATES]
    assert "# recipe vit" in (tmp_path / "a" / "config.yaml").read_text()
    assert run("compare", *words, *few, "--lrs", "0.5", "--out", "b") == 0
    assert yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())["lrs"] == [0.5]


def test_a_printed_config_leaves_open_what_follows_from_the_model(words, capsys):
    assert run("finetune", *words, "--lr", "0.5", "--print-config") == 0
    printed = capsys.readouterr().out
    held = yaml.safe_load(printed)
    assert held["lr"] == 0.5
    assert {*CHOSEN} & held.keys() == {"lr"}
    assert "# chosen when the run starts: " in printed
    assert run("finetune", *words, "--recipe", "none", "--print-config") == 0
    assert {*CHOSEN} <= yaml.safe_load(capsys.readouterr().out).keys()
    assert run("finetune", "--epochs", "2", "--print-config") == 0
    assert "steps" not in yaml.safe_load(capsys.readouterr().out)


def test_wrong_values_are_found_before_the_model_is_loaded(words):
    words[-1] = "timm:/nowhere"
    with pytest.raises(ConfigError, match="lr"):
        bench.finetune(SOURCES["imagefolder"](words[3]), words[5], lr=-1)
    with pytest.raises(ConfigError, match="epochs"):
        bench.finetune(SOURCES["imagefolder"](words[3]), words[5], epochs=-1)
    with pytest.raises(ConfigError, match="recipe"):
        bench.finetune(SOURCES["imagefolder"](words[3]), words[5], recipe="best")


def test_a_recipe_by_name_is_taken_for_any_model(task):
    own = choose_settings(task, {"recipe": "cnn"}).arguments
    assert own.lr == RECIPES["cnn"]["lr"].value
    assert own.layer_decay == 1.0
    none = choose_settings(task, {"recipe": "none", "steps": 5})
    assert none.arguments == TrainingArguments(steps=5)
    job = Job(task, get_method("full"), none.arguments)
    assert job.run == Job(task, get_method("full"), TrainingArguments(steps=5)).run


@pytest.mark.skipif(not GUIDE.exists(), reason="the documents are not installed")
def test_the_guide_has_the_values_of_the_table():
    text = GUIDE.read_text()
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    assert rows.keys() == RECIPES.keys()
    shown = {True: "on", False: "off"}
    for name, recipe in RECIPES.items():
        cells = [cell.strip() for cell in rows[name].strip("|").split("|")][2:]
        order = ("lr", "layer_decay", "weight_decay", "crop_scale", "flip")
        for setting, cell in zip(order, cells, strict=True):
            value = recipe.get(setting)
            said = shown[value.value] if setting == "flip" else f"{value.value:g}" if value else ""
            assert cell == (f"{said} ({value.source})" if value else ""), (name, setting)
    for size in DATA_SIZES:
        assert f"{size.batch_size.value} ({size.batch_size.source})" in text
        assert f"{size.epochs.value} ({size.epochs.source}" in text
    for source in CITATIONS.keys() - {"ours"}:
        assert source in text
