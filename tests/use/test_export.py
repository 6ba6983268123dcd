"""Exports: the library that they are for computes what the model computes."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from finished import CLASSES, saved
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_foundations import (
    clip_folder,
    hf_clip,
    hf_dinov2,
    hf_dinov3,
    hf_vit,
    timm_file,
    timm_folder,
)

import gmixout
from gmixout.cli import main
from gmixout.errors import ConfigError, GmixoutError, StateError
from gmixout.use.classifier import Classifier
from gmixout.use.export import EXPORTS, export_model

PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (50, 70, 3), np.uint8))
    for n in range(3)
]


def seen(model):
    return torch.stack([model.transform(picture) for picture in PICTURES])


def exported(path, to, out, pretrained=None):
    """The model, its logits, and the place of its export."""
    model = gmixout.load(path)
    with torch.inference_mode():
        logits = model(seen(model))
    return model, logits, export_model(model, to, out, seen(model), pretrained)


MODELS = {
    "timm": lambda folder: str(timm_folder(folder, mean=[0.4, 0.5, 0.6])),
    "timm by name": lambda folder: f"timm:test_resnet@{timm_file(folder, 'test_resnet')}",
    "open_clip": lambda folder: str(clip_folder(folder, mean=[0.4, 0.5, 0.6])),
    "hf vit": lambda folder: str(hf_vit(folder, ["a", "b"])),
    "hf dinov2": lambda folder: str(hf_dinov2(folder)),
    "hf dinov3": lambda folder: str(hf_dinov3(folder)),
    "hf clip": lambda folder: str(hf_clip(folder)),
    "hf siglip": lambda folder: str(hf_clip(folder, "Siglip")),
}


@pytest.fixture
def made(request, tmp_path):
    """A model file of a kind of model, and the folder of its pretrained model."""
    foundation = tmp_path / "foundation"
    foundation.mkdir()
    return saved(tmp_path / "run", MODELS[request.param](foundation)), foundation


@pytest.mark.parametrize(
    ("kind", "image_size"), [("timm", None), ("timm", 48), ("timm by name", 96)]
)
def test_timm_reads_it_under_its_own_keys(kind, image_size, tmp_path):
    import timm

    foundation = tmp_path / "foundation"
    foundation.mkdir()
    run = saved(tmp_path / "run", MODELS[kind](foundation), image_size)
    shutil.rmtree(foundation)
    _, logits, out = exported(run, "timm", tmp_path / "out")
    again = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(again)
    transform = timm.data.create_transform(**data, is_training=False)
    with torch.inference_mode():
        found = again(torch.stack([transform(picture) for picture in PICTURES]))
    torch.testing.assert_close(found, logits)
    assert json.loads((out / "config.json").read_text())["label_names"] == list(CLASSES)
    state = load_file(run / "model.safetensors")
    assert load_file(out / "model.safetensors").keys() == state.keys()


@pytest.mark.parametrize("made", ["hf vit", "hf dinov2"], indirect=True)
def test_transformers_reads_a_classifier_with_its_classes(made, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    _, logits, out = exported(made[0], "hf", tmp_path / "out")
    model, report = AutoModelForImageClassification.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert [model.config.id2label[n] for n in range(2)] == list(CLASSES)
    images = AutoImageProcessor.from_pretrained(out)(images=PICTURES, return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(**images).logits, logits)


@pytest.mark.parametrize("made", ["hf dinov3"], indirect=True)
def test_transformers_reads_a_backbone_with_the_classifier_beside_it(made, tmp_path):
    from transformers import AutoModel

    model, logits, out = exported(made[0], "hf", tmp_path / "out")
    body, report = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    head = load_file(out / "classifier.safetensors")
    with torch.inference_mode():
        features = body.eval()(pixel_values=seen(model)).pooler_output
        torch.testing.assert_close(features @ head["weight"].T + head["bias"], logits)


@pytest.mark.parametrize("made", ["hf clip", "hf siglip"], indirect=True)
def test_transformers_reads_a_clip_with_the_pretrained_text_tower(made, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    run, foundation = made
    model, logits, out = exported(run, "hf", tmp_path / "out")
    again, report = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    before = AutoModel.from_pretrained(foundation).state_dict()
    for name, value in again.state_dict().items():
        if name.startswith("text"):
            assert torch.equal(value, before[name])
    assert any(
        not torch.equal(value, before[name])
        for name, value in again.state_dict().items()
        if name.startswith("vision")
    )
    with torch.inference_mode():
        features = again.eval().get_image_features(pixel_values=seen(model))
        features = getattr(features, "pooler_output", features)
        head = load_file(out / "classifier.safetensors")["weight"]
        features = torch.nn.functional.normalize(features, dim=-1)
        torch.testing.assert_close(features @ head.T, logits)
    assert AutoTokenizer.from_pretrained(out)("dog")["input_ids"]


@pytest.mark.parametrize("made", ["open_clip"], indirect=True)
def test_open_clip_reads_it_with_the_pretrained_text_tower(made, tmp_path):
    import open_clip

    run, foundation = made
    moved = foundation.rename(tmp_path / "moved")
    with pytest.raises(GmixoutError, match=r"pretrained model: .*foundation.*--pretrained"):
        exported(run, "open_clip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model, logits, out = exported(run, "open_clip", tmp_path / "out", f"open_clip:{moved}")
    again, _, transform = open_clip.create_model_and_transforms(f"local-dir:{out}")
    pixels = torch.stack([transform(picture) for picture in PICTURES])
    assert torch.equal(pixels, seen(model))
    head = load_file(out / "classifier.safetensors")["weight"]
    with torch.inference_mode():
        found = again.eval().encode_image(pixels, normalize=True) @ head.T
    torch.testing.assert_close(found, logits)
    before = load_file(moved / "open_clip_model.safetensors")
    text = {name for name in before if not name.startswith("visual.")}
    assert len(text) > 5
    assert all(torch.equal(again.state_dict()[name], before[name]) for name in text)


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def answers(to, out, images):
    if to == "torch_export":
        return torch.export.load(out).module()(images)
    import onnxruntime

    session = onnxruntime.InferenceSession(out)
    return map(torch.from_numpy, session.run(None, {"images": images.numpy()}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("to", ["onnx", "torch_export"])
def test_a_program_takes_any_number_of_images(to, tmp_path):
    run = saved(tmp_path / "run", str(timm_folder(tmp_path)))
    model, logits, out = exported(run, to, tmp_path / f"out{EXPORTS[to].suffix}")
    for count in (1, 2, 3):
        found, shares = answers(to, out, seen(model)[:count])
        torch.testing.assert_close(found, logits[:count], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(shares, model.predict(PICTURES)[:count], atol=1e-4, rtol=1e-3)
    if to == "onnx":
        import onnxruntime

        about = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    else:
        about = {"classes": "", "temperature": ""}
        torch.export.load(out, extra_files=about)
    assert json.loads(about["classes"]) == list(CLASSES)
    assert float(about["temperature"]) == model.temperature
    assert f'"{out.name}"' in (tmp_path / "out.md").read_text()


@pytest.mark.parametrize("made", MODELS, indirect=True)
def test_a_delta_and_the_pretrained_model_are_the_model_to_the_bit(made, tmp_path):
    run, _ = made
    model, logits, out = exported(run, "delta", tmp_path / "out.safetensors")
    again = gmixout.load(out)
    for name, value in load_file(run / "model.safetensors").items():
        assert torch.equal(again.model.state_dict()[name], value)
    assert again.classes == CLASSES
    assert again.temperature == model.temperature == 2.5
    assert again.origin.notes == ()
    assert out.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    torch.testing.assert_close(again(seen(model)), logits)
    assert main(["predict", str(out), "--files", str(tmp_path / "x.png")]) == 0


def test_a_delta_holds_what_changed_and_refuses_another_base(tmp_path):
    foundation = timm_folder(tmp_path)
    run = saved(tmp_path / "run", str(foundation))
    model = gmixout.load(run)
    state = model.model.state_dict()
    before = torch.load(foundation / "pytorch_model.bin", weights_only=True)
    weight = "blocks.0.mlp.fc1.weight"
    for name, value in state.items():
        if not name.startswith("head"):
            value.copy_(before[name])
    state[weight][3] += 1
    state["norm.bias"][0] = -0.0
    out = export_model(model, "delta", tmp_path / "d.safetensors", seen(model))
    held = load_file(out)
    assert {name for name in held if "head" not in name} == {
        f"{kind}/{name}" for kind in ("places", "values") for name in (weight, "norm.bias")
    }
    assert len(held[f"places/{weight}"]) == state[weight].shape[1]
    assert torch.equal(gmixout.load(out).model.state_dict()[weight], state[weight])
    assert out.stat().st_size < (run / "model.safetensors").stat().st_size / 2
    before["pos_embed"] += 1
    torch.save(before, foundation / "pytorch_model.bin")
    with pytest.raises(StateError, match=r"fingerprint .*: give the one that it was"):
        gmixout.load(out)


def test_a_damaged_delta_is_named(tmp_path):
    run = saved(tmp_path / "run", str(timm_folder(tmp_path)))
    model = gmixout.load(run)
    out = export_model(model, "delta", tmp_path / "d.safetensors", seen(model))
    from safetensors import safe_open

    with safe_open(out, "pt") as opened:
        metadata = opened.metadata()
    held = load_file(out)
    for change in (
        {name: value for name, value in held.items() if "head" not in name},
        {name: value * 2 for name, value in held.items()},
    ):
        save_file(change, out, metadata=metadata)
        with pytest.raises(StateError, match="is damaged"):
            gmixout.load(out)
    save_file(held, out, metadata={"gmixout_delta": "{}"})
    with pytest.raises(StateError, match="cannot be read as a delta"):
        gmixout.load(out)


class Changing(torch.nn.Module):
    """Computes something else when it is traced."""

    def forward(self, images):
        logits = images.mean((2, 3))
        return logits + 1 if torch.compiler.is_compiling() else logits


@pytest.mark.parametrize("to", ["onnx", "torch_export"])
def test_what_computes_something_else_is_not_left_there(to, tmp_path):
    model = Classifier(Changing(), ["a", "b", "c"], torch.as_tensor)
    out = tmp_path / f"out{EXPORTS[to].suffix}"
    with pytest.raises(StateError, match="computes something else"):
        export_model(model, to, out, torch.randn(2, 3, 8, 8))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("to", EXPORTS)
def test_what_a_model_cannot_be_is_refused_and_nothing_is_left(to, tmp_path):
    class Looping(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) if images.sum() > 0 else images.sum((2, 3))

    model = Classifier(Looping(), ["a", "b", "c"], torch.as_tensor)
    with pytest.raises(GmixoutError, match=r"this is not a model of|cannot trace|only for a model"):
        export_model(model, to, tmp_path / f"out{EXPORTS[to].suffix}", torch.randn(2, 3, 8, 8))
    assert os.listdir(tmp_path) == []


def test_places_and_forms_are_checked_first(tmp_path):
    model = Classifier(Changing(), ["a"], torch.as_tensor)
    x = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ConfigError, match=r"to='keras' must be one of: timm"):
        export_model(model, "keras", tmp_path / "x", x)
    with pytest.raises(ConfigError, match=r"ends in \.onnx"):
        export_model(model, "onnx", tmp_path / "x", x)
    (tmp_path / "x.onnx").touch()
    with pytest.raises(StateError, match="exists already"):
        export_model(model, "onnx", tmp_path / "x.onnx", x)


def test_the_command_and_its_card(run, photos, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["export", str(run), "--to", "timm", "--out", str(out)]
    assert main(words) == 0
    assert "equal to the model on 8 images" in capsys.readouterr().err
    card = (out / "README.md").read_text()
    assert card.startswith("---\n")
    assert "library_name: timm" in card
    assert "| id_test | 24 |" in card
    assert CLASSES[0] in card
    assert str(tmp_path) not in card
    assert "Nothing was measured out of domain" in card
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    copy = shutil.copytree(run, tmp_path / "copy")
    assert main(["export", str(copy), "--to", "timm"]) == 0
    assert (tmp_path / "copy-timm" / "config.json").exists()
    moved = tmp_path / "other"
    file = str(photos / "test" / CLASSES[0] / "00.jpg")
    assert main([*words[:-1], str(moved), "--images", file]) == 0
    assert "on 1 images" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "z"), "--data-root", str(tmp_path / "none")]) == 2


def test_a_card_shows_no_markup_of_names(tmp_path):
    model = Classifier(Changing(), ["<b>", "a|b", "[x](y)"], torch.as_tensor)
    from gmixout.use.card import card_of

    card = card_of(model, "onnx", "usage")
    assert "<b>" not in card
    assert "[x](y)" not in card
