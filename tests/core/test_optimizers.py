"""`bind` with every optimizer of torch: what moves, when the masks advance, what memory is kept."""

import copy
import inspect

import pytest
import torch
from tiny import (
    CUTS,
    MASKED_OF_TINY,
    STRUCTURES,
    UNPAIRED,
    PlainNet,
    TinyNet,
    batches,
    loss_of,
    masked_copy,
    train,
)
from torch import nn

import gmixout
from gmixout import GMixout, mixout

SETTINGS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"lr": 0.01, "weight_decay": 0.5},
    "Adagrad": {"weight_decay": 0.1},
    "RMSprop": {"momentum": 0.5, "centered": True, "weight_decay": 0.1},
    "LBFGS": {"lr": 0.1, "max_iter": 3, "history_size": 4},
    "Muon": {"weight_decay": 0.1},
}

OPTIMIZERS = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls)
    and issubclass(cls, torch.optim.Optimizer)
    and name not in ("Optimizer", "SparseAdam")  # which wants sparse gradients
}


def trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


def make(name, parameters):
    return OPTIMIZERS[name](parameters, **SETTINGS.get(name, {}))


def step(model, optimizer, batch):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()
    optimizer.zero_grad()


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def bound(model, config, name, **options):
    """Under a process, with an optimizer of all that it can take."""
    masked = gmixout.attach(model, config, **options)
    parameters = masked.parameters() if name == "Muon" else trainable(model)
    return masked, masked.bind(make(name, parameters))


def masks(masked):
    """Booleans in the weight's shape: the entries in training."""
    result = {}
    for name, weight in masked._weights.items():
        mask = torch.zeros(weight.weight.shape)
        weight.structure.scatter_(mask, weight.index, torch.ones_like(weight.values))
        result[name] = mask.bool()
    return result


@pytest.mark.parametrize(
    ("name", "structure"),
    # Muon takes matrices, which the values of rows and columns alone are.
    [(n, s) for n in OPTIMIZERS for s in UNPAIRED if n != "Muon" or s in ("row", "column")],
)
def test_only_the_masked_entries_move(name, structure):
    model = PlainNet()
    config = GMixout(mask_rate=0.75, resample_every=3, **CUTS[structure], block_size=2)
    select = (lambda n, p: n == "3.weight") if name == "Muon" else None
    masked, optimizer = bound(model, config, name, select=select, head="5")
    for count, batch in enumerate(batches(5), start=1):
        before, mask = snapshot(model), masks(masked)
        step(model, optimizer, batch)
        if count == 3:
            continue  # at a period's end the anchor takes part of the change back
        for weight, inside in mask.items():
            moved = model.state_dict()[weight] != before[weight]
            assert not moved[~inside].any(), f"{weight}: entries outside the mask moved"
            assert moved[inside].float().mean() > 0.2, f"{weight}: entries of the mask stood still"


def test_a_gradient_left_over_from_before_moves_nothing():
    """With all of the model's parameters in the optimizer, as code of the field hands them over."""
    model = PlainNet()
    for batch in batches(1):
        loss_of(model, batch).backward()
    masked = gmixout.attach(model, GMixout(mask_rate=0.5), head="5")
    optimizer = masked.bind(torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))
    before, mask = snapshot(model), masks(masked)
    for batch in batches(1):
        loss_of(model, batch).backward()
    optimizer.step()
    for name, inside in mask.items():
        assert torch.equal(model.state_dict()[name][~inside], before[name][~inside])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rescale", [False, True])
def test_a_period_is_a_fresh_optimizer_on_other_entries(name, rescale):
    """Train two periods; the second equals one that starts anew from the state in between."""
    config = GMixout(mask_rate=0.5, resample_every=3, rescale=rescale)
    select = lambda n, p: n == "3.weight"  # noqa: E731
    data = list(batches(6))

    def only_masked(model):
        masked = gmixout.attach(model, config, select=select)
        return masked, masked.bind(make(name, masked.parameters()))

    model = PlainNet()
    masked, optimizer = only_masked(model)
    for batch in data[:3]:
        step(model, optimizer, batch)
    fresh = copy.deepcopy(PlainNet())
    fresh_masked, fresh_optimizer = only_masked(fresh)
    fresh_masked.load_state_dict(masked.state_dict())
    fresh.load_state_dict(model.state_dict())
    for batch in data[3:]:
        step(model, optimizer, batch)
        step(fresh, fresh_optimizer, batch)
        for key, value in model.state_dict().items():
            assert torch.equal(value, fresh.state_dict()[key])


