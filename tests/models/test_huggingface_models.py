"""What is particular to transformers: classifiers and their labels, incomplete checkpoints."""

import json
import pickle

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_foundations import (
    CLASSES,
    hf_clip,
    hf_dinov2,
    hf_dinov3,
    hf_vit,
    processor,
    timm_file,
    timm_folder,
)

from gmixout.errors import ConfigError, DataError
from gmixout.models import load_pretrained

transformers = pytest.importorskip("transformers")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_a_classifier_of_these_classes_is_kept(tmp_path):
    folder = hf_vit(tmp_path, CLASSES)
    theirs = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    ours = load_pretrained(f"hf:{folder}", CLASSES)
    assert ours.head_from == "pretrained"
    torch.testing.assert_close(ours.model(IMAGES), theirs(IMAGES).logits, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("classes", "head"), [(CLASSES[::-1], None), (CLASSES, "random"), (["x", "y"], None)]
)
def test_any_other_classifier_is_drawn_anew(tmp_path, classes, head):
    folder = hf_vit(tmp_path, CLASSES)
    saved = transformers.ViTForImageClassification.from_pretrained(folder).state_dict()
    ours = load_pretrained(f"hf:{folder}", classes, head)
    assert ours.head_from == "random"
    state = {name.removeprefix("body."): v for name, v in ours.model.state_dict().items()}
    assert state.keys() == saved.keys()
    for name, value in saved.items():
        same = state[name].shape == value.shape and torch.equal(state[name], value)
        assert same is (name != "classifier.weight") or name == "classifier.bias", name


def test_dinov2_is_pooled_as_transformers_pools_it(tmp_path):
    """Class token and mean of the patches, of the plain backbone."""
    folder = hf_dinov2(tmp_path)
    tokens = transformers.AutoModel.from_pretrained(folder).eval()(IMAGES).last_hidden_state
    features = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)
    pretrained = load_pretrained(f"hf:{folder}", CLASSES)
    head = pretrained.model.get_submodule(pretrained.heads[0])
    torch.testing.assert_close(pretrained.model(IMAGES), head(features))
    assert "Dinov2ForImageClassification pools" in pretrained.description


def test_a_kind_without_a_classifier_gets_one_on_its_pooled_features(tmp_path):
    folder = hf_dinov3(tmp_path)
    pooled = transformers.AutoModel.from_pretrained(folder).eval()(IMAGES).pooler_output
    model = load_pretrained(f"hf:{folder}", CLASSES).model
    torch.testing.assert_close(model(IMAGES), model.head(pooled))


def test_half_precision_checkpoints_become_float32(tmp_path):
    folder = hf_dinov2(tmp_path)
    transformers.Dinov2Model.from_pretrained(folder).half().save_pretrained(folder)
    model = load_pretrained(f"hf:{folder}", CLASSES).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_transform_is_the_librarys_and_goes_to_workers(tmp_path):
    folder = hf_dinov2(tmp_path)
    processor(folder, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], resample=2)
    theirs = transformers.AutoImageProcessor.from_pretrained(folder)
    pretrained = load_pretrained(f"hf:{folder}", CLASSES)
    picture = Image.fromarray(torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8).numpy())
    expected = theirs(images=picture, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pickle.loads(pickle.dumps(pretrained.transform))(picture), expected)
    assert pretrained.mean == (0.4, 0.5, 0.6)
    assert pretrained.std == (0.2, 0.3, 0.4)
    assert pretrained.interpolation == "bilinear"
    assert pretrained.size == (32, 32)


def test_a_processor_that_does_not_normalise_has_mean_zero(tmp_path):
    folder = hf_dinov2(tmp_path)
    processor(folder, do_normalize=False)
    pretrained = load_pretrained(f"hf:{folder}", CLASSES)
    assert pretrained.mean == (0.0, 0.0, 0.0)
    assert pretrained.std == (1.0, 1.0, 1.0)
    white = pretrained.transform(Image.new("RGB", (40, 40), "white"))
    torch.testing.assert_close(white, torch.ones(3, 32, 32))


def test_models_of_timm_are_sent_there(tmp_path):
    folder = timm_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "timm_wrapper"}))
    with pytest.raises(ConfigError, match=f"load it as timm:{folder}"):
        load_pretrained(f"hf:{folder}", CLASSES)
    load_pretrained(f"timm:{folder}", CLASSES)


def test_the_weights_argument_is_a_folder(tmp_path):
    folder = hf_vit(tmp_path / "model", CLASSES)
    model = load_pretrained("hf:google/vit-base-patch16-224", CLASSES, weights=folder).model
    assert model(IMAGES).shape == (2, 3)
    with pytest.raises(ConfigError, match="transformers loads folders"):
        load_pretrained("hf:google/vit-base-patch16-224", CLASSES, weights=timm_file(tmp_path))


@pytest.mark.parametrize("build", [hf_dinov2, hf_dinov3, hf_clip])
def test_a_checkpoint_that_lacks_layers_is_refused(tmp_path, build):
    """transformers itself fills the gap with random values."""
    folder = build(tmp_path)
    file = folder / "model.safetensors"
    state = load_file(file)
    gone = next(name for name in state if name.endswith("norm1.weight") or "layer_norm1" in name)
    del state[gone]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match="it lacks 1 tensors"):
        load_pretrained(f"hf:{folder}", CLASSES)


@pytest.mark.parametrize("build", [hf_dinov2, hf_dinov3])
def test_a_checkpoint_with_layers_of_another_size_is_refused(tmp_path, build):
    """transformers is asked to overlook that for the head, and does so for every layer."""
    folder = build(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "patch_size": 16}))
    with pytest.raises(DataError, match="patch_embeddings"):
        load_pretrained(f"hf:{folder}", CLASSES)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(tmp_path, file):
    folder = hf_dinov2(tmp_path)
    (folder / file).unlink()
    with pytest.raises(DataError, match=str(folder)):
        load_pretrained(f"hf:{folder}", CLASSES)


@pytest.mark.parametrize("build", [hf_dinov2, hf_dinov3])
def test_a_zero_shot_head_needs_a_text_tower(tmp_path, build):
    with pytest.raises(ConfigError, match="no text tower"):
        load_pretrained(f"hf:{build(tmp_path)}", CLASSES, "zero_shot")


def test_a_kind_that_pools_nothing_is_refused(tmp_path):
    """A masked autoencoder's tokens are not pooled by anyone."""
    hf_dinov2(tmp_path)
    config = transformers.ViTMAEConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    transformers.ViTMAEModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="pools no features"):
        load_pretrained(f"hf:{tmp_path}", CLASSES)


def test_a_folder_of_an_unknown_kind_is_refused(tmp_path):
    hf_dinov2(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_type"}))
    with pytest.raises(DataError, match="cannot be loaded"):
        load_pretrained(f"hf:{tmp_path}", CLASSES)
