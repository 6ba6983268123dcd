"""Periods that train the upper layers alone, and anchors that are pulled back."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tiny import CUTS, STRUCTURES, TinyNet, batches, loss_of, masked_copy, saved_bytes, train
from torch import nn

from gmixout import GMixout
from gmixout.core.schedule import RandomStart, count_layers_below
from gmixout.errors import ConfigError

LAYERS = {"conv": 0, "attention": 1, "attention.out_proj": 2, "hidden": 3}
UNIFORM = GMixout(mask_rate=0.5, resample_every=2, mean_start_depth=0.5)


def bound(config, model=None, seed=0):
    torch.manual_seed(seed)
    model, masked = masked_copy(model or TinyNet(), config)
    return model, masked, masked.bind(torch.optim.AdamW(masked.param_groups(1e-2)))


def start_of(masked, period=None):
    """The lowest layer that a period trains, by default the present one."""
    period = masked.period if period is None else period
    return len(LAYERS) - len(masked._layers.names(period))


def layer_of(name):
    """Of a parameter of the model, by hand; values and weights alike."""
    owner = name.rpartition(".")[0].partition(".gmixout_")[0]
    return LAYERS["attention"] if owner == "norm" else LAYERS.get(owner, len(LAYERS))


def test_layers_are_counted_in_order_and_norms_go_with_what_follows():
    below = count_layers_below(TinyNet(), [f"{n}.weight" for n in LAYERS if n != "attention"]
                               + ["attention.in_proj_weight"], ["head"])  # fmt: skip
    assert below == {name: layer_of(name) for name in below}
    assert below["norm.weight"] == 1
    assert below["head.bias"] == 4


def test_heads_are_above_all_wherever_they_are_registered():
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "body": nn.Linear(2, 2)})
    below = count_layers_below(model, ["body.weight"], ["head"])
    assert below == {"head.weight": 1, "head.bias": 1, "body.weight": 0, "body.bias": 0}


@given(
    layers=st.integers(1, 40),
    mean=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 9),
    period=st.integers(1, 99),
)
@example(layers=1, mean=1 - 2**-53, seed=0, period=31)
def test_a_start_is_a_layer_and_the_same_again(layers, mean, seed, period):
    starts = [RandomStart(mean).start(period, layers, seed) for _ in "12"]
    assert starts[0] == starts[1]
    assert 0 <= starts[0] < layers
    assert RandomStart(mean).active(period, range(layers), seed) == range(starts[0], layers)


def test_the_first_period_trains_all_so_that_ddp_learns_of_every_parameter():
    for seed in range(20):
        assert RandomStart(0.9).start(0, 9, seed) == 0


@pytest.mark.parametrize("mean", [0.2, 0.5, 0.8])
def test_starts_have_the_mean_that_was_asked_for(mean):
    layers, n = 1000, 4000
    starts = [RandomStart(mean).start(period, layers, seed=0) for period in range(1, n + 1)]
    starts = torch.tensor(starts, dtype=torch.float64)
    # rounding down takes half a layer; the spread of a mean over n draws is known from them
    error = starts.mean() - (mean * layers - 0.5)
    assert abs(error) < 4 * starts.std() / n**0.5


def test_what_a_user_freezes_stays_frozen():
    model, masked, optimizer = bound(UNIFORM)
    model.norm.requires_grad_(False)
    before = model.norm.weight.clone()
    train(model, optimizer, list(batches(16)))
    assert {start_of(masked, period) <= 1 for period in range(1, 8)} == {True, False}
    assert torch.equal(model.norm.weight, before)
    assert not model.norm.weight.requires_grad


@pytest.mark.parametrize("structure", STRUCTURES)
def test_nothing_below_the_start_moves_and_what_is_above_does(structure):
    config = GMixout(**{**vars(UNIFORM), **CUTS[structure], "block_size": 4})
    model, masked, optimizer = bound(config)
    starts = set()
    for batch in batches(24):
        start = start_of(masked)
        starts.add(start)
        last_of_period = (masked.steps + 1) % config.resample_every == 0
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train(model, optimizer, [batch])
        for name, parameter in model.named_parameters():
            if name.endswith("values") and last_of_period:
                continue  # of other entries now
            moved = not torch.equal(parameter, before[name])
            assert moved == (layer_of(name) >= start), (name, start)
    assert len(starts) == len(LAYERS)


def test_backward_builds_no_graph_below_the_start():
    model, masked, optimizer = bound(UNIFORM)
    reached = {}
    for name in ("conv", "hidden"):
        module = model.get_submodule(name)
        module.register_forward_hook(
            lambda module, args, output, name=name: reached.update({name: output.requires_grad})
        )
    for batch in batches(24):
        start = start_of(masked)
        train(model, optimizer, [batch])
        assert reached == {"conv": start == 0, "hidden": True}


def test_gradients_above_the_start_are_those_of_a_backward_pass_through_all():
    torch.manual_seed(0)
    plain = TinyNet().double()
    (batch,) = batches(1, torch.float64)
    for seed in range(6):
        grads = []
        for mean in (0.0, 0.5):
            config = GMixout(mask_rate=0.5, mean_start_depth=mean, seed=seed)
            model, masked, _ = bound(config, plain)
            masked._layers.begin(1)
            loss_of(model, batch).backward()
            grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        whole, cut = grads
        start = start_of(masked, 1)
        assert set(cut) == {name for name in whole if layer_of(name) >= start}
        for name, grad in cut.items():
            torch.testing.assert_close(grad, whole[name], rtol=0, atol=1e-12)


def test_detach_leaves_everything_trainable_that_was_and_nothing_else():
    plain = TinyNet()
    plain.norm.weight.requires_grad_(False)
    model, masked, optimizer = bound(GMixout(mean_start_depth=0.9, resample_every=1), plain)
    train(model, optimizer, list(batches(3)))
    assert not all(p.requires_grad for p in masked.parameters())
    masked.detach()
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["norm.weight"]
    assert torch.equal(model.norm.weight, plain.norm.weight)


def test_without_a_depth_what_the_user_freezes_stays_frozen():
    model, masked, optimizer = bound(GMixout(resample_every=1))
    model.norm.weight.requires_grad_(False)
    train(model, optimizer, list(batches(2)))
    assert not masked.detach().norm.weight.requires_grad


def test_what_was_accumulated_for_a_layer_below_the_next_start_is_dropped():
    """Not every user sets gradients to None."""
    model, masked, optimizer = bound(GMixout(mean_start_depth=0.6, resample_every=1))
    for batch in batches(12):
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        start = start_of(masked)
        for name, parameter in model.named_parameters():
            if layer_of(name) < start:
                assert parameter.grad is None


def test_pull_of_zero_is_none_and_pull_of_one_puts_everything_back():
    data = list(batches(8))
    torch.manual_seed(0)
    start = TinyNet()
    runs = {}
    for pull in (0.0, 0.5, 1.0):
        config = GMixout(mask_rate=0.5, anchor_decay=0.0, resample_every=4, anchor_pull=pull)
        model, masked, optimizer = bound(config, start)
        train(model, optimizer, data)
        runs[pull] = masked.anchor()  # eight steps: at the start of a period
    for name in LAYERS:
        name = "attention.in_proj_weight" if name == "attention" else f"{name}.weight"
        origin = start.state_dict()[name]
        assert torch.equal(runs[1.0][name], origin)
        assert 0 < (runs[0.5][name] - origin).norm() < (runs[0.0][name] - origin).norm()


def test_a_period_s_end_halves_what_it_kept_where_the_pull_is_a_half():
    (batch, *_) = batches(1, torch.float64)
    torch.manual_seed(0)
    start = TinyNet().double()
    anchors = {}
    for pull in (0.0, 0.5):
        config = GMixout(mask_rate=0.5, anchor_decay=0.3, resample_every=1, anchor_pull=pull)
        model, masked, optimizer = bound(config, start)
        train(model, optimizer, [batch])
        anchors[pull] = masked.anchor()["hidden.weight"] - start.hidden.weight
    torch.testing.assert_close(anchors[0.5], anchors[0.0] / 2, rtol=0, atol=1e-12)


def test_weights_that_are_loaded_are_what_the_anchor_is_pulled_to():
    torch.manual_seed(0)
    other = TinyNet()
    model, masked, optimizer = bound(GMixout(anchor_pull=1.0, resample_every=2), seed=1)
    model.load_state_dict(other.state_dict())
    train(model, optimizer, list(batches(4)))
    assert torch.equal(masked.anchor()["hidden.weight"], other.hidden.weight)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_the_copy_follows_the_model_unless_it_has_a_place_of_its_own(device):
    _, masked, _ = bound(GMixout(anchor_pull=0.5, residual_device=device))
    copies = [weight.residual.dense["pretrained"] for weight in masked._weights.values()]
    masked.model.to("meta")
    moved = {weight.residual.dense["pretrained"].device.type for weight in masked._weights.values()}
    assert moved == {"cpu" if device else "meta"}
    assert masked.summary().bytes["pretrained"] == sum(c.nbytes for c in copies)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean_start_depth": 1},
        {"mean_start_depth": -0.1},
        {"mean_start_depth": float("nan")},
        {"mean_start_depth": "0.5"},
        {"anchor_pull": 1.5},
        {"mean_start_depth": 0.5, "resample_every": None},
        {"anchor_pull": 0.5, "resample_every": None, "anchor_decay": 1},
        {"anchor_pull": 0.5, "residual": "persist"},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        GMixout(**wrong)


def test_frozen_layers_keep_their_masks_moving():
    """A layer that was below the start for a while trains other entries when it is back."""
    model, masked, optimizer = bound(GMixout(**{**vars(UNIFORM), "mean_start_depth": 0.7}))
    weight, seen = masked._weights["hidden.weight"], set()
    for batch in batches(16):
        train(model, optimizer, [batch])
        seen.add(tuple(weight.index.tolist()))
    assert len(seen) > 4


def deep(blocks=8):
    return nn.Sequential(
        *(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(blocks)), nn.Linear(16, 4)
    )


@pytest.mark.parametrize("lowest", [0.25, 0.5, 0.8])
def test_no_period_keeps_more_than_the_layers_above_the_lowest_start(lowest):
    """The first period is the dearest, and costs what a net of the layers above costs."""
    config = GMixout(mask_rate=0.5, resample_every=2, mean_start_depth=0.9, min_start_depth=lowest)
    model, images = deep(), torch.randn(100, 16)
    above = nn.Sequential(*list(model.children())[int(8 * lowest) :])
    model, masked = masked_copy(model, config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(1e-2)))
    kept, starts = [], set()
    for _ in range(16):
        kept.append(saved_bytes(model, images))
        starts.add(8 - len(masked._layers.names(masked.period)))
        train(model, optimizer, [(images, torch.zeros(100, dtype=torch.long))])
    assert kept[0] == max(kept) == saved_bytes(above, images)
    assert min(starts) == int(8 * lowest)
    if lowest < 0.8:
        assert len(starts) > 1
        assert min(kept) < max(kept)


def test_what_lies_below_the_lowest_start_is_held_until_detach():
    config = replace(UNIFORM, min_start_depth=0.5)
    model, masked, optimizer = bound(config)
    plain = copy.deepcopy(masked.snapshot())
    train(model, optimizer, list(batches(12)))
    held = {name for name in plain if layer_of(name) < 2}
    assert masked.summary().held == sum(plain[name].numel() for name in held)
    after = masked.detach().state_dict()
    assert {name for name in after if torch.equal(after[name], plain[name])} == held
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_mean_start_is_of_all_layers_whatever_the_lowest():
    config = GMixout(mean_start_depth=0.6, min_start_depth=0.4)
    _, masked = masked_copy(deep(100), config)
    starts = [100 - len(masked._layers.names(period)) for period in range(1, 400)]
    assert min(starts) >= 40
    assert sum(starts) / len(starts) == pytest.approx(59.5, abs=3)


def test_where_mean_and_lowest_start_are_one_every_period_starts_there():
    config = GMixout(mask_rate=0.5, mean_start_depth=0.5, min_start_depth=0.5, resample_every=None)
    _, masked = masked_copy(TinyNet(), replace(config, anchor_decay=1.0))
    assert masked._layers.names(0) is None
    assert [w.name for w in masked.summary().weights] == [
        "attention.out_proj.weight",
        "hidden.weight",
    ]
    with pytest.raises(ConfigError, match=r"raise mean_start_depth to 0\.7"):
        GMixout(mean_start_depth=0.5, min_start_depth=0.7)


class Block(nn.Module):
    """A residual block of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, tokens):
        return tokens + self.down(torch.tanh(self.up(self.norm(tokens))))


# torch's compiler looks at it of each block's input
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("blocks", [3, 6])
def test_blocks_that_are_compiled_share_a_handful_of_graphs(blocks):
    """None is trained, all are, the start is at either layer; however many blocks there are."""
    torch._dynamo.reset()
    graphs = []

    def note(graph, inputs):
        del inputs
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(blocks)), nn.Linear(8, 4))
    config = GMixout(mask_rate=0.5, resample_every=1, mean_start_depth=0.5, biases="masked")
    runs = [masked_copy(model, config) for _ in range(2)]
    for block in list(runs[1][0])[:-1]:
        block.compile(backend=note, fullgraph=True)
    data = [(torch.randn(5, 8), torch.tensor([0, 1, 2, 3, 0])) for _ in range(30)]
    for trained, masked in runs:
        train(trained, masked.bind(torch.optim.SGD(masked.param_groups(0.01))), data)
    masked = runs[1][1]
    starts = {2 * blocks - len(masked._layers.names(period)) for period in range(30)}
    assert len(starts) > 5
    assert len(graphs) <= 4
    torch.testing.assert_close(runs[0][0].state_dict(), runs[1][0].state_dict())
