"""What is trained beside the masked weights: everything, biases by their units' masks, nothing."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from tiny import CUTS, STRUCTURES, UNPAIRED, TinyNet, batches, loss_of, masked_copy, train
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gmixout
from gmixout import GMixout
from gmixout.errors import AttachError, ConfigError

CONFIG = GMixout(mask_rate=0.5, resample_every=2)
MODES = ("dense", "masked", "held")


class ConvNet(nn.Sequential):
    """As an EfficientNet: batch norms behind convolutions without biases, gates with biases."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(4, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(8, 8, 1), nn.Sigmoid()),
            nn.Flatten(),
            nn.Linear(32, 4),
        )


class Embedded(nn.Module):
    """A position embedding below a linear layer; a scale of its own above it."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 16, 4))
        self.hidden = nn.Linear(4, 16)
        self.scale = nn.Parameter(torch.ones(16))
        self.head = nn.Linear(16, 4)

    def forward(self, images):
        tokens = images.flatten(2).transpose(1, 2) + self.position
        return self.head((self.hidden(tokens).tanh() * self.scale).mean(1))


BIASES = {
    TinyNet: {
        "conv.bias", "attention.in_proj_bias", "attention.out_proj.bias", "hidden.bias"
    },
    ConvNet: {"5.1.bias"},
    Embedded: {"hidden.bias"},
}  # fmt: skip
"""Models, and their masked layers' biases."""


def bound(model, config, lr=1e-2, **options):
    model, masked = masked_copy(model, config, **options)
    return model, masked, masked.bind(torch.optim.AdamW(masked.param_groups(lr)))


def moved_in_training(kind, config):
    """The parameters that training of a few periods moved."""
    torch.manual_seed(0)
    plain = kind()
    model, masked, optimizer = bound(plain, config)
    train(model, optimizer, list(batches(6)))
    before = dict(plain.named_parameters())
    return {
        name for name, p in masked.detach().named_parameters() if not torch.equal(p, before[name])
    }


@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("structure", UNPAIRED)
def test_what_is_trained_in_each_mode(kind, structure):
    config = replace(CONFIG, **CUTS[structure], block_size=2)
    names = {name for name, _ in kind().named_parameters()}
    weights = {weight.name for weight in masked_copy(kind(), config)[1].summary().weights}
    head = {name for name in names if name.startswith(("head", "7."))}
    assert moved_in_training(kind, config) == names
    assert moved_in_training(kind, replace(config, biases="masked")) == (
        weights | BIASES[kind] | head
    )
    assert moved_in_training(kind, replace(config, biases="held")) == weights | head


@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("biases", MODES)
def test_in_a_period_all_but_the_mask_is_bit_unchanged(kind, biases):
    """Of a layer's bias the entries of the weight's trained rows move, and no other."""
    model, masked, optimizer = bound(kind(), replace(CONFIG, resample_every=4, biases=biases))
    before = copy.deepcopy(model.state_dict())
    indices = {name: weight.index.clone() for name, weight in masked._weights.items()}
    train(model, optimizer, list(batches(3)))
    after = model.state_dict()
    for name, index in indices.items():
        moved = (after[name] != before[name]).flatten(1 if after[name].dim() > 1 else 0)
        units = moved.any(1) if moved.dim() > 1 else moved
        assert units.nonzero().flatten().tolist() == index.tolist(), name
        weight = name.replace("bias", "weight")
        assert torch.equal(index, indices[weight])
    assert (BIASES[kind] <= indices.keys()) == (biases == "masked")