@pytest.mark.parametrize("structure", UNPAIRED)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_fused_optimizers_run_the_same_process(name, layout, structure):
    """They walk through memory, where parameter, gradient and moments must lie alike."""
    start, states = PlainNet().double(), []
    for fused in (False, True):
        config = GMixout(mask_rate=0.5, resample_every=2, **CUTS[structure], block_size=2)
        model, masked = masked_copy(start.to(memory_format=layout), config)
        parameters = masked.param_groups(lr=0.01)
        optimizer = masked.bind(OPTIMIZERS[name](parameters, fused=fused, **SETTINGS[name]))
        train(model, optimizer, list(batches(7, torch.float64)))
        states.append(masked.detach().state_dict())
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-9)


CARRIED = {
    # optimizer: (its name for a moment, how a gradient updates it)
    "SGD": ("momentum_buffer", lambda m, g: 0.9 * m + g),
    "Adam": ("exp_avg", lambda m, g: 0.9 * m + 0.1 * g),
    "AdamW": ("exp_avg_sq", lambda m, g: 0.999 * m + 0.001 * g**2),
    "RMSprop": ("square_avg", lambda m, g: 0.99 * m + 0.01 * g**2),
    "Adagrad": ("sum", lambda m, g: m + g**2),
}


@pytest.mark.parametrize("structure", UNPAIRED)
@pytest.mark.parametrize("name", CARRIED)
def test_carried_moments_stay_with_their_entry(name, structure):
    """A dense moment that each entry's own gradients update, and no step without it touches."""
    key, update = CARRIED[name]
    model = nn.Sequential(nn.Linear(4, 4, bias=False).double())
    masked = gmixout.attach(
        model, mixout(0.5, **CUTS[structure], block_size=2, resample_every=2), head=()
    )
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = masked.bind(OPTIMIZERS[name](masked.parameters(), lr=0.01, **options))
    (weight,) = masked._weights.values()
    dense = torch.zeros(4, 4, dtype=torch.float64)
    for _ in range(30):
        model(torch.randn(3, 4, dtype=torch.float64)).pow(2).sum().backward()
        cut, index = weight.structure, weight.index.clone()
        cut.scatter_(dense, index, update(cut.gather(dense, index), weight.values.grad))
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(
            optimizer.state[weight.values][key], cut.gather(dense, weight.index)
        )


def test_masks_advance_every_k_steps_and_never_without_a_period():
    for every, expected in ((1, 6), (3, 2), (None, 0)):
        model, masked = masked_copy(
            PlainNet(), GMixout(mask_rate=0.5, resample_every=every), head="5"
        )
        optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
        changes = 0
        for batch in batches(6):
            before = masks(masked)
            step(model, optimizer, batch)
            now = masks(masked)
            changes += any(not torch.equal(before[n], now[n]) for n in before)
        assert changes == expected
        assert masked.steps == 6


def test_a_gradient_does_not_outlive_its_mask():
    """Who forgets zero_grad adds up gradients, but never those of other entries."""
    model, masked = masked_copy(PlainNet(), GMixout(mask_rate=0.5, resample_every=2), head="5")
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.0)))
    for count, batch in enumerate(batches(4), start=1):
        loss_of(model, batch).backward()
        optimizer.step()
        left = [values.grad is not None for values in masked.parameters()]
        assert any(left) == all(left) == (count % 2 == 1)


def test_the_count_of_trained_entries_is_constant_over_periods():
    for structure in STRUCTURES:
        config = GMixout(mask_rate=0.7, resample_every=1, **CUTS[structure], block_size=3)
        model, masked = masked_copy(TinyNet(), config)
        optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
        sizes = {name: int(mask.sum()) for name, mask in masks(masked).items()}
        for batch in batches(5):
            step(model, optimizer, batch)
            assert {name: int(mask.sum()) for name, mask in masks(masked).items()} == sizes


