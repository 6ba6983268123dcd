import itertools
import sys

import pytest
import torch
from small_models import CLASSES, Run, cnn, copied, difference, vit
from torch import nn
from toy_benchmark import toy_pretrained

from gmixout.errors import ConfigError
from gmixout.methods import get_method


def change(method, make, seed=0):
    """What training adds to each entry of the state."""
    run = Run(method, make(), seed=seed, lr=0.1).steps(3)
    before, after = make().state_dict(), run.finetuning.detach().state_dict()
    return {key: after[key].double() - before[key].double() for key in before}


def linears(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("rank", [1, 2])
def test_lora_changes_each_weight_by_its_rank(rank):
    changes = change(get_method("lora", rank=rank), vit)
    for name in linears(vit()):
        if name != "head":
            singular = torch.linalg.svdvals(changes[f"{name}.weight"])
            assert (singular > 1e-4 * singular[0]).sum() == rank
    unmoved = {key for key, value in changes.items() if not value.any()}
    adapted = {f"{name}.weight" for name in linears(vit())} | {"patch_embed.proj.weight"}
    assert unmoved == set(changes) - adapted - {"head.bias"}


def test_alpha_scales_the_change():
    small = Run(get_method("lora", rank=2, lora_alpha=2), vit()).finetuning
    large = Run(get_method("lora", rank=2, lora_alpha=4), vit()).finetuning
    for finetuning in (small, large):
        with torch.no_grad():
            for name, parameter in finetuning.model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.5)
    key = "blocks.0.mlp.fc1.weight"
    start = vit().state_dict()[key]
    torch.testing.assert_close(2 * (small.snapshot()[key] - start), large.snapshot()[key] - start)


def test_dora_gives_each_row_a_trained_length_and_lora_its_direction():
    run = Run(get_method("dora", rank=1, lora_alpha=1), vit(), lr=0.1).steps(3)
    name = "blocks.0.mlp.fc1"
    layer = run.model.get_submodule(name)
    adapter = {key: value.detach() for key, value in layer.named_parameters() if "lora" in key}
    down, up = adapter["lora_A.default.weight"], adapter["lora_B.default.weight"]
    length = adapter["lora_magnitude_vector.default.weight"]
    before, after = (
        state[f"{name}.weight"] for state in (vit().state_dict(), run.finetuning.snapshot())
    )
    direction = nn.functional.normalize(before + up @ down)
    torch.testing.assert_close(after, torch.diag(length) @ direction)
    assert not torch.allclose(length, before.norm(dim=1), rtol=1e-3)


def test_shira_changes_as_many_entries_as_lora_has_values_each_layer_at_its_own():
    changes = change(get_method("shira", rank=2), vit)
    supports = {}
    for name in linears(vit()):
        weight = changes[f"{name}.weight"]
        if name != "head":
            supports[name] = weight != 0
            assert supports[name].sum() == 2 * sum(weight.shape)
    of_one_shape = [
        (a, b)
        for a, b in itertools.combinations(supports, 2)
        if supports[a].shape == supports[b].shape
    ]
    assert len(of_one_shape) >= 4
    for a, b in of_one_shape:
        assert not torch.equal(supports[a], supports[b]), (a, b)
    other = change(get_method("shira", rank=2), vit, seed=1)
    for name, support in supports.items():
        assert not torch.equal(support, other[f"{name}.weight"] != 0)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_convolutions_are_adapted_but_for_grouped_ones(name):
    changes = change(get_method(name, rank=2), cnn)
    assert changes["conv.weight"].any()
    assert changes["hidden.weight"].any()
    assert not changes["grouped.weight"].any()


class Attention(nn.Module):
    """Its output projection is a linear layer that is never called."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images):
        x = self.inner(images.flatten(1))
        return self.head(self.attention(x, x, x)[0])


def attention():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Attention()


@pytest.mark.parametrize("name", ["lora", "dora", "shira"])
def test_layers_inside_of_attention_are_left_alone(name):
    changes = change(get_method(name, rank=2), attention)
    moved = {key for key, value in changes.items() if value.any()}
    assert moved == {"inner.weight", "head.weight", "head.bias"}
    model = get_method(name, rank=2).start(toy_pretrained(attention()), 0).model
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(key.startswith("attention.") for key in trained)


class CenteredConv(nn.Conv2d):
    """As timm's ResNetV2 has them: peft's change of the weight would not go through the centering.

    Nor would it be of the padded image.
    """

    def forward(self, images):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(nn.functional.pad(images, (0, 1, 0, 1)), weight, self.bias)


class Hybrid(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = CenteredConv(1, 4, 2)
            self.body = nn.Linear(256, 16)
            self.head = nn.Linear(16, CLASSES)

    def forward(self, images):
        return self.head(self.body(self.stem(images).flatten(1)))


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_layers_with_a_forward_of_their_own_are_left_alone(name):
    moved = {key for key, value in change(get_method(name, rank=2), Hybrid).items() if value.any()}
    assert moved == {"body.weight", "head.weight", "head.bias"}


def test_weights_that_the_user_froze_are_left_alone():
    model = vit()
    model.blocks[0].requires_grad_(False)
    after = Run("lora", model).steps(3).finetuning.detach()
    moved = difference(after.state_dict(), vit().state_dict())
    assert moved
    assert not any(key.startswith("blocks.0.") for key in moved)
    frozen = {name for name, p in after.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in vit().named_parameters() if name.startswith("blocks.0.")}


@pytest.mark.parametrize("name", ["lora", "dora", "shira"])
def test_adapters_do_not_depend_on_the_global_generator(name):
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        run = Run(get_method(name, rank=2), vit(), seed=5).steps(2)
        ends.append(copied(run.finetuning.snapshot()))
    assert difference(*ends) == set()


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        (
            "shira",
            nn.Sequential(nn.Conv2d(2, 2, 3)),
            "shira adapts linear layers, and outside",
        ),
        ("lora", nn.Sequential(nn.Flatten()), "lora adapts linear and ungrouped convolutional"),
        ("dora", nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), "dora adapts linear and ungrouped"),
        ("shira", vit(), r"shira\(rank=8\).*'blocks\.0\.attn\.qkv' of 24 x 8.*rank of 6 or less"),
    ],
)
def test_where_it_cannot_apply_it_says_so_before_training(name, model, says):
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(ConfigError, match=says):
        get_method(name).start(toy_pretrained(model, head=()), 0)
    assert [name for name, _ in model.named_modules()] == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_without_peft_the_error_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    model = vit()
    with pytest.raises(ConfigError, match=r"method lora needs peft.*'gmixout\[lora\]'"):
        get_method("lora").start(toy_pretrained(model), 0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_bitfit_moves_biases_and_the_head():
    changes = change(get_method("bitfit"), vit)
    moved = {key for key, value in changes.items() if value.any()}
    assert moved <= {key for key in changes if key.endswith("bias")} | {"head.weight"}
    assert {"head.weight", "head.bias", "norm.bias", "blocks.1.mlp.fc2.bias"} <= moved
    assert "attention.in_proj_bias" in {
        key for key, value in change(get_method("bitfit"), attention).items() if value.any()
    }
    unbiased = nn.Sequential()
    unbiased.add_module("body", nn.Linear(4, 4, bias=False))
    unbiased.add_module("head", nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="bitfit trains biases, and outside of its head"):
        get_method("bitfit").start(toy_pretrained(unbiased), 0)
