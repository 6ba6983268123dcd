"""`gmixout.load`: a model from its file, without what it was made of."""

import json
import shutil
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from finished import CLASSES, finetuned
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_foundations import add_tiny_clip, clip_file, hf_clip, hf_dinov2, hf_vit, timm_file

import gmixout
from gmixout.allowed import NotAllowedError, allowing
from gmixout.bench import task as task_module
from gmixout.cli import main
from gmixout.errors import ConfigError, DataError, GmixoutError, StateError
from gmixout.models import load_pretrained
from gmixout.results.model_file import load_model, save_model


@pytest.fixture
def batch():
    return torch.randn(5, 3, 32, 32)


def test_is_the_finished_model(run, batch):
    model = gmixout.load(run)
    assert model.classes == CLASSES
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for name, value in load_file(run / "model.safetensors").items():
        assert torch.equal(value, model.model.state_dict()[name])
    expected = (model(batch) / model.temperature).softmax(1)
    torch.testing.assert_close(model.predict(batch), expected)
    torch.testing.assert_close(model.predict(list(batch), batch_size=2), expected)


def test_a_file_is_a_model_with_its_temperature_beside_it(run, batch, tmp_path):
    ours = gmixout.load(run)
    assert torch.equal(gmixout.load(run / "model.safetensors").predict(batch), ours.predict(batch))
    assert ours.temperature != 1
    assert ours.origin.notes == ()
    alone = gmixout.load(str(shutil.copy(run / "model.safetensors", tmp_path / "mine.safetensors")))
    assert alone.temperature == 1
    assert "gmixout calibrate" in alone.origin.notes[0]
    torch.testing.assert_close(alone.predict(batch), alone(batch).softmax(1))


def test_pictures_are_seen_as_in_training(run, photos):
    model = gmixout.load(run)
    file = photos / "test" / CLASSES[0] / "00.jpg"  # on its side
    upright = Image.open(file).transpose(Image.Transpose.ROTATE_270)
    as_seen = model.transform(upright.convert("RGB"))
    one, same, again = model.predict([file, upright, as_seen])
    assert torch.equal(one, same)
    assert torch.equal(one, again)
    assert not torch.equal(one, model.predict([Image.open(file)])[0])
    named = model.predict([str(file)], top_k=9)
    best = int(one.argmax())
    assert [name for name, _ in named[0]] == [CLASSES[best], CLASSES[1 - best]]
    assert dict(named[0]) == pytest.approx(dict(zip(CLASSES, one.tolist(), strict=True)))
    assert model.predict([file], top_k=1) == [named[0][:1]]


def test_grey_images_and_images_with_transparency_are_taken(run):
    grey = Image.fromarray(np.full((40, 40), 90, np.uint8))
    probabilities = gmixout.load(run).predict([grey, grey.convert("RGB"), grey.convert("RGBA")])
    assert torch.equal(probabilities[0], probabilities[1])
    assert torch.equal(probabilities[0], probabilities[2])


def test_half_precision_and_no_images(run, batch):
    model = gmixout.load(run)
    full = model.predict(batch)
    half = model.bfloat16().predict(batch)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.05, rtol=0)
    torch.testing.assert_close(half.sum(1), torch.ones(5))
    assert model.predict([]).shape == (0, 2)
    assert model.predict([], top_k=2) == []


