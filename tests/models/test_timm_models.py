"""What is particular to timm: tags, classifiers, files with other classes."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_foundations import CLASSES, timm_file, timm_folder

from gmixout.errors import ConfigError, DataError
from gmixout.models import load_pretrained

timm = pytest.importorskip("timm")


def body(state, heads=("head",)):
    return {name: value for name, value in state.items() if not name.startswith(heads)}


@pytest.mark.parametrize("classes", [0, 3, 1000])
def test_a_file_may_have_any_classifier(tmp_path, classes):
    """The body is the file's; the head is drawn anew, even where it happens to have our size."""
    file = timm_file(tmp_path, classes=classes)
    saved = timm.models.load_state_dict(str(file))
    pretrained = load_pretrained(f"timm:test_vit@{file}", CLASSES)
    state = pretrained.model.state_dict()
    torch.testing.assert_close(body(state), body(saved), atol=0, rtol=0)
    assert pretrained.head_from == "random"
    assert f"weights: {file}" in pretrained.description
    if classes == 3:
        assert not torch.equal(state["head.weight"], saved["head.weight"])


def test_a_tag_brings_its_preprocessing(tmp_path, monkeypatch):
    file = timm_file(tmp_path)
    tag = timm.get_pretrained_cfg("test_vit.r160_in1k")
    pretrained = load_pretrained(f"timm:test_vit.r160_in1k@{file}", CLASSES)
    assert pretrained.mean == tag.mean
    assert pretrained.std == tag.std
    assert pretrained.size == tag.input_size[1:]
    assert pretrained.interpolation == tag.interpolation
    theirs = timm.data.create_transform(
        **timm.data.resolve_data_config(pretrained_cfg=tag.to_dict()), is_training=False
    )
    picture = Image.fromarray(torch.randint(0, 256, (90, 70, 3), dtype=torch.uint8).numpy())
    assert torch.equal(pretrained.transform(picture), theirs(picture))


def test_imagenets_classifier_is_kept_for_imagenet(tmp_path):
    file = timm_file(tmp_path, classes=1000)
    saved = timm.models.load_state_dict(str(file))
    ids = timm.data.ImageNetInfo("imagenet-1k").label_names()
    kept = load_pretrained(f"timm:test_vit@{file}", ids)
    assert kept.head_from == "pretrained"
    assert "the pretrained classifier" in kept.description
    torch.testing.assert_close(kept.model.state_dict(), saved, atol=0, rtol=0)
    assert load_pretrained(f"timm:test_vit@{file}", ids, "random").head_from == "random"


def test_rows_of_imagenets_classifier_are_kept_for_some_of_its_classes(tmp_path):
    """WordNet ids, or WordNet names that no second class has; otherwise the head is random."""
    file = timm_file(tmp_path, classes=1000)
    saved = timm.models.load_state_dict(str(file))
    info = timm.data.ImageNetInfo("imagenet-1k")
    ids, names = info.label_names(), info.label_descriptions()
    for rows in ([3, 1], [999, 0, 500], [*range(999, -1, -1)]):
        for naming in (ids, names):
            some = load_pretrained(f"timm:test_vit@{file}", [naming[row] for row in rows])
            assert some.head_from == "pretrained"
            assert torch.equal(some.model.head.weight, saved["head.weight"][rows])
            assert torch.equal(some.model.head.bias, saved["head.bias"][rows])
            if len(rows) == 1000:
                break  # two of the names are alike
    for unknown in (["tench", "dog"], ["crane", "tench"], ["n01440764", "goldfish"]):
        assert load_pretrained(f"timm:test_vit@{file}", unknown).head_from == "random"


def test_the_classifier_of_a_saved_model_is_kept_for_its_classes(tmp_path):
    folder = timm_folder(tmp_path, classes=3, label_names=CLASSES)
    whole = load_pretrained(str(folder), CLASSES)
    assert whole.head_from == "pretrained"
    assert load_pretrained(str(folder), [*CLASSES[:2], "unheard of"]).head_from == "random"
    pictures = torch.randn(2, 3, *whole.size)
    for rows in ([2, 1, 0], [2, 0], [1]):  # another order, and some of them
        part = load_pretrained(str(folder), [CLASSES[row] for row in rows])
        assert part.head_from == "pretrained"
        torch.testing.assert_close(part.model(pictures), whole.model(pictures)[:, rows])


def test_weights_of_another_model_are_refused(tmp_path):
    file = timm_file(tmp_path, "test_resnet")
    with pytest.raises(DataError, match=r"timm:test_vit.* cannot be loaded"):
        load_pretrained(f"timm:test_vit@{file}", CLASSES)


def test_a_file_that_lacks_layers_is_refused(tmp_path):
    """timm loads a checkpoint with another number of classes leniently."""
    state = timm.models.load_state_dict(str(timm_file(tmp_path)))
    del state["blocks.0.attn.qkv.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(DataError, match="qkv"):
        load_pretrained(f"timm:test_vit@{tmp_path}/part.safetensors", CLASSES)


def test_both_heads_of_a_distilled_model_are_drawn(tmp_path):
    size = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2}
    model = timm.create_model("deit_tiny_distilled_patch16_224", **size)
    timm.models.save_for_hf(model, tmp_path, model_args=size)
    pretrained = load_pretrained(str(tmp_path), CLASSES)
    loaded = pretrained.model
    assert pretrained.heads == ("head", "head_dist")
    assert torch.equal(loaded.head.weight, loaded.head_dist.weight)
    assert loaded(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_a_convolutional_model_gives_logits(tmp_path):
    model = load_pretrained(f"timm:test_convnext@{timm_file(tmp_path, 'test_convnext')}", CLASSES)
    assert model.model(torch.randn(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_base_patch16_244.augreg_in21k", "did you mean.*vit_base_patch16_224"),
        ("timm:xyzzyxyzzy", r"timm.list_models\(\)"),
        ("timm:vit_base_patch16_224.augreg_in12k", "There are: .*augreg_in21k"),
        ("timm:vit_base_patch8_224.x", "no weights 'x' of vit_base_patch8_224"),
        (
            "timm:vit_base_patch16_clip_224.openai",
            "QuickGELU.* take timm:vit_base_patch16_clip_quickgelu_224.openai",
        ),
        ("timm:resnetv2_50x1_bitm", "resnetv2_50x1_bit"),
    ],
)
def test_wrong_names_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        load_pretrained(name, CLASSES)


def test_models_without_weights_want_a_file():
    bare = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(ConfigError, match=f"no pretrained weights of {bare}: give a file"):
        load_pretrained(f"timm:{bare}", CLASSES)


def test_a_zero_shot_head_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no text tower"):
        load_pretrained(f"timm:test_vit@{timm_file(tmp_path)}", CLASSES, "zero_shot")


def test_a_folder_given_as_a_file_is_refused(tmp_path):
    folder = timm_folder(tmp_path / "model")
    with pytest.raises(ConfigError, match="load it by itself"):
        load_pretrained(f"timm:test_vit@{folder}", CLASSES)
    with pytest.raises(ConfigError, match="brings its own weights"):
        load_pretrained(f"timm:{folder}", CLASSES, weights=timm_file(tmp_path))
