from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset
from toy_benchmark import toy_pretrained

from gmixout.errors import ConfigError
from gmixout.methods import METHODS, get_method
from gmixout.models.pretrained import Pretrained
from gmixout.training import TrainingArguments, check_training_settings, train
from gmixout.training.layer_decay import LayerDecay

DEPTH, DECAY, LR = 3, 0.5, 0.125

TRAINED = [name for name in METHODS if get_method(name).trained == get_method(name)]


LINEAR = Pretrained(nn.Sequential(nn.Linear(2, 2)), head="0", classes=("a", "b"))


def vit() -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=3, embed_dim=8, depth=DEPTH, num_heads=2
    )


def rates(name: str, decay: float) -> tuple[dict[str, float], dict[str, float]]:
    """Each trained parameter's rate before and after."""
    model = vit()
    layers = LayerDecay(model, decay, ("head",))
    options = {"rank": 2} if name == "shira" else {}
    groups = (
        get_method(name, **options).start(toy_pretrained(model), 0).param_groups(lr=LR, head_lr=LR)
    )
    names = {id(parameter): key for key, parameter in model.named_parameters()}

    def by_name(groups):
        return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}

    return by_name(groups), by_name(layers.apply(groups, model))


@pytest.mark.parametrize("name", TRAINED)
def test_rates_fall_with_the_distance_from_the_top(name):
    before, after = rates(name, DECAY)
    assert sorted(after) == sorted(before)
    for key in after:
        if key.startswith("blocks."):
            exponent = DEPTH - int(key.split(".")[1])
        else:
            exponent = {"head": 0, "norm": 1}.get(key.split(".")[0], DEPTH + 1)  # as in timm
        assert after[key] == pytest.approx(before[key] * DECAY**exponent), key


def test_it_is_what_timm_does():
    from timm.optim import param_groups_layer_decay

    model = vit()
    theirs = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=DECAY, weight_decay=0.0)
        for parameter in group["params"]
    }
    groups = [{"params": list(model.parameters()), "lr": 1.0}]
    ours = LayerDecay(model, DECAY, ("head",)).apply(groups, model)
    assert {id(p): g["lr"] for g in ours for p in g["params"]} == theirs


@pytest.mark.parametrize("name", ["full", "gmixout", "lora"])
def test_training_moves_the_bottom_less(name):
    images = TensorDataset(torch.rand(6, 1, 8, 8), torch.arange(6) % 3)

    def change(decay):
        model = vit()
        before = model.patch_embed.proj.weight.detach().clone()
        arguments = TrainingArguments(steps=2, batch_size=3, layer_decay=decay)
        start = partial(get_method(name).start, seed=0)
        moved = train(toy_pretrained(model), start, images, arguments).model.patch_embed.proj.weight
        return float((moved - before).detach().norm())

    assert change(0.01) < 1e-3 * change(1.0)


def test_groups_keep_what_they_are():
    model = vit()
    group = {"params": list(model.parameters()), "lr": 1.0, "weight_decay": 0.3, "name": "dense"}
    split = LayerDecay(model, DECAY, ("head",)).apply([group], model)
    assert len(split) == DEPTH + 2
    assert {(part["weight_decay"], part["name"]) for part in split} == {(0.3, "dense")}
    torch.optim.AdamW(split)


def test_a_model_that_does_not_say_its_layers_is_refused_before_training():
    images = TensorDataset(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.long))
    arguments = TrainingArguments(layer_decay=0.7, batch_size=4)
    check_training_settings(Pretrained(vit(), "head", tuple("abc")), images, arguments)
    with pytest.raises(
        ConfigError, match=r"layer_decay=0\.7.*Sequential are not known: it has no list"
    ):
        check_training_settings(LINEAR, images, arguments)
    check_training_settings(LINEAR, images, TrainingArguments(batch_size=4))
