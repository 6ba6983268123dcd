"""A model from its `architecture` alone is the model that was loaded, for every library."""

import json

import pytest
import torch
from PIL import Image
from tiny_foundations import CLASSES, FOLDERS, add_tiny_clip, clip_file, timm_file

from gmixout.errors import ConfigError, DataError
from gmixout.models import digits_vit, load_pretrained, rebuild_pretrained
from gmixout.plain import bounded


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory):
    """Made once and only read."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FOLDERS[request.param](tmp_path_factory.mktemp("model"))


def picture(width=90, height=70):
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def check_same(pretrained, same_transform=True):
    """What a file keeps of the architecture gives logits that are equal to the bit."""
    kept = json.loads(json.dumps(bounded(dict(pretrained.architecture))))
    again = rebuild_pretrained(kept, pretrained.classes)
    assert json.loads(json.dumps(bounded(dict(again.architecture)))) == kept
    again.model.load_state_dict(pretrained.model.state_dict())
    assert list(again.model.state_dict()) == list(pretrained.model.state_dict())
    assert (again.heads, again.classes) == (pretrained.heads, pretrained.classes)
    assert not any(module.training for module in again.model.modules())
    if same_transform:
        fields = ("size", "mean", "std", "interpolation")
        assert all(getattr(again, f) == getattr(pretrained, f) for f in fields)
        for size in ((90, 70), (20, 41)):
            one = picture(*size)
            assert torch.equal(pretrained.transform(one), again.transform(one))
    x = torch.randn(2, *again.transform(picture()).shape)
    with torch.inference_mode():
        assert torch.equal(again.model(x), pretrained.model(x))
    return again


@pytest.mark.parametrize("image_size", [None, 48])
def test_a_folder_is_no_longer_needed(folder, image_size):
    pretrained = load_pretrained(str(folder), CLASSES, image_size=image_size)
    assert str(folder) not in json.dumps(pretrained.architecture)
    check_same(pretrained)


@pytest.mark.parametrize(
    "name",
    ["test_vit", "test_convnext", "test_efficientnet", "test_resnet", "test_vit2", "test_vit3"],
)
@pytest.mark.parametrize("image_size", [None, 96])
def test_a_model_of_timm_by_name(name, image_size, tmp_path):
    file = timm_file(tmp_path, name)
    check_same(load_pretrained(f"timm:{name}@{file}", CLASSES, image_size=image_size))


def test_a_tag_of_timm_with_another_size(tmp_path):
    file = timm_file(tmp_path)
    found = check_same(load_pretrained(f"timm:test_vit.r160_in1k@{file}", CLASSES))
    assert found.size == (160, 160)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quick_gelu": True},
        {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}},
        {"vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": ""}},
    ],
    ids=["vit", "quick_gelu", "resnet", "timm tower"],
)
def test_a_model_of_open_clip_by_name(changes, tmp_path, monkeypatch):
    add_tiny_clip(tmp_path, monkeypatch, **changes)
    file = clip_file(tmp_path, **changes)
    check_same(load_pretrained(f"open_clip:tiny-clip@{file}", CLASSES))


def test_the_model_of_the_digits():
    check_same(digits_vit(), same_transform=False)


def test_draws_nothing_from_the_global_generators(tmp_path, rng_untouched):
    pretrained = load_pretrained(f"timm:test_vit@{timm_file(tmp_path)}", CLASSES)
    with rng_untouched():
        rebuild_pretrained(pretrained.architecture, CLASSES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "family=None"),
        ({"family": ["timm"]}, "must be one of: timm"),
        ({"family": "timm"}, "cannot be loaded"),
        ({"family": "timm", "model": "hf-hub:mine/model", "config": {}, "arguments": {}}, "no mod"),
        ({"family": "timm", "model": "local-dir:/x", "config": {}, "arguments": {}}, "has no mod"),
        ({"family": "timm", "model": 3, "config": {}, "arguments": {}}, "timm"),
        (
            {
                **{"family": "timm", "model": "test_vit", "config": {}, "data": {}},
                "arguments": {"checkpoint_path": "/etc/passwd"},
            },
            "timm",
        ),
        (
            {
                **{"family": "timm", "model": "test_vit", "config": {}, "data": {}},
                "arguments": {"pretrained": True},
            },
            "timm",
        ),
        ({"family": "open_clip", "model": {}}, "open_clip"),
        ({"family": "hf", "kind": "clip", "config": {"model_type": "vit"}, "processor": {}}, "hf"),
        (
            {
                **{"family": "hf", "kind": "classifier", "processor": {}, "options": {}},
                "config": {"model_type": "x", "auto_map": {"AutoConfig": "code.Config"}},
            },
            "hf model",
        ),
    ],
)
def test_values_that_describe_no_model_are_refused(values, message):
    with pytest.raises((ConfigError, DataError), match=message):
        rebuild_pretrained(values, CLASSES)