def test_accumulation_counts_optimizer_steps_and_sums_gradients():
    config = GMixout(mask_rate=0.5, resample_every=2)
    data = list(batches(8, torch.float64))
    plain = PlainNet().double()
    (one, masked_one), (two, masked_two) = masked_copy(plain, config), masked_copy(plain, config)
    optimizers = [m.bind(torch.optim.SGD(m.param_groups(lr=0.1))) for m in (masked_one, masked_two)]
    for first, second in zip(data[::2], data[1::2], strict=True):
        for batch in (first, second):
            (loss_of(one, batch) / 2).backward()
        both = tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
        loss_of(two, both).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(one.state_dict(), two.state_dict())
    assert masked_one.steps == masked_two.steps == 4
    assert masked_one.period == masked_two.period == 2


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_grad_scaler_skips_does_not_count(fused):
    model, masked = masked_copy(PlainNet(), GMixout(mask_rate=0.5, resample_every=1), head="5")
    optimizer = masked.bind(
        torch.optim.AdamW(masked.param_groups(lr=0.01), weight_decay=0.1, fused=fused)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for count, batch in enumerate(batches(4)):
        scaler.scale(loss_of(model, batch)).backward()
        overflow = count in (1, 2)
        if overflow:
            masked.parameters()[0].grad.view(-1)[0] = float("inf")
        before, mask, steps = snapshot(model), masks(masked), masked.steps
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        now = masks(masked)
        assert (masked.steps == steps) == overflow
        assert all(torch.equal(mask[n], now[n]) for n in mask) == overflow
        if overflow:
            assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert masked.steps == 2


def test_a_closure_sees_the_values_that_the_optimizer_moved():
    """LBFGS evaluates several times in a step: the loss it sees is that of the values it set."""
    model, masked = masked_copy(
        nn.Sequential(nn.Linear(4, 4)), GMixout(mask_rate=0.5, resample_every=None), head=()
    )
    optimizer = masked.bind(torch.optim.LBFGS(trainable(model), max_iter=8, tolerance_grad=0))
    x = torch.randn(16, 4)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1).pow(2).mean()
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    assert len(losses) > 3
    assert losses[-1] < 0.5 * losses[0]
    optimizer.step(closure=closure)  # by keyword, as well
    assert losses[-1] <= losses[0]


def test_param_groups_hold_every_trainable_parameter_once():
    model = TinyNet()
    model.norm.bias.requires_grad_(False)
    masked = gmixout.attach(model, GMixout(mask_rate=0.75, anchor_decay=0.9))
    groups = {group["name"]: group for group in masked.param_groups(lr=0.1, head_lr=0.3)}
    assert list(groups) == ["masked", "dense", "head"]
    held = [id(p) for group in groups.values() for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in trainable(model)}
    assert {id(p) for p in groups["head"]["params"]} == {id(p) for p in model.head.parameters()}
    assert [id(p) for p in groups["masked"]["params"]] == [id(p) for p in masked.parameters()]
    assert groups["dense"]["lr"] == 0.1
    assert groups["head"]["lr"] == 0.3
    assert masked.param_groups(lr=0.1)[-1]["lr"] == 0.1


def test_a_gradient_without_a_step_needs_no_optimizer():
    model = TinyNet()
    masked = gmixout.attach(model, GMixout(mask_rate=0.75, residual="persist", rescale=True))
    loss_of(model, next(batches(1))).backward()
    assert masked.detach() is model


