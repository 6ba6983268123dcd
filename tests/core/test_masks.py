import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from gmixout.core.masks import STRUCTURES, count_units, draw, in_groups
from gmixout.kernels.structures import Columns, Rows


def structure(kind, shape, rate=0.0, block_size=4):
    """A name of the table, or with the size of groups behind it."""
    name, _, group = kind.partition(" in ")
    group = {"": 1, "bands": None}.get(group, group)
    return in_groups(STRUCTURES[name](shape, block_size), shape, rate, group and int(group))


def draws(kind, shape, rate, periods, *, seed=0, name="layer.weight", block_size=4):
    cut = structure(kind, shape, rate, block_size)
    count = count_units(cut, shape, rate)
    return [draw(cut, shape, count, seed=seed, name=name, period=p) for p in range(periods)]


SHAPES = {"linear": (30, 20), "conv": (12, 6, 3, 3), "prime": (23, 17), "bias": (60,)}
KINDS = ("element", "row", "column", "block", "longer_side")
GROUPED = ("element in 4", "row in 4", "column in bands", "block in 2", "longer_side in bands")


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.63, 0.9, 0.97])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_a_set_of_constant_size(kind, shape, rate):
    units = structure(kind, shape).units(shape)
    expected = max(1, round((1 - rate) * units))
    for index in draws(kind, shape, rate, periods=20):
        assert index.dtype == torch.int64
        assert len(index) == expected
        assert index.min() >= 0
        assert index.max() < units
        assert (index.diff() > 0).all(), "ascending, so nothing occurs twice"


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", GROUPED)
def test_a_mask_of_groups_is_of_whole_groups_and_of_constant_size(kind, shape, rate):
    """Near the density: no group is larger than what is to be trained, a band hardly."""
    cut = structure(kind, shape, rate)
    units, expected = cut.units(shape), count_units(cut, shape, rate) * cut.group
    assert units % cut.group == 0
    assert abs(expected - (1 - rate) * units) <= max(1, cut.group / 2)
    for index in draws(kind, shape, rate, periods=20):
        assert len(index) == expected
        assert (index.diff() > 0).all()
        groups = index.view(-1, cut.group)
        assert (groups[:, 0] % cut.group == 0).all()
        assert torch.equal(groups, groups[:, :1] + torch.arange(cut.group))
        assert groups.max() < units
    if "bands" not in kind:
        assert cut.group <= max(1, round((1 - rate) * units))


def test_a_band_is_one_stretch_of_the_weight():
    """The widths of a ViT: every draw is a slice, aligned to its own length."""
    for side in (96, 192, 384, 768, 1024, 1152, 1280, 2304, 3072, 4096):
        cut = in_groups(STRUCTURES["row"]((side, 8), 0), (side, 8), 0.9, None)
        assert count_units(cut, (side, 8), 0.9) == 1
        assert 0.08 < cut.group / side < 0.13
        for period in range(5):
            band = draw(cut, (side, 8), 1, seed=0, name="layer.weight", period=period)
            assert band[0] % cut.group == 0
            assert torch.equal(band, band[0] + torch.arange(cut.group))


def test_parts_are_drawn_alike():
    """Queries, keys and values of the same heads."""
    cut = Rows(group=4, parts=3)
    assert cut.choices((96, 5)) == 8
    for period in range(10):
        index = draw(cut, (96, 5), 3, seed=0, name="heads", period=period)
        query, key, value = index.view(3, 12)
        assert torch.equal(key, query + 32)
        assert torch.equal(value, query + 64)
        heads = draw(Rows(), (8,), 3, seed=0, name="heads", period=period)
        assert torch.equal(query.view(3, 4) // 4, heads[:, None].expand(3, 4))


def test_units_are_what_the_structure_says():
    assert structure("element", (30, 20, 3)).units((30, 20, 3)) == 1800
    assert structure("row", (30, 20, 3)).units((30, 20, 3)) == 30
    assert structure("column", (30, 20, 3)).units((30, 20, 3)) == 20
    # 30 = 10 * 3 and 20 = 5 * 4: the largest divisors not above the tile's size of 4
    assert structure("block", (30, 20, 3)).units((30, 20, 3)) == 50


@pytest.mark.parametrize(
    ("shape", "units"),
    [((30, 20, 3), 30), ((20, 30, 3), 30), ((8, 8), 8), ((7,), 7), ((), 1), ((96, 1, 7, 7), 96)],
)
def test_the_longer_side_has_the_most_units_and_a_square_keeps_least(shape, units):
    """Of a square weight the columns: of its input only they are kept for backward."""
    cut = structure("longer_side", shape)
    assert cut.units(shape) == units
    assert isinstance(cut, Rows if shape[:1] > shape[1:2] else Columns)


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
        ("longer_side", (3, 20), 0.8),
        ("row in 4", (24, 3), 0.7),
        ("column in bands", (3, 24), 0.63),
        ("element in 3", (16, 25), 0.63),
    ],
)
def test_every_unit_has_the_same_chance(kind, shape, rate):
    """Standardised counts of inclusion, compared with the normal law they follow for many draws."""
    periods = 1500
    cut = structure(kind, shape, rate)
    units, count = cut.units(shape), count_units(cut, shape, rate) * cut.group
    times = torch.zeros(units, dtype=torch.float64)
    for index in draws(kind, shape, rate, periods):
        times[index] += 1
    chance = count / units
    z = (times - periods * chance) / math.sqrt(periods * chance * (1 - chance))
    # The largest of `units` standard normals passes this bound once in a million runs.
    assert z.abs().max() < NormalDist().inv_cdf(1 - 5e-7 / units)
    # Sum of squares: a degree of freedom a group, or fewer where draws are without replacement.
    assert (z**2).sum() < units + 6 * math.sqrt(2 * units * cut.group)


@pytest.mark.parametrize("kind", KINDS + GROUPED)
def test_units_are_drawn_independently_of_the_period_before(kind):
    """An entry of the last mask is as likely as any other to be in the next one."""
    shape, periods = (40, 40), 1500
    cut = structure(kind, shape, 0.75)
    units, count = cut.units(shape), count_units(cut, shape, 0.75) * cut.group
    masks = [set(i.tolist()) for i in draws(kind, shape, 0.75, periods)]
    overlaps = np.array([len(a & b) for a, b in itertools.pairwise(masks)])
    error = overlaps.std(ddof=1) / math.sqrt(len(overlaps))
    assert abs(overlaps.mean() - count**2 / units) < 5 * error


@pytest.mark.parametrize("kind", [*KINDS, "row in 4", "element in 4"])
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
        cut = structure(kind, shape, 0.75, block_size=2)
        return draw(
            cut, shape, count_units(cut, shape, 0.75), seed=7, name="block.0.weight", period=3
        ).tolist()

    kinds = [*KINDS, "row in 2", "column in bands"]
    assert {kind: one(kind) for kind in kinds} == {
        "element": [3, 5, 9, 12, 16, 21, 24, 29, 32, 38, 41, 45],
        "row": [4, 5],
        "column": [4, 7],
        "block": [4, 7, 9],
        "longer_side": [4, 7],
        "row in 2": [4, 5],
        "column in bands": [4, 5],
    }
