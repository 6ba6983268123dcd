"""Looking at a process from outside: the states it gives, and that looking changes nothing."""

import copy

import pytest
import torch
from dense_process import DenseProcess, mask_of, sgd
from tiny import CUTS, MASKED_OF_TINY, STRUCTURES, TinyNet, batches, loss_of, train
from torch import nn

import gmixout
from gmixout import GMixout, dropconnect, mixout, random_mask
from gmixout.errors import AttachError

SETTINGS = {
    "reset": GMixout(mask_rate=0.75, resample_every=4),
    "reset, rescaled": GMixout(mask_rate=0.75, resample_every=4, rescale=True, anchor_decay=0.6),
    "persist": GMixout(mask_rate=0.75, resample_every=4, residual="persist"),
    "persist, rescaled": GMixout(
        mask_rate=0.75, resample_every=4, residual="persist", rescale=True, anchor_decay=0.5
    ),
    "bf16 residual": GMixout(
        mask_rate=0.75, resample_every=4, residual="persist", residual_dtype="bfloat16"
    ),
    "mixout": mixout(0.75),
    "random mask": random_mask(0.75),
    "dropconnect": dropconnect(0.75),
}
EXACT = [name for name in SETTINGS if name != "bf16 residual"]


def cut(setting, structure):
    return GMixout(**{**vars(SETTINGS[setting]), **CUTS[structure], "block_size": 2})


def start(config, dtype=torch.float32):
    torch.manual_seed(0)
    model = TinyNet().to(dtype)
    masked = gmixout.attach(model, config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))
    return model, masked, optimizer


def look(masked):
    """All that can be looked at, copied."""
    states = [masked.snapshot(), masked.anchor(), masked.subnetwork(masked.period + 7)]
    return copy.deepcopy(states)


