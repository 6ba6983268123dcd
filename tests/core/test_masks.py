import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from gmixout.core.masks import STRUCTURES, count_units, draw


def structure(kind, block_size=4):
    return STRUCTURES[kind](block_size)


def draws(kind, shape, rate, periods, *, seed=0, name="layer.weight", block_size=4):
    cut = structure(kind, block_size)
    count = count_units(cut, shape, rate)
    return [draw(cut, shape, count, seed=seed, name=name, period=p) for p in range(periods)]


SHAPES = {"linear": (30, 20), "conv": (12, 6, 3, 3), "prime": (23, 17), "bias": (60,)}
KINDS = ("element", "row", "column", "block")


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.63, 0.9, 0.97])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_a_set_of_constant_size(kind, shape, rate):
    units = structure(kind).units(shape)
    expected = max(1, round((1 - rate) * units))
    for index in draws(kind, shape, rate, periods=20):
        assert index.dtype == torch.int64
        assert len(index) == expected
        assert index.min() >= 0
        assert index.max() < units
        assert (index.diff() > 0).all(), "ascending, so nothing occurs twice"


def test_units_are_what_the_structure_says():
    assert structure("element").units((30, 20, 3)) == 1800
    assert structure("row").units((30, 20, 3)) == 30
    assert structure("column").units((30, 20, 3)) == 20
    # 30 = 10 * 3 and 20 = 5 * 4: the largest divisors not above the tile's size of 4
    assert structure("block").units((30, 20, 3)) == 50


@pytest.mark.parametrize(
    ("kind", "shape", "rate"),
    [
        ("element", (16, 25), 0.9),
        ("element", (16, 25), 0.63),  # 1/density no integer: strata of unequal size
        ("element", (7, 11), 0.2),  # strata of one or two entries
        ("element", (13,), 0.77),
        ("row", (20, 3), 0.9),
        ("row", (17, 3), 0.63),
        ("column", (3, 20), 0.8),
        ("block", (12, 12), 0.7),
        ("block", (15, 14), 0.63),
    ],
)
def test_every_unit_has_the_same_chance(kind, shape, rate):
    """Standardised counts of inclusion, compared with the normal law they follow for many draws."""
    periods = 1500
    cut = structure(kind)
    units, count = cut.units(shape), count_units(cut, shape, rate)
    times = torch.zeros(units, dtype=torch.float64)
    for index in draws(kind, shape, rate, periods):
        times[index] += 1
    chance = count / units
    z = (times - periods * chance) / math.sqrt(periods * chance * (1 - chance))
    # The largest of `units` standard normals passes this bound once in a million runs.
    assert z.abs().max() < NormalDist().inv_cdf(1 - 5e-7 / units)
    # Sum of squares: `units` degrees of freedom, or fewer where draws are without replacement.
    assert (z**2).sum() < units + 6 * math.sqrt(2 * units)


@pytest.mark.parametrize("kind", KINDS)
def test_units_are_drawn_independently_of_the_period_before(kind):
    """An entry of the last mask is as likely as any other to be in the next one."""
    cut, shape, periods = structure(kind), (40, 40), 1500
    units, count = cut.units(shape), count_units(cut, shape, 0.75)
    masks = [set(i.tolist()) for i in draws(kind, shape, 0.75, periods)]
    overlaps = np.array([len(a & b) for a, b in itertools.pairwise(masks)])
    error = overlaps.std(ddof=1) / math.sqrt(len(overlaps))
    assert abs(overlaps.mean() - count**2 / units) < 5 * error


@pytest.mark.parametrize("kind", KINDS)
def test_name_seed_and_period_each_change_the_mask(kind):
    shape, rate = (64, 64), 0.5
    (base,) = draws(kind, shape, rate, 1)
    others = [
        draws(kind, shape, rate, 1, name="other.weight")[0],
        draws(kind, shape, rate, 1, seed=1)[0],
        draws(kind, shape, rate, 2)[1],
    ]
    assert torch.equal(base, draws(kind, shape, rate, 1)[0])
    for other in others:
        assert not torch.equal(base, other)


def test_fields_of_the_key_do_not_run_into_each_other():
    shape, rate = (64, 64), 0.5
    assert not torch.equal(
        draws("row", shape, rate, 12, seed=1)[11], draws("row", shape, rate, 2, seed=11)[1]
    )
    assert not torch.equal(
        draws("row", shape, rate, 1, name="1.weight")[0],
        draws("row", shape, rate, 2, name=".weight")[1],
    )


@pytest.mark.parametrize("seed", [-1, 0, 2**31, 2**63, 2**70])
def test_any_integer_is_a_seed(seed):
    assert len(draws("element", (8, 8), 0.5, 1, seed=seed)[0]) == 32


def test_the_mask_function_has_not_changed():
    """Pinned on purpose: a resumed run redraws its masks, so another function would break it."""
    shape = (6, 8)

    def one(kind):
        cut = STRUCTURES[kind](2)
        return draw(
            cut, shape, count_units(cut, shape, 0.75), seed=7, name="block.0.weight", period=3
        ).tolist()

    assert {kind: one(kind) for kind in KINDS} == {
        "element": [3, 5, 9, 12, 16, 21, 24, 29, 32, 38, 41, 45],
        "row": [4, 5],
        "column": [4, 7],
        "block": [4, 7, 9],
    }
