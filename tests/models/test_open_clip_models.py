"""What is particular to open_clip: tags, activations, archives, folders."""

import json

import pytest
import torch
from PIL import Image
from tiny_foundations import CLASSES, add_tiny_clip, clip_file, clip_folder

from gmixout.errors import ConfigError, DataError
from gmixout.models import load_pretrained

GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "interpolation": "bilinear"}


@pytest.fixture
def tagged(tmp_path, monkeypatch):
    """tiny-clip with a tag whose weights lie in a file, were trained with QuickGELU, and want grey
    pictures squashed."""
    add_tiny_clip(tmp_path, monkeypatch)
    pretrained = pytest.importorskip("open_clip.pretrained")
    file = clip_file(tmp_path)
    tag = {"file": str(file), "quick_gelu": True, "resize_mode": "squash", **GREY}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-clip", {"openai": tag})
    return file


def activations(model):
    from open_clip.transformer import QuickGELU

    return [isinstance(m, QuickGELU) for m in model.modules() if "GELU" in type(m).__name__]


@pytest.mark.parametrize("form", ["{model}/openai", "{model}/openai@{file}"])
def test_a_tag_brings_its_activation_and_preprocessing(tagged, form):
    name = form.format(model="open_clip:tiny-clip", file=tagged)
    pretrained = load_pretrained(name, CLASSES)
    assert all(activations(pretrained.model))
    assert pretrained.mean == GREY["mean"]
    assert pretrained.std == GREY["std"]
    assert pretrained.interpolation == "bilinear"
    # squashed, not cropped: the white half of a wide picture is still there
    picture = Image.new("RGB", (128, 32), "white")
    picture.paste("black", (0, 0, 32, 32))
    assert pretrained.transform(picture)[:, :, 0].max() < 0 < pretrained.transform(picture).max()


def test_a_file_without_a_tag_has_the_models_own_activation(tagged, monkeypatch):
    from open_clip import pretrained

    monkeypatch.delitem(pretrained._PRETRAINED, "tiny-clip")
    pretrained = load_pretrained(f"open_clip:tiny-clip@{tagged}", CLASSES)
    assert not any(activations(pretrained.model))
    assert f"weights: {tagged}" in pretrained.description
    assert pretrained.interpolation == "bicubic"


def test_a_file_without_a_tag_is_refused_where_tags_differ_in_their_activation(tagged):
    with pytest.raises(ConfigError, match=r"QuickGELU.*tiny-clip/TAG@FILE \(there are: openai\)"):
        load_pretrained(f"open_clip:tiny-clip@{tagged}", CLASSES)


def test_transform_is_the_librarys(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    folder = clip_folder(tmp_path, **GREY)
    theirs = open_clip.create_model_from_pretrained(f"local-dir:{folder}")[1]
    pixels = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    ours = load_pretrained(f"open_clip:{folder}", CLASSES).transform
    assert torch.equal(ours(picture), theirs(picture))


def test_weights_of_another_model_are_refused(tagged, tmp_path):
    file = clip_file(tmp_path, embed_dim=8)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_pretrained(f"open_clip:tiny-clip/openai@{file}", CLASSES)


def test_a_folder_without_weights_is_refused(tmp_path):
    folder = clip_folder(tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(DataError, match=str(folder)):
        load_pretrained(str(folder), CLASSES)


def test_a_captioning_model_gives_logits(tmp_path, monkeypatch):
    """CoCa's image tower returns its tokens beside the features."""
    from safetensors.torch import save_file

    coca = pytest.importorskip("open_clip.coca_model")
    size = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    changes = {
        "multimodal_cfg": size,
        "text_cfg": {**size, "embed_cls": True, "output_tokens": True},
        "vision_cfg": {
            "image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16,
            "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True,
        },
    }  # fmt: skip
    add_tiny_clip(tmp_path, monkeypatch, custom_text=True, **changes)
    file = tmp_path / "coca.safetensors"
    save_file(coca.CoCa(embed_dim=16, **changes).state_dict(), file)
    model = load_pretrained(f"open_clip:tiny-clip@{file}", CLASSES).model
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-61/openai", "did you mean.* ViT-B-16"),
        ("open_clip:ViT-B-16/openia", "no weights 'openia' of ViT-B-16. There are: openai, "),
        ("open_clip:ViT-B-16", "write open_clip:ViT-B-16/TAG"),
    ],
)
def test_wrong_names_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        load_pretrained(name, CLASSES)


def test_a_folder_given_as_a_file_is_refused(tmp_path):
    clip_folder(tmp_path)
    for name in (f"open_clip:ViT-B-16@{tmp_path}", f"open_clip:{tmp_path}"):
        with pytest.raises(ConfigError, match=r"load it by itself|brings its own"):
            load_pretrained(name, CLASSES, weights=None if "@" in name else clip_file(tmp_path))


def test_config_of_a_saved_model_is_respected(tmp_path):
    folder = clip_folder(tmp_path)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert all(activations(load_pretrained(str(folder), CLASSES).model))