def close(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("steps", [0, 1, 4, 6])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_snapshot_is_what_detach_would_leave(setting, structure, steps):
    model, masked, optimizer = start(cut(setting, structure))
    train(model, optimizer, list(batches(steps)))
    snapshot = copy.deepcopy(masked.snapshot())
    plain = masked.detach().state_dict()
    assert list(snapshot) == list(plain)
    assert all(torch.equal(snapshot[name], value) for name, value in plain.items())


@pytest.mark.parametrize("structure", ["element", "block"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_training_goes_on_bit_equal_after_a_look(setting, structure, rng_untouched):
    """Weights, optimizer and process, the residual's stale entries too."""
    data, ends = list(batches(9)), []
    for looking in (False, True):
        model, masked, optimizer = start(cut(setting, structure))
        for batch in data:
            train(model, optimizer, [batch])
            if looking:
                with rng_untouched():
                    look(masked)
        state = [
            model.state_dict(),
            masked.state_dict()["weights"],
            optimizer.state_dict()["state"],
        ]
        ends.append(copy.deepcopy(state))
    for unseen, seen in zip(*ends, strict=True):
        torch.testing.assert_close(seen, unseen, rtol=0, atol=0)


def test_a_snapshot_of_reset_is_the_models_memory_and_of_persist_is_not():
    for setting, shared in (("reset", True), ("persist", False)):
        model, masked, _ = start(SETTINGS[setting])
        same = masked.snapshot()["hidden.weight"].data_ptr() == model.hidden.weight.data_ptr()
        assert same == shared


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("setting", EXACT)
def test_all_states_against_the_dense_process(setting, structure):
    """A, and A + c * M' * D, with the A and D of METHOD.md written out entry by entry."""
    config = cut(setting, structure)
    model = TinyNet().double()
    slow = DenseProcess(copy.deepcopy(model), MASKED_OF_TINY, config, sgd(0.05))
    masked = gmixout.attach(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = masked.bind(torch.optim.SGD(trained, lr=0.05))
    for batch in batches(5, torch.float64):
        slow.step(lambda call, batch=batch: loss_of(call, batch))
        train(model, optimizer, [batch])
        close(masked.snapshot(), slow.plain())
        dense = {n: v for n, v in slow.phi().items() if n not in MASKED_OF_TINY}
        anchor = {n: a for n, a in slow.anchor.items() if n in MASKED_OF_TINY}
        close(masked.anchor(), {n: (anchor | dense)[n] for n in slow.anchor})
        for period in (0, masked.period, masked.period + 1, 1000):
            expected = dict(dense)
            for name, a in anchor.items():
                other = mask_of(config, name, a.shape, period)
                expected[name] = a + slow.scale(name) * other * slow.residual[name]
                if config.residual == "reset":
                    within = other & slow.mask[name]
                    by_docstring = a + slow.scale(name) * within * slow.residual[name]
                    assert torch.equal(expected[name], by_docstring)
            close(masked.subnetwork(period), {n: expected[n] for n in slow.anchor})
        close(masked.subnetwork(masked.period), dict(model.state_dict()))


@pytest.mark.parametrize("setting", [s for s in EXACT if SETTINGS[s].residual == "persist"])
def test_the_mean_over_subnetworks_is_the_final_model(setting):
    """Over all masks that a rate of a half draws evenly, for the residual that persists."""
    config = GMixout(**{**vars(SETTINGS[setting]), "structure": "element", "mask_rate": 0.5})
    model, masked, optimizer = start(config, torch.float64)
    train(model, optimizer, list(batches(6, torch.float64)))
    periods = 400
    mean = {n: torch.zeros_like(v) for n, v in masked.snapshot().items()}
    for period in range(periods):
        for name, value in masked.subnetwork(period).items():
            mean[name] += value / periods
    snapshot, anchor = masked.snapshot(), masked.anchor()
    for name in MASKED_OF_TINY:
        # Each entry of the mean is A + c * D * (share of the masks that have it); sd 1/2 a mask.
        scale = 2.0 if config.rescale else 1.0
        spread = scale * 0.5 / periods**0.5 * _residual(snapshot, anchor, name, config).abs()
        assert ((mean[name] - snapshot[name]).abs() <= 6 * spread + 1e-12).all()
        assert (mean[name] - snapshot[name]).abs().max() > 0


def _residual(snapshot, anchor, name, config):
    return (snapshot[name] - anchor[name]) / (1.0 if config.rescale else config.density)


@pytest.mark.parametrize("setting", SETTINGS)
def test_before_training_all_states_are_the_pretrained_weights(setting):
    torch.manual_seed(0)
    before = TinyNet().state_dict()
    _, masked, _ = start(SETTINGS[setting])
    torch.testing.assert_close(masked.snapshot(), dict(before))
    if SETTINGS[setting].anchor == "pretrained":
        torch.testing.assert_close(masked.anchor(), dict(before))
        torch.testing.assert_close(masked.subnetwork(5), dict(before))
    else:
        assert all((masked.anchor()[name] == 0).all() for name in MASKED_OF_TINY)


def test_half_precision_weights_keep_their_dtype():
    model = TinyNet().bfloat16()
    masked = gmixout.attach(model, SETTINGS["persist"])
    for state in look(masked):
        assert all(value.dtype == torch.bfloat16 for value in state.values())


def test_tied_weights_are_replaced_under_each_of_their_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.head(self.b(torch.tanh(self.a(x))))

    model = Tied()
    masked = gmixout.attach(model, SETTINGS["persist"])
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
    for _ in range(3):
        model(torch.ones(2, 8)).square().sum().backward()
        optimizer.step()
    snapshot, weight = masked.snapshot(), model.a.weight.clone()
    assert torch.equal(snapshot["a.weight"], snapshot["b.weight"])
    assert not torch.equal(snapshot["a.weight"], weight)
    assert torch.equal(masked.detach().b.weight, snapshot["b.weight"])


def test_nothing_can_be_looked_at_after_detach():
    _, masked, _ = start(SETTINGS["reset"])
    masked.detach()
    for state in (masked.snapshot, masked.anchor, lambda: masked.subnetwork(0)):
        with pytest.raises(AttachError):
            state()