def test_predicting_leaves_the_mode_as_it_was(run, batch):
    model = gmixout.load(run).train()
    model.predict(batch)
    assert model.training


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("a.jpg", {}, "must be a list"),
        (torch.zeros(3, 32, 32), {}, r"must be \[B, C, H, W\]"),
        ([], {"top_k": 0}, "top_k=0"),
        ([], {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_calls_are_named(run, images, options, message):
    with pytest.raises(ConfigError, match=message):
        gmixout.load(run).predict(images, **options)


def test_a_file_that_is_no_image_is_named(run, tmp_path):
    (tmp_path / "x.jpg").write_text("nothing")
    with pytest.raises(DataError, match=r"x\.jpg cannot be read"):
        gmixout.load(run).predict([tmp_path / "x.jpg"])
    with pytest.raises(DataError, match="absent"):
        gmixout.load(run).predict([tmp_path / "absent.jpg"])


LIBRARIES = {
    "hf vit": lambda folder, patch: f"hf:{hf_vit(folder, ['a', 'b'])}",
    "hf dinov2": lambda folder, patch: f"hf:{hf_dinov2(folder)}",
    "hf clip": lambda folder, patch: f"hf:{hf_clip(folder)}",
    "open_clip": lambda folder, patch: (
        add_tiny_clip(folder, patch) or f"open_clip:tiny-clip@{clip_file(folder)}"
    ),
    "timm by name": lambda folder, patch: f"timm:test_resnet@{timm_file(folder, 'test_resnet')}",
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_without_its_pretrained_files(library, photos, tmp_path, monkeypatch):
    report = import_module("gmixout.bench.commands.report")
    monkeypatch.setattr(report, "write_report", lambda *_, **__: [])
    foundation = tmp_path / "foundation"
    foundation.mkdir()
    with monkeypatch.context() as patch:
        name = LIBRARIES[library](foundation, patch)
        head = ["--head", "random"]
        out = finetuned(tmp_path / "run", photos, name, *head)
        pretrained = load_pretrained(name, CLASSES, "random")
    task_module._load.cache_clear()
    shutil.rmtree(foundation)
    pretrained.model.load_state_dict(load_model(out)[0])
    model = gmixout.load(out)
    file = photos / "test" / CLASSES[0] / "01.jpg"
    seen = pretrained.transform(Image.open(file).convert("RGB"))
    with torch.inference_mode():
        expected = pretrained.model(seen[None]) / model.temperature
    torch.testing.assert_close(model.predict([file]), expected.softmax(1))


def changed(run, folder, **values):
    """A copy of a model file that says something else of itself."""
    state, about = load_model(run)
    about |= values
    save_model(folder / "model.safetensors", state, {n: v for n, v in about.items() if v != "-"})
    return folder


def test_an_older_file_without_architecture_asks_for_the_pretrained_model(run, tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*foundation"):
        gmixout.load(changed(run, tmp_path, architecture="-"))


def test_an_older_file_is_loaded_by_the_name_of_its_model(run, tmp_path, batch):
    pretrained = load_pretrained(f"timm:test_vit@{timm_file(tmp_path)}", CLASSES)
    about = load_model(run)[1]
    task = {**about["task"], "model": f"timm:test_vit@{timm_file(tmp_path)}"}
    about = {n: v for n, v in about.items() if n != "architecture"} | {"task": task}
    save_model(tmp_path / "model.safetensors", pretrained.model.state_dict(), about)
    x = torch.randn(2, 3, *pretrained.size)
    with torch.inference_mode():
        assert torch.equal(gmixout.load(tmp_path)(x), pretrained.model(x))


def test_weights_of_another_architecture_are_refused(run, tmp_path):
    held = load_model(run)[1]["architecture"]
    other = {**held, "arguments": {**held["arguments"], "depth": 3}}
    with pytest.raises(StateError, match="do not fit the model"):
        gmixout.load(changed(run, tmp_path, architecture=other))


@pytest.mark.parametrize(
    "architecture",
    [
        {"family": "pickle"},
        {"family": "timm", "model": "hf-hub:x/y", "config": {}, "arguments": {}},
    ],
)
def test_a_file_that_describes_no_model_names_itself(run, tmp_path, architecture):
    with pytest.raises(GmixoutError, match=str(tmp_path)):
        gmixout.load(changed(run, tmp_path, architecture=architecture))


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(StateError, match="holds no model"):
        gmixout.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 30)
    with pytest.raises(StateError, match="cannot be read as a model"):
        gmixout.load(tmp_path)


def test_a_temperature_of_other_weights_is_not_used(run, tmp_path):
    changed(run, tmp_path, method="other")
    shutil.copy(run / "calibration.json", tmp_path)
    model = gmixout.load(tmp_path)
    assert model.temperature == 1
    assert "is of other weights" in model.origin.notes[0]


@pytest.mark.parametrize("text", ["", "{}", '{"temperature": 0}', "[]", "null", "\0"])
def test_a_damaged_temperature_is_named(run, tmp_path, text):
    changed(run, tmp_path)
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(StateError, match=r"calibration\.json cannot be read"):
        gmixout.load(tmp_path)


def test_the_digits_of_the_demo(tmp_path, monkeypatch):
    from gmixout.models import digits_vit

    about = {
        "benchmark": "digits", "run": "0" * 12, "method": "full", "options": {}, "pretrained": "",
        "task": {"benchmark": "digits"}, "classes": list("0123456789"),
    }  # fmt: skip
    start = digits_vit()
    for architecture in ({}, {"architecture": dict(start.architecture)}):
        save_model(tmp_path / "model.safetensors", start.model.state_dict(), about | architecture)
        model = gmixout.load(tmp_path)
        picture = Image.fromarray(np.zeros((50, 40, 3), np.uint8))
        assert model.predict([picture]).shape == (1, 10)


OWN = """
import torch
from gmixout.data import Benchmark
from gmixout.models import Pretrained
from toy_benchmark import toy_task
def make():
    return toy_task()
def other():
    return 3
"""


def test_a_model_of_ones_own_function(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    report = import_module("gmixout.bench.commands.report")
    monkeypatch.setattr(report, "write_report", lambda *_, **__: [])
    words = ["--steps", "2", "--batch-size", "8", "--method", "full", "--out", "out"]
    assert main(["finetune", "--benchmark", "own_models:make", *words]) == 0
    task_module._load.cache_clear()
    sys.modules.pop("own_models")
    with pytest.raises(NotAllowedError, match="--allow own_models"):
        gmixout.load("out")
    assert "own_models" not in sys.modules
    with allowing(["own_models"]):
        model = gmixout.load("out")
        assert model.predict(torch.zeros(2, 1, 3, 3)).shape == (2, 4)
        state, about = load_model(tmp_path / "out")
        save_model(
            tmp_path / "out" / "model.safetensors",
            state,
            {**about, "task": {"benchmark": "own_models:other"}},
        )
        with pytest.raises(StateError, match="gives no Pretrained"):
            gmixout.load("out")
    sys.modules.pop("own_models")


def test_the_metadata_hold_no_folder_of_this_machine_but_the_names_typed(run):
    with safe_open(run / "model.safetensors", "pt") as opened:
        about = json.loads(opened.metadata()["gmixout"])
    assert "/" not in json.dumps(about["architecture"])


def test_a_model_that_gives_no_probabilities(run, tmp_path):
    state, about = load_model(run)
    broken = {name: value * float("nan") for name, value in state.items()}
    save_model(tmp_path / "model.safetensors", broken, about)
    assert gmixout.load(tmp_path).predict(torch.zeros(1, 3, 32, 32)).isnan().all()
