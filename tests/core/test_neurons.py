"""Hidden neurons and attention heads: found by what modules do, one draw for their weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_models import open_clip_vision, timm_model, tiny_beit, tiny_eva, tiny_vit, torchvision_vit
from tiny import TinyNet
from torch import Tensor, nn

import gmixout
from gmixout import GMixout
from gmixout.core.process import redraw
from gmixout.errors import AttachError
from gmixout.kernels.structures import Columns, Rows

CONFIG = GMixout(mask_rate=0.5, structure="neuron")

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*timm.*:UserWarning"
)


def tiny_swin():
    """Attention in windows of a fixed size, with a table of its tokens' pairs."""
    return timm_model(
        "swin_tiny_patch4_window7_224", img_size=28, embed_dim=12, depths=(1,), num_heads=(2,)
    )


def transformers_model(name, **options):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8,
        **options,
    )  # fmt: skip
    return getattr(transformers, f"{name}Model")(config)


class Gated(nn.Module):
    """Two layers that feed the same hidden neurons, in one weight or in two."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.feed = nn.ModuleList([nn.Linear(6, 20 if packed else 10) for _ in range(2 - packed)])
        self.read = nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = torch.cat([layer(x) for layer in self.feed], -1).chunk(2, -1)
        return self.read(F.silu(gate) * value)


class Attention(nn.Module):
    """Attention as libraries write it: packed or not, by head or by part, grouped keys."""

    def __init__(self, layout: str, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.layout, self.heads, self.size = layout, heads, width // heads
        shared = 1 if layout == "one key" else heads
        rows = (heads * self.size, shared * self.size, shared * self.size)
        rows = rows if layout in ("apart", "one key") else (sum(rows),)
        self.project = nn.ModuleList([nn.Linear(width, each, bias=False) for each in rows])
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        projected = torch.cat([layer(x) for layer in self.project], -1)
        if self.layout == "by head":
            q, k, v = projected.unflatten(-1, (self.heads, 3, self.size)).unbind(-2)
        else:
            parts = projected.split([layer.out_features for layer in self.project], -1)
            parts = parts if len(parts) == 3 else projected.chunk(3, -1)
            q, k, v = (part.unflatten(-1, (-1, self.size)) for part in parts)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        k, v = (part.expand_as(q) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.output(mixed.transpose(1, 2).flatten(2))


FOUND = {
    # name: (model, groups of weights that share neurons or heads)
    "timm vit": (tiny_vit, 4),
    "timm beit": (tiny_beit, 4),
    "timm eva": (tiny_eva, 4),
    "timm swin": (tiny_swin, 2),
    "torchvision vit": (torchvision_vit, 4),
    "open_clip vit": (open_clip_vision, 4),
    "transformers vit": (lambda: transformers_model("ViT", intermediate_size=48), 2),
    "transformers clip": (lambda: transformers_model("CLIPVision", intermediate_size=48), 2),
    "transformers swiglu": (lambda: transformers_model("Dinov2", use_swiglu_ffn=True), 2),
    "tiny": (TinyNet, 1),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
    "perceptron": (lambda: nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)), 1),
    "gated": (lambda: Gated(packed=False), 1),
    "gated, packed": (lambda: Gated(packed=True), 1),
    "attention, apart": (lambda: Attention("apart"), 1),
    "attention, packed": (lambda: Attention("packed"), 1),
    "attention, by head": (lambda: Attention("by head"), 1),
}


def inputs_of(model: nn.Module) -> Tensor:
    """Images for those that begin with a convolution, else tokens."""
    first = next(m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd)))
    if isinstance(first, nn.Linear):
        return torch.randn(2, 5, first.in_features, dtype=torch.float64)
    size = {4: 4}.get(first.in_channels, 28 if "Swin" in type(model).__name__ else 32)
    return torch.randn(2, first.in_channels, size, size, dtype=torch.float64)


def output_of(model: nn.Module, input: Tensor) -> Tensor:
    output = model.eval()(input)
    return output if isinstance(output, Tensor) else output[0]


def groups_of(masked):
    groups = {}
    for weight in masked._weights.values():
        groups.setdefault(weight.drawn_as, []).append(weight)
    return [weights for weights in groups.values() if len(weights) > 1]


@torch.no_grad()
@pytest.mark.parametrize("name", FOUND)
def test_what_is_drawn_together_is_a_subnetwork(name):
    """Nobody but a neuron's columns reads its rows: with those zero, the rows change nothing."""
    make, count = FOUND[name]
    torch.manual_seed(0)
    plain = make().double()
    for parameter in plain.parameters():  # some begin at zero, where nothing shows
        parameter.add_(0.3 * torch.randn_like(parameter))
    model = copy.deepcopy(plain)
    groups = groups_of(gmixout.attach(model, CONFIG, head=()))
    assert len(groups) == count
    x = inputs_of(plain)
    for weights in groups:
        *sources, reader = weights if isinstance(weights[-1].structure, Columns) else weights[::-1]
        cut = copy.deepcopy(plain)
        parameters = dict(cut.named_parameters())
        assert 0 < reader.count < reader.structure.choices(reader.weight.shape)
        before = output_of(cut, x)
        parameters[reader.name][:, reader.index] = 0
        without = output_of(cut, x)
        assert not torch.equal(before, without)
        for source in sources:
            assert isinstance(source.structure, Rows)
            assert source.count == reader.count
            parameters[source.name][source.index] = torch.randn_like(source.weight[source.index])
        assert torch.equal(output_of(cut, x), without)
        others = torch.ones(len(sources[0].weight), dtype=torch.bool)
        others[sources[0].index] = False
        parameters[sources[0].name][others] *= 2
        assert not torch.equal(output_of(cut, x), without)