def test_a_bias_of_no_output_units_is_masked_by_itself():
    """A transposed convolution's second side are its outputs; three weights share one bias."""
    models = {
        "bias": nn.Sequential(nn.ConvTranspose2d(8, 8, 2)),
        "in_proj_bias": nn.Sequential(nn.MultiheadAttention(8, 2, kdim=4, vdim=4)),
    }
    for attribute, model in models.items():
        _, masked = masked_copy(model, replace(CONFIG, biases="masked"), head=())
        bias = masked._weights[f"0.{attribute}"]
        others = [w.index for name, w in masked._weights.items() if "weight" in name]
        assert bias.values.shape == (bias.weight.numel() // 2,)
        assert not any(torch.equal(bias.index, index) for index in others)


def test_a_bias_is_a_vector_without_decay():
    for structure in STRUCTURES:
        _, masked = masked_copy(TinyNet(), replace(CONFIG, **CUTS[structure], biases="masked"))
        groups = {g["name"]: g["params"] for g in masked.param_groups(1e-3, weight_decay=0.1)}
        assert len(groups["masked_no_decay"]) == len(BIASES[TinyNet])
        assert {p.dtype for p in groups["masked_no_decay"]} == {torch.float32}
        assert "dense" not in groups


class Operations(TorchDispatchMode):
    """Notes what is called."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        if func.overloadpacket.__name__ == "native_layer_norm_backward":
            self.names.append(f"norm's gradients {sum(args[-1][1:])}")
        return func(*args, **(kwargs or {}))


def test_no_gradient_of_what_is_held_is_computed():
    calls = {}
    for biases in MODES:
        model, _, _ = bound(TinyNet(), replace(CONFIG, biases=biases))
        loss = loss_of(model, next(batches(1)))
        with Operations() as calls[biases]:
            loss.backward()
    counts = {biases: called.names.count("sum") for biases, called in calls.items()}
    # the head's bias is trained in every mode; a masked one is summed over its own columns
    assert counts["dense"] == counts["masked"] == counts["held"] + len(BIASES[TinyNet])
    columns = calls["masked"].names.count("index_select"), calls["held"].names.count("index_select")
    assert columns[0] == columns[1]
    for biases in MODES:
        assert f"norm's gradients {2 if biases == 'dense' else 0}" in calls[biases].names


@pytest.mark.parametrize("biases", MODES)
def test_detach_gives_back_what_could_be_trained(biases):
    model = TinyNet()
    model.norm.weight.requires_grad_(False)
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    masked = gmixout.attach(model, replace(CONFIG, biases=biases))
    assert masked.summary().held == (0 if biases == "dense" else 8 + (biases == "held") * 56)
    assert masked.detach() is model
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trainable
    assert type(model.hidden) is nn.Linear
    assert type(model.hidden.bias) is nn.Parameter


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("biases", MODES)
def test_a_copy_trains_and_detaches_as_the_first_does(copied, biases):
    _, masked, _ = bound(TinyNet(), replace(CONFIG, biases=biases))
    ends = []
    for handle in (copied(masked), masked):
        optimizer = handle.bind(torch.optim.AdamW(handle.param_groups(1e-2)))
        train(handle.model, optimizer, list(batches(3)))
        ends.append(handle.detach())
        assert all(p.requires_grad for p in ends[-1].parameters())
    torch.testing.assert_close(ends[0].state_dict(), ends[1].state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("biases", ["masked", "held"])
def test_a_head_that_is_not_found_is_not_held_without_a_word(biases):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    wrapped = nn.ModuleDict({"a": model[0], "b": model[1]})
    with pytest.raises(AttachError, match="No classifier was found"):
        gmixout.attach(
            wrapped, replace(CONFIG, biases=biases), select=lambda name, p: name == "a.weight"
        )


def test_a_mode_that_is_not_one_is_refused():
    with pytest.raises(ConfigError, match="must be one of 'dense', 'masked', 'held'"):
        GMixout(biases="none")


def test_a_bias_alone_can_be_frozen_and_so_can_its_weight():
    for frozen in ("weight", "bias"):
        model, masked, optimizer = bound(TinyNet(), replace(CONFIG, biases="masked"))
        masked._weights[f"hidden.{frozen}"].values.requires_grad_(False)
        before = copy.deepcopy(model.hidden.state_dict())
        train(model, optimizer, list(batches(3)))
        for name, old in before.items():
            assert torch.equal(model.hidden.state_dict()[name], old) == (name == frozen)


def test_penalties_and_values_moved_by_hand_reach_masked_biases():
    model, masked, _ = bound(TinyNet(), replace(CONFIG, biases="masked"))
    sum(weight.pow(2).sum() for _, weight in masked.named_weights()).backward()
    bias = masked._weights["hidden.bias"]
    torch.testing.assert_close(bias.values.grad, 2 * bias.values)
    with torch.no_grad():
        bias.values.add_(1)
    model(next(batches(1))[0])
    assert torch.equal(model.hidden.bias.detach()[bias.index], bias.values)


def test_half_precision_biases_learn_below_a_rounding_step():
    model = TinyNet().bfloat16()
    nn.init.ones_(model.hidden.bias)
    config = replace(CONFIG, biases="masked", resample_every=5, anchor_decay=0.9)
    masked = gmixout.attach(model, config)
    values = masked._weights["hidden.bias"].values
    optimizer = masked.bind(torch.optim.SGD([values, *masked.parameters()[:-1]], lr=1e-3))
    for _ in range(400):
        values.grad = -torch.ones_like(values)
        optimizer.step()
    assert values.dtype == torch.float32
    learned = masked.detach().hidden.bias.double().mean() - 1
    # half of the entries move by 1e-3 in a step, and a tenth of that stays
    assert 0.01 < learned < 0.04
