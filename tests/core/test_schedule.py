"""Schedules of the user's own, and layers that are frozen by hand in mid-training."""

import copy
import io

import pytest
import torch
from tiny import CUTS, STRUCTURES, TinyNet, batches, loss_of, same_state, train

import gmixout
from gmixout import GMixout, mixout
from gmixout.core.schedule import RandomStart
from gmixout.errors import ConfigError, StateError

LAYERS = ["conv", "attention", "attention.out_proj", "hidden"]
RULE = {"mask_rate": 0.5, "resample_every": 2, "block_size": 4}


class RoundRobin:
    """Each layer in turn, after a period that trains all."""

    def active(self, period, layers, seed):
        return layers if period == 0 else {layers[(period + seed) % len(layers)]}


class Backwards(RoundRobin):
    def active(self, period, layers, seed):
        return super().active(period, layers[::-1], seed)


class Always:
    """The same layers in every period."""

    def __init__(self, *names):
        self.names = names

    def active(self, period, layers, seed):
        return self.names


def start(config, schedule=None, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    model = TinyNet().to(dtype)
    masked = gmixout.attach(model, config, schedule=schedule)
    return model, masked, masked.bind(torch.optim.AdamW(masked.param_groups(1e-2)))


def layer_of(name):
    """The layer that a parameter of the plain model rests with; None: it never rests."""
    owner = name.rpartition(".")[0]
    return {"norm": "attention"}.get(owner, owner if owner in LAYERS else None)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("residual", ["reset", "persist"])
def test_a_layer_that_rests_stays_bit_unchanged_and_the_others_move(structure, residual):
    rescale = residual == "persist"  # then the snapshot is W
    config = GMixout(**RULE, **CUTS[structure], residual=residual, rescale=rescale)
    model, masked, optimizer = start(config, RoundRobin())
    plain, trained = [n for n, _ in TinyNet().named_parameters()], []
    for batch in batches(12):
        active = set(RoundRobin().active(masked.period, LAYERS, 0))
        trained.append(active)
        before = {n: masked.snapshot()[n].clone() for n in plain}
        train(model, optimizer, [batch])
        after = masked.snapshot()
        for name in plain:
            layer = layer_of(name)
            # the end of a period of persist cuts W into other parts, which rounds
            exact = masked.steps % 2 or residual == "reset"
            if layer is None or layer in active:
                assert not torch.equal(before[name], after[name]), name
            elif exact:
                assert torch.equal(before[name], after[name]), name
            else:
                torch.testing.assert_close(before[name], after[name], rtol=0, atol=1e-6)
    assert {frozenset(each) for each in trained} == {
        frozenset(LAYERS), *(frozenset({layer}) for layer in LAYERS)
    }  # fmt: skip


@pytest.mark.parametrize("active", [("hidden",), ("conv", "hidden"), ("attention",), LAYERS])
def test_gradients_of_active_layers_are_those_of_a_backward_pass_through_all(active):
    grads, (batch,) = [], batches(1, torch.float64)
    for schedule in (None, Always(*active)):
        model, _, _ = start(GMixout(**RULE), schedule, dtype=torch.float64)
        loss_of(model, batch).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    whole, cut = grads
    owner = {name: layer_of(name.replace("gmixout_", "").removesuffix(".values")) for name in whole}
    assert set(cut) == {n for n in whole if owner[n] is None or owner[n] in active}
    for name, grad in cut.items():
        torch.testing.assert_close(grad, whole[name], rtol=0, atol=1e-12)


def test_without_any_layer_the_head_alone_is_trained():
    model, masked, optimizer = start(GMixout(**RULE), Always())
    before = TinyNet().state_dict()
    before.update({n: v.clone() for n, v in model.state_dict().items()})
    train(model, optimizer, list(batches(5)))
    moved = {n for n, v in masked.detach().state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("config", "schedule", "same_as"),
    [
        (GMixout(**RULE), Always(*LAYERS), GMixout(**RULE)),
        (GMixout(**RULE), RandomStart(0.5), GMixout(**RULE, mean_start_depth=0.5)),
        (mixout(0.5), RandomStart(0.7), mixout(0.5, mean_start_depth=0.7)),
    ],
    ids=["all", "depth", "depth of mixout"],
)
def test_what_a_schedule_says_is_all_that_counts(config, schedule, same_as):
    ends = []
    for model, masked, optimizer in (start(config, schedule), start(same_as)):
        train(model, optimizer, list(batches(12)))
        ends.append(masked.detach())
    assert same_state(*ends)


def through_a_file(*objects):
    file = io.BytesIO()
    torch.save([thing.state_dict() for thing in objects], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("config", [GMixout(**RULE), mixout(0.5, resample_every=2)], ids=str)
@pytest.mark.parametrize("at", [3, 6, 7])
def test_resume_is_exact(config, at):
    data = list(batches(12))
    straight, first = start(config, RoundRobin()), start(config, RoundRobin())
    train(straight[0], straight[2], data)
    train(first[0], first[2], data[:at])
    second = start(config, RoundRobin(), seed=1)
    for thing, state in zip(second, through_a_file(*first), strict=True):
        thing.load_state_dict(state)
    train(second[0], second[2], data[at:])
    assert same_state(straight[0], second[0])
    assert same_state(straight[1].detach(), second[1].detach())


@pytest.mark.parametrize("other", [Backwards(), Always("conv"), Always(), None, RandomStart(0.5)])
def test_the_state_of_another_schedule_is_refused_and_changes_nothing(other):
    first, second = start(GMixout(**RULE), RoundRobin()), start(GMixout(**RULE), other, seed=1)
    for model, _, optimizer in (first, second):
        train(model, optimizer, list(batches(3)))
    before = copy.deepcopy(second[1].state_dict())
    with pytest.raises(StateError, match=r"layers \['attention'\].*schedule"):
        second[1].load_state_dict(first[1].state_dict())
    after = second[1].state_dict()
    torch.testing.assert_close(after.pop("weights"), before.pop("weights"), rtol=0, atol=0)
    assert after == before


@pytest.mark.parametrize("layers", ["conv", ["conv", 3], [torch.ones(2)], torch.ones(2), 0, {}])
def test_layers_in_a_file_may_be_anything_and_are_refused(layers):
    for schedule in (RoundRobin(), None):
        _, masked, _ = start(GMixout(**RULE), schedule)
        with pytest.raises(StateError):
            masked.load_state_dict({**masked.state_dict(), "layers": layers})


@pytest.mark.parametrize("schedule", [object(), 0.5, "depth", RoundRobin, lambda period: []])
def test_what_is_not_a_schedule_is_refused(schedule):
    model = TinyNet()
    if schedule is RoundRobin:  # a class: nobody can tell before it is asked
        with pytest.raises(TypeError):
            start(GMixout(**RULE), schedule)
        return
    with pytest.raises(ConfigError, match=r"schedule=.*active\(period, layers, seed\)"):
        gmixout.attach(model, GMixout(**RULE), schedule=schedule)
    assert type(model.hidden) is torch.nn.Linear


@pytest.mark.parametrize("answer", [None, ["stem"], "conv", [0], 3, ["conv", None]])
def test_what_a_schedule_may_not_answer(answer):
    class Odd:
        def active(self, period, layers, seed):
            return answer

    with pytest.raises(ConfigError, match=r"period=0\) returned .*conv, attention"):
        start(GMixout(**RULE), Odd())


def test_a_schedule_beside_a_random_start_depth_is_refused():
    with pytest.raises(ConfigError, match=r"schedule.*mean_start_depth=0"):
        gmixout.attach(TinyNet(), GMixout(**RULE, mean_start_depth=0.5), schedule=RoundRobin())


FREEZABLE = {
    "reset": GMixout(**RULE),
    "persist": GMixout(**RULE, residual="persist"),
    "persist, rescaled": GMixout(**RULE, residual="persist", rescale=True, anchor_decay=0.5),
    "carried moments": GMixout(**RULE, residual="persist", moments="carry"),
    "pulled": GMixout(**RULE, anchor_pull=0.5),
    "depth": GMixout(**RULE, mean_start_depth=0.4),
    "mixout": mixout(0.5),
}


@pytest.mark.parametrize("setting", FREEZABLE)
def test_what_is_frozen_by_hand_in_mid_training_stays_where_it_is(setting):
    """Weight and mask; and it is trained again when it is let go."""
    config = FREEZABLE[setting]
    model, masked, optimizer = start(config)
    data = list(batches(13))
    train(model, optimizer, data[:3])
    model.hidden.requires_grad_(False)
    before, other = model.hidden.weight.clone(), model.conv.weight.clone()
    for batch in data[3:8]:
        train(model, optimizer, [batch])
        assert torch.equal(model.hidden.weight, before)
    assert not torch.equal(model.conv.weight, other)
    resumed = start(config, seed=1)
    resumed[0].hidden.requires_grad_(False)
    for thing, state in zip(resumed, through_a_file(model, masked, optimizer), strict=True):
        thing.load_state_dict(state)
    for run in ((model, masked, optimizer), resumed):
        run[0].hidden.requires_grad_(True)
        train(run[0], run[2], data[8:])
    assert not torch.equal(model.hidden.weight, before)
    assert same_state(masked.detach(), resumed[1].detach())


@pytest.mark.parametrize(
    "periods",
    [None, 3, [1], {"hidden": 0}, torch.zeros(2)]
    + [{"hidden.weight": odd} for odd in (-1, 2**63, 1.0, True, None, "0", torch.ones(()))],
    ids=str,
)
def test_periods_in_a_file_are_counts_by_weight(periods):
    _, masked, _ = start(GMixout(**RULE))
    with pytest.raises(StateError, match="periods"):
        masked.load_state_dict({**masked.state_dict(), "periods": periods})
