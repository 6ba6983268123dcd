"""METHOD.md, "One process, many methods": what is one setting of another is equal to it."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import (
    CUTS,
    STRUCTURES,
    UNPAIRED,
    PlainNet,
    TinyNet,
    batches,
    masked_copy,
    same_state,
    train,
)
from torch import nn

from gmixout import GMixout, dropconnect, high_rate_mixout, mixout, random_mask

FULL = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


def trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


def finish(model, config, make, steps, dtype=torch.float64, **options):
    """The plain model after training under a process."""
    model, masked = masked_copy(model.to(dtype), config, **options)
    optimizer = masked.bind(make(trainable(model)))
    train(model, optimizer, list(batches(steps, dtype)))
    return masked.detach()


def assert_close(a, b):
    # the bias of attention's keys has no gradient but that of rounding, which Adam scales up: on
    # some machines its entries differ by 1.03e-12
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=1e-12, atol=4e-12)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def adam(parameters):
    # Adam divides by the gradient's size: where that is rounding noise, so is the step.
    return torch.optim.Adam(parameters, lr=0.01, eps=1e-2)


@pytest.mark.parametrize("optimizer", FULL)
@pytest.mark.parametrize("every", [1, 3, None])
@pytest.mark.parametrize("biases", ["dense", "masked"])
def test_rate_zero_is_full_finetuning_to_the_last_bit(optimizer, every, biases):
    """Rows of all units: the very products of the dense layer, in float32."""
    model, make = PlainNet(), FULL[optimizer]
    plain = copy.deepcopy(model)
    train(plain, make(trainable(plain)), list(batches(12)))
    config = GMixout(
        mask_rate=0, resample_every=every, residual="persist", anchor_decay=0.3, biases=biases
    )
    assert same_state(plain, finish(model, config, make, 12, torch.float32))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("residual", ["persist", "reset"])
def test_how_weights_lie_in_memory_changes_nothing(structure, residual):
    config = GMixout(mask_rate=0.5, **CUTS[structure], resample_every=2, residual=residual)
    model = TinyNet()
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    one, other = (finish(m, config, adam, 8) for m in (model, turned))
    assert other.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(one, other)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize(("anchor", "decay"), [("pretrained", 0.9), ("pretrained", 1), ("zero", 1)])
def test_rate_zero_is_full_finetuning_whatever_the_rest(structure, rescale, anchor, decay):
    model, make = TinyNet().double(), FULL["AdamW"]
    plain = copy.deepcopy(model)
    train(plain, make(trainable(plain)), list(batches(8, torch.float64)))
    config = GMixout(
        mask_rate=0,
        anchor_decay=decay,
        resample_every=2,
        **CUTS[structure],
        rescale=rescale,
        residual="persist",
        anchor=anchor,
    )
    assert_close(plain, finish(model, config, make, 8))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("make", [sgd, adam])
@pytest.mark.parametrize("biases", ["dense", "masked"])
def test_persist_and_reset_are_one_when_the_anchor_takes_up_everything(structure, make, biases):
    config = GMixout(
        mask_rate=0.75,
        anchor_decay=0,
        resample_every=3,
        **CUTS[structure],
        block_size=2,
        biases=biases,
    )
    model = TinyNet().double()
    reset = finish(model, config, make, 9)
    persist = finish(model, replace(config, residual="persist"), make, 9)
    assert_close(reset, persist)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("make", [sgd, adam])
@pytest.mark.parametrize("biases", ["dense", "masked"])
def test_reset_rescaled_with_lambda_p_is_persist_rescaled_with_lambda_zero(structure, make, biases):
    config = GMixout(
        mask_rate=0.75,
        anchor_decay=0.75,
        resample_every=3,
        **CUTS[structure],
        block_size=2,
        rescale=True,
        biases=biases,
    )
    model = TinyNet().double()
    reset = finish(model, config, make, 9)
    persist = replace(config, residual="persist", anchor_decay=0)
    assert_close(reset, finish(model, persist, make, 9))


@pytest.mark.parametrize("structure", UNPAIRED)
@pytest.mark.parametrize("make", [sgd, adam])
@pytest.mark.parametrize("rate", [0.9, 0.7, 0.4])
def test_the_same_where_counts_are_rounded_with_lambda_one_minus_the_share(structure, make, rate):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    config = GMixout(
        mask_rate=rate,
        resample_every=3,
        **CUTS[structure],
        block_size=2,
        rescale=True,
        residual="persist",
        anchor_decay=0,
    )
    first = {"head": "3", "select": lambda name, parameter: name == "1.weight"}
    (weight,) = masked_copy(model, config, **first)[1].summary().weights
    share = weight.trained / weight.total
    persist = finish(model, config, make, 9, **first)
    reset = replace(config, residual="reset", anchor_decay=1 - share)
    assert_close(finish(model, reset, make, 9, **first), persist)


def test_under_adam_rescaling_is_a_rate_c_times_higher():
    """Without an epsilon Adam's step does not see the gradient's scale."""

    def at_rate(rate):
        return lambda p: torch.optim.Adam(
            [
                {"params": [v for v in p if id(v) in values], "lr": rate, "eps": 0},
                {"params": [v for v in p if id(v) not in values], "lr": 1e-3, "eps": 1e-3},
            ]
        )

    config = GMixout(mask_rate=0.75, anchor_decay=0.6, resample_every=2)
    models = []
    for setting, rate in ((replace(config, rescale=True), 1e-3), (config, 4e-3)):
        torch.manual_seed(0)
        model, masked = masked_copy(TinyNet().double(), setting)
        values = {id(v) for v in masked.parameters()}
        optimizer = masked.bind(at_rate(rate)(trainable(model)))
        train(model, optimizer, list(batches(6, torch.float64)))
        models.append(masked.detach())
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-7, atol=1e-9)


def test_presets_are_settings_of_one_class():
    assert mixout(0.7) == replace(
        GMixout(), mask_rate=0.7, anchor_decay=1, resample_every=1, structure="element",
        rescale=True, residual="persist", moments="carry",
    )  # fmt: skip
    assert high_rate_mixout(0.8) == mixout(0.8)
    assert high_rate_mixout().mask_rate == 0.9
    mask = random_mask(0.95)
    assert (mask.resample_every, mask.residual, mask.rescale) == (None, "reset", False)
    assert (mask.mask_rate, mask.anchor) == (0.95, "pretrained")
    assert dropconnect(0.5) == mixout(0.5, anchor="zero")
    assert mixout(0.5, seed=3, structure="row").structure == "row"
    assert mixout(0.5, seed=3).seed == 3


def test_random_mask_never_moves_what_is_outside_its_one_mask():
    model = TinyNet()
    trained = finish(model, random_mask(0.75), FULL["AdamW"], 25, torch.float32)
    weight, before = trained.hidden.weight, model.hidden.weight
    assert (weight != before).sum() == round(0.25 * weight.numel())


def mixout_of_the_paper(weight, target, rate, mask):
    """Lee, Cho, Kang (2020), eq. 5, as a function of the dense weight; `mask` 1: dropped."""
    mixed = torch.where(mask, target, weight)
    return (mixed - rate * target) / (1 - rate)


def test_mixout_is_the_papers():
    """SGD on the dense weight through the paper's formula, a new mask each step."""
    rate, lr = 0.5, 0.1
    layer = nn.Linear(6, 4, bias=False).double()
    weight = layer.weight.detach().clone()
    target = weight.clone()
    model, masked = masked_copy(nn.Sequential(layer), mixout(rate), head=())
    optimizer = masked.bind(torch.optim.SGD(masked.parameters(), lr=lr))
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
        # Which entries the library drops this step: those at the anchor.
        kept = torch.zeros(24, dtype=torch.bool)
        kept[dict(model.named_buffers())["0.gmixout_weight.index"]] = True
        dense = weight.clone().requires_grad_()
        effective = mixout_of_the_paper(dense, target, rate, ~kept.view(4, 6))
        torch.testing.assert_close(model[0].weight, effective, rtol=1e-12, atol=1e-12)
        (x @ effective.T).pow(2).mean().backward()
        weight = weight - lr * dense.grad
        model(x).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(masked.detach()[0].weight, weight, rtol=1e-12, atol=1e-12)


def test_dropconnect_drops_to_zero_and_scales_the_rest():
    model = nn.Sequential(nn.Linear(16, 16))
    before = model[0].weight.detach().clone()
    masked_model, _ = masked_copy(model, dropconnect(0.75), head=())
    weight = masked_model[0].weight
    assert (weight == 0).sum() == 0.75 * weight.numel()
    torch.testing.assert_close(weight[weight != 0], 4 * before[weight != 0])
