"""The mean over masks: of Phi when rescaling, of the final model when not."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tiny import CUTS, UNPAIRED, masked_copy
from torch import nn

from gmixout import GMixout

SHAPE, PERIODS = (4, 12), 1000


@pytest.mark.parametrize("structure", UNPAIRED)
def test_rescaling_is_unbiased(structure):
    """The mean of Phi over masks is A + D."""
    shape, periods, rate = SHAPE, PERIODS, 0.75
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False).double())
    config = GMixout(
        mask_rate=rate, anchor_decay=1.0, resample_every=1, **CUTS[structure], block_size=2,
        rescale=True, residual="persist",
    )  # fmt: skip
    anchor = model[0].weight.detach().clone()
    model, masked = masked_copy(model, config, head=())
    optimizer = masked.bind(torch.optim.SGD(masked.parameters(), lr=1.0))
    generator = torch.Generator().manual_seed(0)
    # Two hundred steps of any gradient reach every entry; from then on a rate of zero keeps D.
    for _ in range(200):
        (model[0].weight * torch.randn(shape, generator=generator)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.param_groups[0]["lr"] = 0.0
    total, squares = torch.zeros_like(anchor), torch.zeros_like(anchor)
    for _ in range(periods):
        phi = model.state_dict()["0.weight"]
        total += phi
        squares += (phi - anchor) ** 2
        for values in masked.parameters():
            values.grad = torch.zeros_like(values)
        optimizer.step()
    whole = masked.detach()[0].weight.detach()
    assert ((whole - anchor) != 0).all()
    mean = total / periods
    error = (squares / periods - (mean - anchor) ** 2).clamp(min=0).sqrt() / periods**0.5
    assert ((mean - whole).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("structure", UNPAIRED)
def test_without_rescaling_the_final_model_is_the_mean_over_masks(structure):
    config = GMixout(
        mask_rate=0.75,
        anchor_decay=1.0,
        resample_every=1,
        **CUTS[structure],
        residual="persist",
        block_size=2,
    )
    model, masked = masked_copy(
        nn.Sequential(nn.Linear(SHAPE[1], SHAPE[0], bias=False).double()), config, head=()
    )
    optimizer = masked.bind(torch.optim.SGD(masked.parameters(), lr=1.0))
    for _ in range(100):
        model[0].weight.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.param_groups[0]["lr"] = 0.0
    phis = []
    for _ in range(PERIODS):
        phis.append(model.state_dict()["0.weight"].clone())
        for values in masked.parameters():
            values.grad = torch.zeros_like(values)
        optimizer.step()
    phis = torch.stack(phis)
    error = phis.std(0) / len(phis) ** 0.5
    assert ((phis.mean(0) - masked.detach()[0].weight).abs() <= 5 * error).all()


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("residual", ["reset", "persist"])
def test_a_weight_of_one_unit_is_trained_whole_and_never_scaled(residual, rescale):
    """Where the least count, one, is everything, nothing is held back: its rate is zero."""
    config = GMixout(
        mask_rate=0.9, residual=residual, rescale=rescale, anchor_decay=0.0, block_size=16,
        structure="block", resample_every=2,
    )  # fmt: skip
    model, masked = masked_copy(nn.Sequential(nn.Linear(8, 8).double()), config, head=())
    plain = nn.Sequential(nn.Linear(8, 8).double())
    plain.load_state_dict(model.state_dict())
    optimizer = masked.bind(
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    )
    reference = torch.optim.SGD(plain.parameters(), lr=0.1)
    x = torch.randn(4, 8, dtype=torch.float64)
    for _ in range(5):
        for module, its_optimizer in ((model, optimizer), (plain, reference)):
            module(x).pow(2).mean().backward()
            its_optimizer.step()
            its_optimizer.zero_grad()
        torch.testing.assert_close(model.state_dict(), plain.state_dict())
    torch.testing.assert_close(masked.detach().state_dict(), plain.state_dict())


ODD = st.tuples(st.integers(1, 13), st.integers(1, 13))
RATES = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.9, 0.99]), st.floats(0, 0.999))


@given(
    shape=ODD,
    rate=RATES,
    structure=st.sampled_from(UNPAIRED),
    rescale=st.booleans(),
    size=st.integers(1, 5),
)
@example(shape=(3, 5), rate=0.9, structure="row", rescale=True, size=1)
@example(shape=(3, 5), rate=0.9, structure="row", rescale=False, size=1)
def test_the_mean_over_masks_is_exact_where_the_count_of_units_is_rounded(
    shape, rate, structure, rescale, size
):
    """Every entry is in the mask equally often: its share of the masks is that of the entries."""
    layer = nn.Linear(shape[1], shape[0], bias=False).double()
    nn.init.uniform_(layer.weight, 1, 2)
    config = GMixout(
        mask_rate=rate, anchor_decay=1.0, **CUTS[structure], block_size=size, rescale=rescale,
        residual="persist", anchor="zero",
    )  # fmt: skip
    model, masked = masked_copy(nn.Sequential(layer), config, head=())
    phi = model.state_dict()["0.weight"]
    share, trained = (phi != 0).double().mean(), phi != 0
    torch.testing.assert_close((share * phi)[trained], masked.snapshot()["0.weight"][trained])
    mean = layer.weight if rescale else share * layer.weight
    torch.testing.assert_close(masked.detach()[0].weight, mean.detach())
