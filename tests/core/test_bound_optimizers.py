"""Every optimizer that people bring: it is followed, its state carries ours, or it is refused."""

import copy
import inspect
import io
import logging

import pytest
import torch
from tiny import CUTS, STRUCTURES, PlainNet, TinyNet, batches, loss_of, same_state, train
from torch import nn

import gmixout
from gmixout import GMixout, dropconnect, high_rate_mixout, mixout, random_mask
from gmixout.errors import AttachError, ConfigError, StateError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

PRESETS = {
    "gmixout": GMixout(mask_rate=0.5, resample_every=2),
    "persist": GMixout(mask_rate=0.5, resample_every=2, residual="persist", structure="element"),
    "mixout": mixout(0.5),
    "mixout of rows": mixout(0.5, resample_every=2, structure="row"),
    "high_rate_mixout": high_rate_mixout(0.75),
    "random_mask": random_mask(0.5),
    "dropconnect": dropconnect(0.5),
}


class Matrices(nn.Sequential):
    """For optimizers of matrices alone."""

    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(64, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False)
        )


def flat(groups):
    return [parameter for group in groups for parameter in group["params"]]


def of_torch():
    """Makers of torch's own, and the network that each can train."""
    odd = {"LBFGS": lambda cls: lambda g: cls(flat(g)), "Muon": lambda cls: lambda g: cls(flat(g))}
    left_out = ("Optimizer", "SparseAdam", "Rprop")  # Rprop moves by its least step at rate 0
    for name, cls in inspect.getmembers(torch.optim, inspect.isclass):
        if issubclass(cls, torch.optim.Optimizer) and name not in left_out:
            yield f"torch {name}", odd.get(name, lambda cls: cls)(cls)


def of_timm():
    timm_optim = pytest.importorskip("timm.optim")
    needs_a_gpu, moves_at_rate_zero = ("bnb", "fused"), ("madgrad",)
    compiled = ("kron",)  # for half a minute; its state is like the others'
    for name in timm_optim.list_optimizers():
        if (
            not name.startswith(needs_a_gpu + moves_at_rate_zero + compiled)
            and name != "adahessian"
        ):
            yield (
                f"timm {name}",
                lambda groups, name=name: timm_optim.create_optimizer_v2(
                    groups, opt=name, lr=1e-3, weight_decay=0.1
                ),
            )
    for name in ("adamw", "sgd", "lamb"):
        yield (
            f"timm lookahead_{name}",
            lambda groups, name=name: timm_optim.create_optimizer_v2(
                groups, opt=f"lookahead_{name}", lr=1e-3, weight_decay=0.1
            ),
        )


MAKERS = dict([*of_torch(), *of_timm()])


