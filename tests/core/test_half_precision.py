"""What training adds to weights in half precision is not rounded away."""

import pytest
import torch
from tiny import CUTS, UNPAIRED, TinyNet, batches, train
from torch import nn

import gmixout
from gmixout.kernels.rounding import round_randomly


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_random_rounding_keeps_the_mean_and_moves_by_one_step(dtype):
    n = 100_000
    exact = torch.tensor([1.0003, -1.0003, 0.0301, -3.7e-3, 2.0, 0.0])
    chance = torch.rand(n, len(exact), generator=torch.Generator().manual_seed(0))
    rounded = round_randomly(exact.expand(n, -1), dtype, chance).double()
    step = torch.finfo(dtype).eps * exact.abs().double()
    # The mean of n roundings, each within one step: four standard deviations.
    assert ((rounded.mean(0) - exact).abs() <= 4 * step / (2 * n**0.5) + 1e-12).all()
    assert ((rounded - exact).abs() <= step).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("structure", UNPAIRED)
def test_half_precision_weights_learn_what_float32_weights_learn(dtype, structure):
    ends = {}
    for kind in (dtype, torch.float32):
        layer = nn.Linear(32, 64, bias=False).to(kind)
        nn.init.ones_(layer.weight)
        config = gmixout.GMixout(mask_rate=0.5, **CUTS[structure], block_size=4)
        masked = gmixout.attach(layer, config)
        optimizer = masked.bind(torch.optim.SGD(masked.parameters(), lr=1e-3))
        for _ in range(400):
            (values,) = masked.parameters()
            values.grad = -torch.ones_like(values)
            optimizer.step()
        ends[kind] = masked.detach().weight.detach().double()
    learned = ends[torch.float32].mean() - 1
    assert learned > 0.01
    # 2048 entries, 20 roundings each by at most one step of bfloat16 at 1, 1/128.
    tolerance = 4 * (20 / 4) ** 0.5 / 128 / 2048**0.5
    assert ends[dtype].mean() - 1 == pytest.approx(learned.item(), abs=tolerance)


def test_the_same_seed_rounds_the_same_way():
    ends = []
    for _ in range(2):
        layer = nn.Linear(8, 8).bfloat16()
        nn.init.ones_(layer.weight)
        masked = gmixout.attach(layer, gmixout.GMixout(mask_rate=0.5, resample_every=2))
        optimizer = masked.bind(torch.optim.SGD(masked.parameters(), lr=1e-3))
        for _ in range(20):
            masked.parameters()[0].grad = -torch.ones_like(masked.parameters()[0])
            optimizer.step()
        ends.append(masked.detach().weight.detach())
    assert torch.equal(*ends)
    assert (ends[0] != 1).any()


@pytest.mark.parametrize("biases", ["masked", "held"])
def test_a_bfloat16_model_trains_in_float32_but_for_nothing(biases):
    """The recipe of the README: masked values and the head move by less than bfloat16 resolves."""
    torch.manual_seed(0)
    model = TinyNet().bfloat16()
    model.head.float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    config = gmixout.GMixout(mask_rate=0.5, resample_every=4, biases=biases)
    masked = gmixout.attach(model, config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(1e-5)))
    assert {p.dtype for g in optimizer.param_groups for p in g["params"]} == {torch.float32}
    before = [p.detach().clone() for p in masked.parameters()]
    data = [(images.bfloat16(), labels) for images, labels in batches(3)]
    train(model, optimizer, data)
    assert all((p != old).any() for p, old in zip(masked.parameters(), before, strict=True))
    detached = masked.detach()
    assert detached.hidden.weight.dtype == torch.bfloat16
    assert {type(m) for m in detached.modules()} == {type(m) for m in TinyNet().modules()}
