import pytest
import torch

from gmixout.data import glyphs
from gmixout.data.glyphs import (
    DEV_FONTS,
    HELD_OUT_FONTS,
    PRETRAINING_FONTS,
    draw_glyphs,
    render,
    vary,
)
from gmixout.errors import DataError


def family(font):
    return font.removesuffix(".ttf").split("-")[0]


def test_no_family_is_in_two_groups():
    groups = [
        {family(f) for f in fonts} for fonts in (PRETRAINING_FONTS, HELD_OUT_FONTS, DEV_FONTS)
    ]
    assert len(set.union(*groups)) == sum(len(group) for group in groups)
    assert not any(name.startswith("cm") for name in groups[0] | groups[2])


@pytest.mark.parametrize("font", [*PRETRAINING_FONTS, *HELD_OUT_FONTS, *DEV_FONTS])
def test_each_font_draws_ten_whole_and_different_digits(font):
    (ink,) = draw_glyphs((font,))
    assert ink.shape == (10, 56, 56)
    assert len({digit.numpy().tobytes() for digit in ink}) == 10
    for digit in ink:
        assert digit[0].max() == digit[-1].max() == digit[:, 0].max() == digit[:, -1].max() == 0
        high = (digit.amax(1) > 0.5).nonzero()
        assert 38 <= high[-1] - high[0] + 1 <= 42
        assert abs((high[-1] + high[0]).item() / 2 - 27.5) <= 1.5


def test_same_seed_same_images():
    first, same, other = (render(PRETRAINING_FONTS, 5, seed).images for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_variation_goes_both_ways_in_polarity_and_keeps_the_range():
    ink = draw_glyphs(("DejaVuSans.ttf",))[0].repeat(100, 1, 1)
    images = vary(ink, torch.Generator().manual_seed(0))
    assert images.shape == (1000, 1, 28, 28)
    assert images.min() >= 0
    assert images.max() <= 1
    middle, border = images[..., 8:20, 8:20].mean((1, 2, 3)), images[..., :2, :].mean((1, 2, 3))
    inverted = (middle < border).float().mean().item()
    assert 0.1 < inverted < 0.4


def test_a_set_of_a_font_holds_every_font_and_digit_equally():
    data = render(HELD_OUT_FONTS, 10, seed=0)
    assert data.labels.bincount().tolist() == [10] * 10


def test_missing_font_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(glyphs, "font_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"DejaVuSans\.ttf.*reinstall matplotlib"):
        draw_glyphs(("DejaVuSans.ttf",))