class Read(nn.Module):
    """A hidden layer that is not the second one's alone."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.feed, self.read, self.other = (nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.feed(x)
        if self.how == "skip connection":
            return self.read(torch.relu(hidden) + x)
        if self.how == "returned":
            return self.read(torch.relu(hidden)) + hidden
        if self.how == "read by two":
            return self.read(hidden) + self.other(hidden)
        if self.how == "normalized":
            return self.read(self.norm(hidden))
        if self.how == "shifted":
            return self.read(hidden + hidden.roll(1, -1))
        if self.how == "called twice":
            return self.read(self.feed(torch.relu(hidden)))
        return self.read(hidden @ self.other.weight)


@pytest.mark.parametrize(
    "model",
    [
        *map(Read, ("skip connection", "returned", "read by two", "normalized", "shifted")),
        *map(Read, ("called twice", "another product")),
        Attention("packed", heads=1),
        Attention("one key"),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)),
        nn.Sequential(nn.Linear(4, 4)),
        nn.MultiheadAttention(4, 1),
    ],
    ids=lambda model: getattr(model, "how", getattr(model, "layout", type(model).__name__)),
)
def test_where_units_are_shared_with_others_it_is_refused(model):
    with pytest.raises(AttachError, match="longer_side") as refusal:
        gmixout.attach(model, CONFIG, head=())
    assert type(model).__name__ in str(refusal.value)
    gmixout.attach(model, GMixout(mask_rate=0.5, structure="longer_side"), head=())


def test_a_chain_is_cut_in_pairs_and_what_is_left_along_its_longer_side():
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)]
    masked = gmixout.attach(nn.Sequential(*layers), CONFIG, head=())
    first, second, last = masked._weights.values()
    assert first.drawn_as == second.drawn_as == "0.weight + 2.weight"
    assert torch.equal(first.index, second.index)
    assert (last.drawn_as, last.structure) == ("4.weight", Columns())


@pytest.mark.parametrize("leave_out", ["0.weight", "2.weight", "tied"])
def test_neurons_of_which_a_weight_is_not_masked_or_shared_are_left_out(leave_out):
    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8),
        nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)),
    )  # fmt: skip
    if leave_out == "tied":
        model.append(nn.Linear(8, 8))
        model[5].weight = model[2].weight
    masked = gmixout.attach(
        model, CONFIG, head=(), select=lambda n, p: n.endswith("weight") and n != leave_out
    )
    (weights,) = groups_of(masked)
    assert [weight.name for weight in weights] == ["4.0.weight", "4.2.weight"]


@pytest.mark.parametrize("group_size", [1, 2, 4, None])
def test_neurons_are_drawn_in_groups_and_heads_stay_whole(group_size):
    model = nn.TransformerEncoderLayer(24, 6, 48, batch_first=True)
    config = GMixout(mask_rate=0.5, structure="neuron", group_size=group_size)
    masked = gmixout.attach(model, config, head=())
    for period in range(4):
        redraw(list(masked._weights.values()), period)
        packed, out, feed, read = masked._weights.values()
        assert torch.equal(packed.index, torch.cat([out.index + 24 * part for part in range(3)]))
        assert len(out.index) == (16 if group_size == 2 else 12)
        heads = out.index.view(-1, 4)
        assert torch.equal(heads, heads[:, :1] // 4 * 4 + torch.arange(4))
        assert torch.equal(feed.index, read.index)
        size = group_size or 24
        assert torch.equal(feed.index.view(-1, size)[:, 0] % size, torch.zeros(24 // size))


@pytest.mark.parametrize("name", ["timm vit", "timm eva", "torchvision vit", "gated"])
def test_what_is_found_depends_on_no_value_device_or_random_state(name, rng_untouched):
    make, _ = FOUND[name]
    real = make()
    for parameter in real.parameters():
        nn.init.zeros_(parameter)
    with torch.device("meta"):
        meta = make()
    before, modes = copy.deepcopy(real.state_dict()), [m.training for m in real.modules()]
    with rng_untouched():
        found = gmixout.attach(real, CONFIG, head=())
    with torch.no_grad(), torch.device("meta"):
        same = gmixout.attach(meta, CONFIG, head=())
    cuts = [
        {name: (weight.drawn_as, weight.structure) for name, weight in each._weights.items()}
        for each in (found, same)
    ]
    assert cuts[0] == cuts[1]
    assert modes == [m.training for n, m in real.named_modules() if "gmixout" not in n]
    assert all(torch.equal(before[key], value) for key, value in real.state_dict().items())