def silence(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * 0


USUAL = ("torch AdamW", "torch SGD", "torch Adagrad", "timm lion", "timm lookahead_adamw")
KINDS = ("gmixout", "persist", "mixout of rows")
"""Presets of each kind of residual and of moments."""


@pytest.mark.parametrize("name", MAKERS)
def test_rate_zero_leaves_the_model_bit_equal_over_redraws(name):
    """Or the preset cannot be followed with this optimizer, and binding it says so."""
    followed = 0
    for config in [PRESETS[preset] for preset in (PRESETS if name in USUAL else KINDS)]:
        torch.manual_seed(0)
        model = Matrices() if "Muon" in name else TinyNet()
        before = copy.deepcopy(model)
        masked = gmixout.attach(model, config)
        optimizer = MAKERS[name](masked.param_groups(lr=1e-3))
        try:
            masked.bind(optimizer)
        except AttachError as error:
            assert config.moments == "carry"
            assert "moments='reset'" in str(error)  # noqa: PT017
            continue
        silence(optimizer)
        for batch in batches(5):
            if "LBFGS" in name:
                optimizer.step(lambda batch=batch, model=model: backward(model, batch))
            else:
                train(model, optimizer, [batch])
        assert masked.steps == 5
        assert same_state(masked.detach(), before)
        followed += 1
    assert followed >= 2


def backward(model, batch):
    loss = loss_of(model, batch)
    loss.backward()
    return loss


def test_the_usual_optimizers_carry_their_moments():
    """A refusal must not be the easy way out."""
    refused = []
    for name, make in MAKERS.items():
        if "Muon" in name:
            continue
        masked = gmixout.attach(TinyNet(), mixout(0.5))
        try:
            masked.bind(make(masked.param_groups(lr=1e-3)))
        except AttachError:
            refused.append(name)
    kinds = ("ASGD", "LBFGS", "rmsproptf", "Adafactor", "adafactor")
    assert [n for n in refused if not any(kind in n for kind in kinds)] == []


def test_adahessian_where_it_can_work():
    timm_optim = pytest.importorskip("timm.optim")
    model = PlainNet()  # torch's attention has no second derivative
    masked = gmixout.attach(model, PRESETS["gmixout"], higher_order=True)
    groups = masked.param_groups(lr=1e-2)
    optimizer = masked.bind(timm_optim.create_optimizer_v2(groups, opt="adahessian"))
    losses = []
    for batch in list(batches(1)) * 8:
        loss = loss_of(model, batch)
        loss.backward(create_graph=True)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    assert losses[-1] < losses[0]
    assert masked.steps == 8


class Slow(torch.optim.Optimizer):
    """Lookahead as its first implementations had it: copies in a list of its own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        super().__init__(optimizer.param_groups, {})
        self.slow = [[p.detach().clone() for p in g["params"]] for g in self.param_groups]

    def step(self, closure=None):
        self.optimizer.step(closure)


class Twins(torch.optim.Optimizer):
    def __init__(self, first, second):
        self.first, self.second = first, second
        super().__init__(first.param_groups, {})


def test_what_cannot_follow_a_redraw_is_refused():
    masked = gmixout.attach(TinyNet(), PRESETS["gmixout"])
    slow = Slow(torch.optim.SGD(masked.param_groups(lr=0.1)))
    with pytest.raises(AttachError, match=r"copies of its parameters in 'slow'"):
        masked.bind(slow)
    twins = Twins(*(torch.optim.SGD(masked.param_groups(lr=0.1)) for _ in range(2)))
    with pytest.raises(AttachError, match="several optimizers"):
        masked.bind(twins)
    assert masked.bind(slow.optimizer) is slow.optimizer
    forever = gmixout.attach(TinyNet(), random_mask(0.5))
    forever.bind(Slow(torch.optim.SGD(forever.param_groups(lr=0.1))))


def test_one_in_a_list_is_bound_with_what_is_around_it():
    class Around(torch.optim.Optimizer):
        def __init__(self, groups):
            self.inside = [torch.optim.SGD(groups, lr=0.1)]
            super().__init__(groups, {})

        def step(self):
            self.inside[0].step()

    model = TinyNet()
    masked = gmixout.attach(model, PRESETS["gmixout"])
    optimizer = masked.bind(Around(masked.param_groups(lr=0.1)))
    train(model, optimizer, list(batches(3)))
    assert masked.steps == 3


def test_what_a_period_leaves_out_is_in_the_groups_of_a_second_optimizer():
    model, masked, optimizer = start(STATES["random depth"])
    everything = sum(len(group["params"]) for group in optimizer.param_groups)
    frozen = 0
    for batch in batches(9):
        train(model, optimizer, [batch])
        frozen += sum(not v.requires_grad for v in masked.parameters())
        for groups in (masked.param_groups(lr=1e-3), masked.param_groups(lr=1e-3, weight_decay=0)):
            assert sum(len(group["params"]) for group in groups) == everything
    assert frozen, "no period began above the first layer"
    masked.unbind()
    assert all(v.requires_grad for v in masked.parameters())


STATES = {
    **PRESETS,
    "random depth": GMixout(mask_rate=0.5, resample_every=2, mean_start_depth=0.5),
    "pulled": GMixout(mask_rate=0.5, resample_every=2, anchor_pull=0.2),
}
WRAPPED = {
    "adamw": torch.optim.AdamW,
    "adamw, fused": lambda g: torch.optim.AdamW(g, fused=True),
    "momentum": lambda g: torch.optim.SGD(g, momentum=0.9),
    "lookahead": MAKERS["timm lookahead_adamw"],
}


def start(config, make=torch.optim.AdamW, seed=0):
    torch.manual_seed(seed)
    model = TinyNet()
    masked = gmixout.attach(model, config)
    return model, masked, masked.bind(make(masked.param_groups(lr=1e-3)))


@pytest.mark.parametrize("setting", STATES)
@pytest.mark.parametrize(
    ("optimizer", "order"),
    [("adamw", "model first"), ("adamw", "optimizer first")],
)
def test_saving_model_and_optimizer_is_enough(setting, optimizer, order):
    """As every framework does, with no code of ours: bit-equal to a run that never stopped."""
    check_saved(setting, optimizer, order)


@pytest.mark.parametrize("setting", KINDS)
@pytest.mark.parametrize("optimizer", [name for name in WRAPPED if name != "adamw"])
def test_so_it_is_with_other_optimizers(setting, optimizer):
    check_saved(setting, optimizer, "model first")


def check_saved(setting, optimizer, order):
    make, data = WRAPPED[optimizer], list(batches(9))
    if optimizer == "lookahead" and STATES[setting].moments == "carry":
        data = data[:5]  # of the slow weights, which are dropped at each redraw
    model, masked, straight = start(STATES[setting], make)
    train(model, straight, data)
    first = start(STATES[setting], make)
    train(first[0], first[2], data[:3])
    file = io.BytesIO()
    torch.save({"model": first[0].state_dict(), "optimizer": first[2].state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = start(STATES[setting], make, seed=1)
    parts = [(again[0], "model"), (again[2], "optimizer")]
    for part, name in parts if order == "model first" else parts[::-1]:
        part.load_state_dict(saved[name])
    assert again[1].steps == 3
    train(again[0], again[2], data[3:])
    assert masked.steps == again[1].steps
    assert same_state(masked.detach(), again[1].detach())


def test_an_optimizers_state_without_ours_is_an_error():
    model, masked, optimizer = start(PRESETS["gmixout"])
    plain = torch.optim.AdamW(TinyNet().parameters(), lr=1e-3)
    for group in plain.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    fresh = plain.state_dict()
    plain.step()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(StateError, match=r"masked\.load_state_dict"):
        optimizer.load_state_dict(plain.state_dict())
    assert optimizer.state_dict()["state"].keys() == before["state"].keys()
    assert not fresh["state"]
    # Saved apart, as before there was one state: the process's is loaded first.
    train(model, optimizer, list(batches(3)))
    apart = {k: v for k, v in optimizer.state_dict().items() if k != "gmixout"}
    again = start(PRESETS["gmixout"], seed=1)
    again[0].load_state_dict(model.state_dict())
    again[1].load_state_dict(copy.deepcopy(masked.state_dict()))
    again[2].load_state_dict(copy.deepcopy(apart))
    for each in ((model, optimizer), (again[0], again[2])):
        train(*each, list(batches(3)))
    assert same_state(masked.detach(), again[1].detach())


def test_a_damaged_state_leaves_the_optimizer_as_it_was():
    model, masked, optimizer = start(PRESETS["gmixout"])
    train(model, optimizer, list(batches(3)))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["gmixout"]["steps"] = -3
    train(model, optimizer, list(batches(2)))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(StateError, match="steps"):
        optimizer.load_state_dict(saved)
    now = optimizer.state_dict()
    assert now["gmixout"]["steps"] == masked.steps == 5
    for key, state in before["state"].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(now["state"][key][n])) for n, v in state.items())  # fmt: skip  # noqa: E501


def test_a_new_optimizer_takes_the_place_of_the_old_one():
    """A second fit, a range test before it: steps go on, moments start anew."""
    model, masked, optimizer = start(PRESETS["gmixout"])
    train(model, optimizer, list(batches(3)))
    assert masked.bind(optimizer) is optimizer
    second = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-3)))
    assert "gmixout" not in optimizer.state_dict()
    train(model, second, list(batches(3)))
    assert masked.steps == 6
    loss_of(model, next(batches(1))).backward()
    with pytest.raises(AttachError, match="no process follows"):
        optimizer.step()
    masked.unbind()
    assert not second._optimizer_step_post_hooks
    masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-3)))


@pytest.mark.parametrize("setting", STATES)
def test_reset_starts_as_attach_does(setting):
    model, masked, optimizer = start(STATES[setting])
    train(model, optimizer, list(batches(5)))
    plain = TinyNet()
    plain.load_state_dict({n: v.clone() for n, v in masked.snapshot().items()})
    masked.reset()
    assert (masked.steps, masked.period) == (0, 0)
    assert same_state_of(masked.snapshot(), plain.state_dict(), exact=setting != "dropconnect")
    its = gmixout.attach(plain, STATES[setting])
    for net, handle in ((model, masked), (plain, its)):
        again = handle.bind(torch.optim.AdamW(handle.param_groups(lr=1e-3)))
        train(net, again, list(batches(5)))
    assert same_state_of(masked.snapshot(), its.snapshot(), exact=setting != "dropconnect")


def same_state_of(left, right, exact):
    compare = torch.equal if exact else torch.allclose
    return left.keys() == right.keys() and all(compare(left[k], right[k]) for k in left)


def test_a_range_test_that_puts_model_and_optimizer_back_leaves_no_trace():
    for setting in ("gmixout", "mixout", "persist"):
        model, masked, optimizer = start(PRESETS[setting])
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        train(model, optimizer, list(batches(5)))
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        other, its, fresh = start(PRESETS[setting])
        assert (masked.steps, masked.period) == (0, 0)
        for net, each in ((model, optimizer), (other, fresh)):
            train(net, each, list(batches(5)))
        assert same_state(masked.detach(), its.detach())


def test_groups_of_others_are_noticed(caplog):
    """One rate for masked values and dense parameters is not what `param_groups` gives."""
    with caplog.at_level(logging.WARNING, logger="gmixout"):
        start(PRESETS["gmixout"])
        masked = gmixout.attach(TinyNet(), random_mask(0.0))
        masked.bind(torch.optim.SGD(masked.model.parameters(), lr=0.1))  # its scale is 1
        assert not caplog.records
        masked = gmixout.attach(TinyNet(), PRESETS["gmixout"])
        masked.bind(torch.optim.SGD(masked.model.parameters(), lr=0.1))
    assert "param_groups" in caplog.text
    assert f"{0.1 * PRESETS['gmixout'].lr_scale:g}" in caplog.text


@pytest.mark.parametrize("structure", STRUCTURES)
def test_masked_values_are_decayed_and_vectors_are_not(structure):
    timm_optim = pytest.importorskip("timm.optim")
    masked = gmixout.attach(TinyNet(), GMixout(mask_rate=0.5, **CUTS[structure], block_size=4))
    values = {id(v) for v in masked.parameters()}
    assert all(v.dim() >= 2 for v in masked.parameters())
    theirs = timm_optim.create_optimizer_v2(masked.model, opt="adamw", lr=1e-3, weight_decay=0.1)
    ours = torch.optim.AdamW(masked.param_groups(lr=1e-3, weight_decay=0.1))
    for optimizer in (theirs, ours):
        decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        trainable = {id(p): p for p in masked.model.parameters() if p.requires_grad}
        assert all(decay[key] == 0.1 for key in values)
        assert all((decay[key] > 0) == (p.dim() > 1) for key, p in trainable.items())
    plain = masked.param_groups(lr=1e-3)
    assert all("weight_decay" not in group for group in plain)
    everything = masked.param_groups(lr=1e-3, weight_decay=0.1, no_decay=False)
    assert {g["weight_decay"] for g in everything} == {0.1}
    for wrong in (-0.1, float("nan"), "a lot"):
        with pytest.raises(ConfigError, match="weight_decay"):
            masked.param_groups(lr=1e-3, weight_decay=wrong)
