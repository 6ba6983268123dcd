"""Gradient checkpointing of each library's models: the same gradients, or a refusal by name."""

from functools import partial

import pytest
import torch
from tiny_foundations import CLASSES, FOLDERS
from torch import nn
from toy_benchmark import toy, toy_pretrained

from gmixout.data import LabelledImages
from gmixout.errors import ConfigError
from gmixout.methods import get_method
from gmixout.models import Pretrained, load_pretrained
from gmixout.training import TrainingArguments, check_training_settings, train
from gmixout.training.checkpointing import checkpointed, is_checkpointed

TIMM = ("test_vit", "test_convnext", "test_resnet", "test_efficientnet")


def loaded(kind, folder):
    if kind in FOLDERS:
        family = kind.split()[0]
        return load_pretrained(f"{family}:{FOLDERS[kind](folder)}", CLASSES, head="random")
    timm = pytest.importorskip("timm")
    model = timm.create_model(kind, num_classes=3)
    layers = {id(layer): name for name, layer in model.named_modules()}
    return Pretrained(model, layers[id(model.get_classifier())], tuple(CLASSES), name=kind)


def images(count=6, size=32):
    pixels = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return LabelledImages(pixels, torch.arange(count) % 3)


def run(pretrained, name, size=32, **settings):
    arguments = TrainingArguments(steps=3, batch_size=4, lr=1e-2, log_every_steps=1, **settings)
    start = partial(get_method(name).start, seed=0)
    return train(pretrained.copy(), start, images(size=size), arguments)


@pytest.mark.parametrize("name", ["full", "gmixout", "lora"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_models_of_each_library_take_the_same_steps_to_the_bit(kind, name, tmp_path):
    pretrained = loaded(kind, tmp_path)
    whole, saving = (run(pretrained, name, checkpointing=on) for on in (False, True))
    assert saving.losses == whole.losses
    assert len(set(whole.losses)) == 3
    for key, value in saving.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[key]), key
    assert not is_checkpointed(saving.model)


@pytest.mark.parametrize("kind", ["timm", "open_clip", "hf vit"])
def test_activations_are_computed_twice(kind, tmp_path):
    pretrained, passes = loaded(kind, tmp_path), []
    blocks = next(
        list(module) for module in pretrained.model.modules() if isinstance(module, nn.ModuleList)
        or (isinstance(module, nn.Sequential) and hasattr(module[0], "attn"))
    )  # fmt: skip
    inner = next(m for m in blocks[0].modules() if isinstance(m, nn.LayerNorm))
    inner.register_forward_hook(lambda *_: passes.append(1))
    counts = []
    for on in (False, True):
        passes.clear()
        arguments = TrainingArguments(steps=1, batch_size=4, checkpointing=on)
        train(pretrained, partial(get_method("full").start, seed=0), images(), arguments)
        counts.append(len(passes))
    assert counts == [1, 2]


@pytest.mark.parametrize("kind", TIMM)
def test_convolutional_models_too(kind):
    pretrained = loaded(kind, None)
    whole, saving = (run(pretrained, "gmixout", 64, checkpointing=on) for on in (False, True))
    assert saving.losses == whole.losses


def modified_resnet():
    """CLIP's ResNet, whose switch does nothing."""
    kind = pytest.importorskip("open_clip.modified_resnet").ModifiedResNet
    return kind(layers=(1, 1, 1, 1), output_dim=3, heads=8, image_size=32, width=8)


def without_switch():
    timm = pytest.importorskip("timm")
    return timm.create_model("inception_v4", num_classes=3)


@pytest.mark.parametrize("make", [modified_resnet, without_switch, lambda: toy_pretrained().model])
def test_a_model_without_it_is_refused_by_name(make):
    pretrained = Pretrained(make(), (), tuple(CLASSES), name="mine")
    kind = type(pretrained.model).__name__
    arguments = TrainingArguments(steps=1, batch_size=4, checkpointing=True)
    with pytest.raises(ConfigError, match=rf"mine \({kind}\) has no gradient checkpointing"):
        check_training_settings(pretrained, toy().train, arguments)


def test_statistics_that_would_be_updated_twice_are_refused():
    arguments = TrainingArguments(
        steps=1, batch_size=4, checkpointing=True, freeze_batch_norm=False
    )
    with pytest.raises(ConfigError, match="twice: leave freeze_batch_norm on"):
        check_training_settings(loaded("test_resnet", None), images(), arguments)


def test_a_check_and_an_error_leave_it_off(tmp_path):
    pretrained = loaded("timm", tmp_path)
    arguments = TrainingArguments(steps=1, batch_size=4, checkpointing=True)
    check_training_settings(pretrained, images(), arguments)
    assert not is_checkpointed(pretrained.model)
    with pytest.raises(KeyError), checkpointed(pretrained):
        fail_under(pretrained)
    assert not is_checkpointed(pretrained.model)


def fail_under(pretrained):
    assert is_checkpointed(pretrained.model)
    raise KeyError


def test_it_is_no_part_of_what_a_run_is():
    usual = TrainingArguments()
    assert TrainingArguments(checkpointing=True).identity() == usual.identity()
    assert "checkpointing" in usual.conduct()
