"""Blending is torchvision's mixup and CutMix, bit for bit, and keeps what targets must be."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from gmixout.data.batch import Batch
from gmixout.draws import draws_of
from gmixout.regularizers import REGULARIZERS
from gmixout.regularizers.blending import anyone, blend, next_one
from gmixout.regularizers.mixing import mixing

SIZE, SEED = 5, 7
MIXERS = {
    "mixup": (
        REGULARIZERS["mixup"](concentration=0.4),
        lambda: v2.MixUp(alpha=0.4, num_classes=SIZE),
    ),
    "cutmix": (
        REGULARIZERS["cutmix"](concentration=1.0),
        lambda: v2.CutMix(alpha=1.0, num_classes=SIZE),
    ),
}


class Drawing:
    """A step whose draws follow from its number."""

    def __init__(self, number):
        self.number, self.steps, self.passes = number, 100, 0

    def draws(self, kind):
        return draws_of(SEED, kind, self.number)


def a_batch(dtype=torch.float32, size=SIZE):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(size, 3, 9, 12, generator=generator, dtype=dtype)
    return Batch(images, torch.randint(4, (size,), generator=generator))


@pytest.mark.parametrize("name", MIXERS)
def test_it_is_torchvision_bit_for_bit(name, rng_untouched):
    ours, theirs = MIXERS[name]
    batch, differ = a_batch(), set()
    with rng_untouched():
        for number in range(50):
            mixed = ours.batch(batch, Drawing(number))
            with draws_of(SEED, name, number):
                images, shares = theirs()(batch.images, torch.arange(SIZE))
            assert torch.equal(mixed.images, images)
            assert torch.equal(mixed.shares, shares)
            differ.add(tuple(shares.flatten().tolist()))
    assert len(differ) > 15


@pytest.mark.parametrize("alphas", [{"mixup": 0.4, "cutmix": 1.0}, {"mixup": 0.4, "cutmix": 0.0}])
def test_both_take_turns_as_in_torchvision(alphas):
    """What `--mixup` and `--cutmix` have done since they are there."""
    makers = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    ways = [makers[n](alpha=a, num_classes=SIZE) for n, a in alphas.items() if a]
    batch, blended = a_batch(), []
    for number in range(40):
        mixed = mixing(**alphas).batch(batch, Drawing(number))
        with draws_of(SEED, "batch", number):
            images, shares = v2.RandomChoice(ways)(batch.images, torch.arange(SIZE))
        assert torch.equal(mixed.images, images)
        assert torch.equal(mixed.shares, shares)
        linear = torch.einsum("ij,jchw->ichw", shares, batch.images)
        blended.append(torch.allclose(linear, mixed.images))
    assert (10 < sum(blended) < 30) if alphas["cutmix"] else all(blended)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 6),
    st.floats(0, 1),
    st.integers(0, 2**31),
    st.sampled_from(["one", "each", "mask"]),
)
def test_targets_stay_distributions(size, share, seed, kind):
    batch = a_batch(torch.float64, size)
    torch.manual_seed(seed)
    partners = anyone(batch)
    if kind == "one":
        mixed = blend(batch, partners, share)
    elif kind == "each":
        mixed = blend(batch, partners, torch.rand(size, dtype=torch.float64))
    else:
        mask = (torch.rand(size, 1, 9, 12) < share).double()
        mixed = blend(batch, partners, mask, of=mask.mean((1, 2, 3)))
    twice = blend(mixed, next_one(mixed), share)
    for each in (mixed, twice):
        torch.testing.assert_close(each.shares.sum(1), torch.ones(size, dtype=torch.float64))
        assert (each.shares >= 0).all()
        targets = each.targets(4)
        torch.testing.assert_close(targets.sum(1), torch.ones(size, dtype=torch.float64))
    if kind != "mask":
        expected = torch.einsum("ij,jchw->ichw", twice.shares, batch.images)
        torch.testing.assert_close(twice.images, expected)
    assert torch.equal(batch.labels, mixed.labels)


def test_a_share_of_1_changes_nothing_and_one_class_stays_itself():
    batch = a_batch()
    whole = blend(batch, next_one(batch), 1.0)
    assert torch.equal(whole.images, batch.images)
    assert torch.equal(whole.targets(4), batch.targets(4))
    same = Batch(batch.images, torch.full_like(batch.labels, 2))
    torch.testing.assert_close(blend(same, next_one(same), 0.3).targets(4), same.targets(4))


def test_the_second_batch_of_regmixup_follows_from_the_step(rng_untouched):
    class Seen:
        batch = a_batch()

    def second(number):
        seen = []

        class Passing(Drawing):
            def forward(self, batch):
                seen.append(batch)
                return SimpleNamespace(mean=lambda: torch.ones(()))

        assert REGULARIZERS["regmixup"](weight=0.3).term(Seen(), Passing(number)) == 0.3
        return seen[0]

    with rng_untouched():
        first, again, other = second(1), second(1), second(2)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    linear = torch.einsum("ij,jchw->ichw", first.shares, Seen.batch.images)
    torch.testing.assert_close(first.images, linear)