class Wrapper(torch.optim.Optimizer):
    """As accelerate's: an optimizer by its class alone."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()


def test_an_optimizer_in_a_wrapper_is_bound_itself():
    model = TinyNet()
    masked = gmixout.attach(model, GMixout(mask_rate=0.75, resample_every=1))
    wrapped = Wrapper(torch.optim.SGD(masked.param_groups(lr=0.1)))
    assert masked.bind(wrapped) is wrapped
    loss_of(model, next(batches(1))).backward()
    wrapped.step()
    assert masked.steps == masked.period == 1
    assert masked.bind(wrapped) is wrapped


def test_fused_sgd_where_some_weights_are_never_redrawn():
    """torch wants momentum of all parameters of a group, or of none."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 3), nn.Flatten())
    config = GMixout(mask_rate=0.5, structure="column", residual="persist", resample_every=2)
    models = []
    for fused in (False, True):
        model = copy.deepcopy(net)
        masked = gmixout.attach(model, config)
        groups = masked.param_groups(lr=0.1)
        assert [group["name"] for group in groups] == ["masked", "whole", "dense"]
        held = [p for group in groups[:2] for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in masked.parameters()}
        optimizer = masked.bind(torch.optim.SGD(groups, momentum=0.9, fused=fused))
        for _ in range(5):
            model(torch.ones(2, 4, 7, 7)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        models.append(masked.detach().state_dict())
    torch.testing.assert_close(*models)


def test_the_masked_rate_makes_up_for_what_the_anchor_gives_back():
    """The share 1-lambda of a period survives; rescaling acts like a rate c times higher."""

    def scale(**options):
        config = GMixout(mask_rate=0.75, **options)
        _, masked = masked_copy(PlainNet(), config)
        return masked.param_groups(lr=2.0)[0]["lr"] / 2.0

    plain = scale(anchor_decay=0)
    assert scale(anchor_decay=0.25) == pytest.approx(plain / 0.75)
    assert scale(anchor_decay=0, rescale=True) == pytest.approx(plain / 4)
    assert scale(residual="persist", anchor_decay=0.9) == pytest.approx(plain)
    assert scale(resample_every=None) == pytest.approx(plain)
    _, masked = masked_copy(PlainNet(), GMixout(mask_rate=0, residual="persist"))
    assert masked.param_groups(lr=2.0)[0]["lr"] == 2.0


@pytest.mark.parametrize("structure", UNPAIRED)
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("decay", [0, 0.5, 0.9, 0.999])
def test_a_step_is_at_most_twice_as_long_as_full_finetunings(decay, rescale, structure):
    """Of Phi, in the first step of Adam, which moves every trained entry by its rate."""
    config = GMixout(0.75, decay, **CUTS[structure], rescale=rescale, block_size=2)
    plain = PlainNet().double()
    _, masked = masked_copy(plain, config)
    optimizer = masked.bind(torch.optim.Adam(masked.param_groups(lr=1e-3), eps=1e-30))
    for values in masked.parameters():
        values.grad = torch.ones_like(values)
    optimizer.step()
    for name, weight in masked._weights.items():
        moved = (weight.weight - plain.get_parameter(name)).norm()
        full = 1e-3 * weight.weight.numel() ** 0.5
        assert full * 0.99 < moved < 2.01 * full


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("residual", ["reset", "persist"])
def test_values_are_float32_under_half_precision_weights(dtype, residual):
    """Steps far below the weights' resolution add up within a period, and only there show."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False)).to(dtype)
    nn.init.constant_(model[0].weight, 1.0)
    config = GMixout(mask_rate=0.5, resample_every=None, anchor_decay=1, residual=residual)
    masked = gmixout.attach(model, config, head=())
    optimizer = masked.bind(torch.optim.SGD(masked.parameters(), lr=1e-5))
    (values,) = masked.parameters()
    assert values.dtype == torch.float32
    for _ in range(800):
        values.grad = torch.full_like(values, -1.0)
        optimizer.step()
    torch.testing.assert_close(values, torch.full_like(values, 1.008), rtol=0, atol=1e-4)
    inside = masks(masked)["0.weight"]
    weight = model.state_dict()["0.weight"]
    assert weight.dtype == dtype
    assert (weight[inside] == torch.tensor(1.008, dtype=dtype)).all()
    assert (weight[~inside] == 1).all()
    output = model(torch.ones(2, 8, dtype=dtype))
    assert output.dtype == dtype
    output.sum().backward()
    assert values.grad.dtype == torch.float32


def test_moving_the_model_to_half_precision_leaves_the_values_wide():
    model, masked = masked_copy(TinyNet(), GMixout(mask_rate=0.5))
    model.bfloat16()
    assert all(values.dtype == torch.float32 for values in masked.parameters())
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-3)))
    train(model, optimizer, list(batches(2, torch.bfloat16)))
    plain = masked.detach()
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}


def test_rate_zero_steps_do_nothing_but_advance_the_masks():
    model, masked = masked_copy(TinyNet(), GMixout(mask_rate=0.5, resample_every=1))
    before = snapshot(model)
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.0)))
    train(model, optimizer, list(batches(3)))
    assert masked.period == 3
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert set(MASKED_OF_TINY) <= set(before)
