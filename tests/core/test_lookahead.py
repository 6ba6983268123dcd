"""A process that holds nothing back is Lookahead, and on batches of one domain each Fish."""

import copy

import pytest
import torch
from timm.optim.lookahead import Lookahead
from tiny import CUTS, UNPAIRED, PlainNet, batches, loss_of, masked_copy, same_state, train

from gmixout import GMixout, lookahead
from gmixout.errors import ConfigError

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
}
DATA = list(batches(14, torch.float64))


def everything(name, parameter):
    return True


def ours(model, config, make):
    model, masked = masked_copy(model, config, select=everything)
    train(model, masked.bind(make(masked.parameters())), DATA)
    return masked.detach()


def start():
    torch.manual_seed(0)
    return PlainNet().double()


def assert_close(a, b):
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "structure"),
    [*((name, "row") for name in OPTIMIZERS), *(("Adam", structure) for structure in UNPAIRED)],
)
def test_it_is_the_lookahead_of_timm_with_slow_weights_from_the_start(name, structure):
    """timm takes its slow weights at the first sync, which then does nothing; so they are put in.

    After the first step, as optimizers make their state in it.
    """
    model, make = start(), OPTIMIZERS[name]
    config = lookahead(4, 0.3, **CUTS[structure])
    other = copy.deepcopy(model)
    optimizer = Lookahead(make(other.parameters()), alpha=0.3, k=4)
    train(other, optimizer, DATA[:1])
    for parameter, slow in zip(other.parameters(), model.parameters(), strict=True):
        state = optimizer._base_optimizer.state[parameter]
        state["lookahead_slow_buff"] = slow.detach().clone()
    train(other, optimizer, DATA[1:])
    assert_close(ours(model, config, make), other)


@pytest.mark.parametrize("moments", ["carry", "reset"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_a_batch_of_each_domain_in_a_period_it_is_fish(name, moments):
    """The published loop: a clone goes through the domains, and the model a share of its way."""
    domains, meta_lr, model = 3, 0.4, start()
    config = lookahead(domains, meta_lr, moments=moments)
    network, kept = copy.deepcopy(model), None
    for round in range(len(DATA) // domains):
        inner = copy.deepcopy(network)
        optimizer = OPTIMIZERS[name](inner.parameters())
        if kept is not None and moments == "carry":
            optimizer.load_state_dict(kept)
        for domain in range(domains):
            optimizer.zero_grad()
            loss_of(inner, DATA[round * domains + domain]).backward()
            optimizer.step()
        kept = optimizer.state_dict()
        with torch.no_grad():
            for weight, moved in zip(network.parameters(), inner.parameters(), strict=True):
                weight.add_(meta_lr * (moved - weight))
    rounds = len(DATA) // domains * domains
    model, masked = masked_copy(model, config, select=everything)
    train(model, masked.bind(OPTIMIZERS[name](masked.parameters())), DATA[:rounds])
    assert_close(masked.detach(), network)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_going_all_the_way_is_full_finetuning_to_the_last_bit(name):
    model = start()
    plain = copy.deepcopy(model)
    train(plain, OPTIMIZERS[name](plain.parameters()), DATA)
    assert same_state(ours(model, lookahead(3, 1), OPTIMIZERS[name]), plain)


def test_carried_moments_cost_nothing_and_resume_exactly():
    def run():
        model, masked = masked_copy(start(), lookahead(4, 0.3))
        return model, masked, masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))

    straight, first, second = run(), run(), run()
    train(straight[0], straight[2], DATA)
    train(first[0], first[2], DATA[:7])
    assert first[1].summary().bytes["carried moments"] == 0
    for thing, other in zip(second, first, strict=True):
        thing.load_state_dict(copy.deepcopy(other.state_dict()))
    train(second[0], second[2], DATA[7:])
    assert same_state(straight[1].detach(), second[1].detach())


def test_it_is_a_setting_of_the_process():
    config = lookahead(5, 0.25, structure="column")
    assert config == GMixout(
        mask_rate=0, anchor_decay=0.75, resample_every=5, moments="carry", structure="column"
    )
    assert lookahead() == lookahead(6, 0.5)


@pytest.mark.parametrize("alpha", [0, -0.1, 1.1, float("nan"), "half", None, True])
def test_a_share_that_is_none_is_refused(alpha):
    with pytest.raises(ConfigError, match=r"lookahead\(alpha=.*\(0, 1\]"):
        lookahead(alpha=alpha)


@pytest.mark.parametrize("rate", [0.001, 0.5, 0.9])
def test_carried_moments_of_residuals_that_are_gone_are_refused(rate):
    with pytest.raises(ConfigError, match=r"carry.*mask_rate=0, where"):
        GMixout(mask_rate=rate, moments="carry")
