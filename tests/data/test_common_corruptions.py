"""Against the definitions: slow references in plain loops, and properties that the constants fix.

Kinds that draw are compared with references that draw the same numbers in the published order.
"""

import colorsys
import hashlib
import math
import pickle
from functools import cache
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from official_trees import cut_short
from PIL import Image
from scipy import ndimage
from torch.utils.data import DataLoader

from gmixout.data.common_corruptions import (
    CORRUPTIONS,
    NOTES,
    corrupt,
    corrupted,
    corruption_shifts,
)
from gmixout.data.common_corruptions.blur import disk
from gmixout.data.common_corruptions.constants import (
    CONSTANTS,
    EXTRA_KINDS,
    KINDS,
    SEVERITIES,
    SIZES,
)
from gmixout.data.common_corruptions.filters import smooth, streak, to_array, to_bytes, zoom
from gmixout.data.common_corruptions.spatter import edges, equalised
from gmixout.data.common_corruptions.weather import frost_sheet, plasma
from gmixout.data.images import ImageArray, ImageFiles, LabelSpace
from gmixout.errors import ConfigError, DataError

BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur")
EVERY = [(size, severity) for size in SIZES for severity in SEVERITIES]


def scene(width, height=None, seed=0):
    """Coloured blobs at several scales, as a photograph has them: float32 `[H, W, 3]`."""
    return _scene(width, height or width, seed).copy()


@cache
def _scene(width, height, seed):
    generator = np.random.RandomState(seed)
    shape = (height, width, 3)
    layers = [
        ndimage.gaussian_filter(generator.standard_normal(shape), (s, s, 0)) * s for s in (1, 3, 8)
    ]
    return np.clip(0.5 + 0.4 * sum(layers), 0, 1).astype(np.float32)


def picture(width, height=None, seed=0):
    return Image.fromarray(to_bytes(scene(width, height, seed)))


def flat(level, width=32, height=32):
    return Image.new("RGB", (width, height), level if isinstance(level, tuple) else (level,) * 3)


def levels(image):
    return np.asarray(image, np.int64)


def applied(kind, size, severity, pixels, seed=0):
    """A kind before its result is clipped and cut off to whole levels."""
    constant = CONSTANTS[kind][size][severity - 1]
    return CORRUPTIONS[kind](pixels, constant, np.random.RandomState(seed))


def assert_levels(found, expected, within=1):
    assert np.abs(levels(found) - to_bytes(expected).astype(int)).max() <= within


# --- what holds for every kind ---


def test_the_constants_are_those_that_were_held_against_the_published_programs():
    """A number that is changed by mistake is seen here; one that was wrong is mended with this."""
    text = repr({kind: dict(sizes) for kind, sizes in CONSTANTS.items()})
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "fa0d8ee5a6a3ef19e1190b43c998a841ea533b48b379eb475f1d9863d23ecbf6"
    )


def test_the_kinds_are_imagenet_cs_in_its_order():
    assert tuple(CORRUPTIONS) == KINDS + EXTRA_KINDS
    assert set(CONSTANTS) == set(CORRUPTIONS)
    for sizes in CONSTANTS.values():
        assert set(sizes) == set(SIZES)
        assert {len(constants) for constants in sizes.values()} == {len(SEVERITIES)}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_picture_of_any_shape_keeps_it_and_the_draw_is_the_seeds(kind, rng_untouched):
    for width, height in ((1, 1), (1, 9), (2, 7), (500, 3), (33, 46), (70, 64)):
        clean = picture(width, height)
        before = levels(clean)
        for severity in (1, 3, 5):
            for size in SIZES if width * height < 500 else (None,):
                with rng_untouched():
                    found = corrupt(clean, kind, severity, 3, size)
                    again = corrupt(clean, kind, severity, 3, size)
                assert (found.mode, found.size) == ("RGB", (width, height))
                assert found.tobytes() == again.tobytes()
        assert np.array_equal(levels(clean), before)


DRAWN = set(CORRUPTIONS) - {
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression",
    "gaussian_blur", "saturate",
}  # fmt: skip


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_another_seed_is_another_draw_where_there_is_one(kind):
    clean = picture(64)
    first, other = (corrupt(clean, kind, 3, seed).tobytes() for seed in (0, 1))
    assert (first != other) == (kind in DRAWN)
    assert first != clean.tobytes()


@pytest.mark.parametrize("kind", [*BLURS, "elastic_transform", "pixelate"])
def test_a_picture_of_one_colour_has_nothing_to_blur_or_move(kind):
    for size, severity in EVERY:
        for colour in ((0, 0, 0), (255, 255, 255), (200, 40, 90)):
            found = corrupt(flat(colour), kind, severity, 1, size)
            assert found.tobytes() == flat(colour).tobytes()


@pytest.mark.parametrize(
    "kind", [*BLURS, "elastic_transform", "pixelate", "snow", "fog", "brightness", "contrast"]
)
def test_grey_stays_grey(kind):
    grey = picture(40).convert("L").convert("RGB")
    for size, severity in EVERY:
        found = levels(corrupt(grey, kind, severity, 1, size))
        assert np.ptp(found, axis=2).max() <= 1


MONOTONE = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "zoom_blur", "fog",
    "brightness", "contrast", "pixelate", "jpeg_compression", "speckle_noise", "gaussian_blur",
)  # fmt: skip


@pytest.mark.parametrize("kind", MONOTONE)
@pytest.mark.parametrize("size", SIZES)
def test_a_higher_severity_is_further_from_the_clean_picture(kind, size):
    clean = [picture(size, seed=seed) for seed in range(3)]
    far = [
        sum(np.square(levels(corrupt(p, kind, s, 5)) - levels(p)).mean() for p in clean)
        for s in SEVERITIES
    ]
    assert all(near < further for near, further in pairwise([0, *far]))


def test_levels_are_cut_off_but_a_whole_one_stays():
    whole = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_bytes(whole.astype(np.float32) / 255), whole)
    assert np.array_equal(to_bytes((whole[:-1] + 0.9) / 255), whole[:-1])
    assert to_bytes(np.array([-0.3, 1.2])).tolist() == [0, 255]


# --- which constants ---


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(32, 32, 32), (45, 90, 32), (90, 46, 64), (96, 96, 64), (300, 119, 64), (120, 300, 224),
     (224, 224, 224), (640, 480, 224), (1, 500, 32)],
)  # fmt: skip
def test_constants_are_those_of_the_published_size_nearest_to_the_short_side(width, height, size):
    clean = picture(width, height)
    by_size = {one: corrupt(clean, "gaussian_noise", 5, 0, one).tobytes() for one in SIZES}
    assert corrupt(clean, "gaussian_noise", 5, 0).tobytes() == by_size[size]
    assert len(set(by_size.values())) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("blur", 1, 0), r"kind='blur' must be one of: gaussian_noise, .*saturate"),
        (("fog", 0, 0), r"severity=0 must be one of: 1, 2, 3, 4, 5"),
        (("fog", 6, 0), r"severity=6"),
        (("fog", 2.5, 0), r"severity=2\.5"),
        (("fog", 1, -1), r"seed=-1 must be 0 to 2\*\*32 - 1"),
        (("fog", 1, 0, 96), r"size=96 must be one of: 32, 64, 224, None"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        corrupt(flat(9), *arguments)


# --- noise ---


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_noise_has_the_mean_and_variance_of_its_definition(size, severity):
    grey = np.full((150, 150, 3), 0.4, np.float32)
    photons = CONSTANTS["shot_noise"][size][severity - 1]
    variances = {
        "gaussian_noise": CONSTANTS["gaussian_noise"][size][severity - 1] ** 2,
        "shot_noise": 0.4 / photons,
        "speckle_noise": (0.4 * CONSTANTS["speckle_noise"][size][severity - 1]) ** 2,
    }
    for kind, variance in variances.items():
        noise = applied(kind, size, severity, grey) - grey
        assert abs(noise.mean()) < 5 * math.sqrt(variance / noise.size)
        assert abs(noise.var() / variance - 1) < 5 * math.sqrt(2.5 / noise.size)
        channels = np.corrcoef(noise.reshape(-1, 3).T)
        assert np.abs(channels - np.eye(3)).max() < 5 / 150
    counts = applied("shot_noise", size, severity, scene(40)) * photons
    assert np.allclose(counts, np.rint(counts))


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_impulse_noise_loses_its_share_of_values_half_of_them_to_white(size, severity):
    share = CONSTANTS["impulse_noise"][size][severity - 1]
    clean = 0.2 + 0.6 * scene(150)
    found = applied("impulse_noise", size, severity, clean)
    assert set(np.unique(found[found != clean])) == {0, 1}
    white, black = (found == 1).mean(), (found == 0).mean()
    for part in (white, black):
        assert abs(part - share / 2) < 5 * math.sqrt(share / 2 / clean.size)


def test_severities_share_the_draw():
    """What differs between two severities is then the strength alone."""
    grey = np.full((20, 20, 3), 0.5, np.float32)
    for kind in ("gaussian_noise", "speckle_noise"):
        weak, strong = (applied(kind, 64, severity, grey) - 0.5 for severity in (1, 5))
        assert np.allclose(strong / weak, np.median(strong / weak))


# --- blur ---


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_the_defocus_kernel_is_a_disk_with_a_sum_of_one(size, severity):
    radius, deviation = CONSTANTS["defocus_blur"][size][severity - 1]
    kernel = disk(radius, deviation)
    reach = len(kernel) // 2
    distance = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    assert np.isclose(kernel.sum(), 1)
    assert np.allclose(kernel, kernel.T)
    assert np.allclose(kernel, kernel[::-1, ::-1])
    edge = 2.9 if radius > 8 else 1.5
    assert np.all(kernel[distance > radius + edge] < 1e-12)
    inside = kernel[distance <= radius - edge]
    assert np.allclose(inside, inside.max(initial=0))


@pytest.mark.parametrize("size", SIZES)
def test_defocus_is_the_mean_under_the_kernel_mirrored_at_the_edges(size):
    clean = scene(13, 9)
    kernel = disk(*CONSTANTS["defocus_blur"][size][1])
    expected = ndimage.correlate(clean, kernel[..., None], mode="mirror")
    assert np.allclose(applied("defocus_blur", size, 2, clean), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_gaussian_blur_spreads_a_point_by_its_deviation(size, severity):
    deviation = CONSTANTS["gaussian_blur"][size][severity - 1]
    point = np.zeros((81, 81, 3), np.float32)
    point[40, 40] = 1
    spread = applied("gaussian_blur", size, severity, point)[..., 0]
    weights = np.exp(-((np.arange(-40, 41) / deviation) ** 2) / 2)
    weights[np.abs(np.arange(-40, 41)) > int(4 * deviation + 0.5)] = 0
    weights /= weights.sum()
    assert np.allclose(spread, np.outer(weights, weights), atol=1e-6)


def test_gaussian_blur_sees_the_pixels_of_the_edge_go_on():
    clean = scene(20, 12)
    longer = np.pad(clean, ((24, 24), (24, 24), (0, 0)), mode="edge")
    inside = applied("gaussian_blur", 224, 5, longer)[24:-24, 24:-24]
    assert np.allclose(applied("gaussian_blur", 224, 5, clean), inside, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-180, 180),
    st.integers(1, 20),
    st.floats(0.5, 15),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_a_streak_is_the_weighted_mean_along_the_ray(angle, radius, deviation, height, width):
    clean = scene(width, height)
    expected, total = np.zeros((height, width, 3)), 0.0
    for step in range(2 * radius + 1):
        weight = math.exp(-(step**2) / (2 * deviation**2))
        total += weight
        right = math.ceil(step * math.cos(math.radians(angle)) - 0.5)
        down = math.ceil(step * math.sin(math.radians(angle)) - 0.5)
        for y in range(height):
            for x in range(width):
                row, column = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
                expected[y, x] += weight * clean[row, column]
    assert np.allclose(streak(clean, radius, deviation, angle), expected / total, atol=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", SIZES)
def test_motion_blur_is_a_streak_within_45_degrees(size, severity):
    clean, seed = scene(30, 20), severity
    angle = np.random.RandomState(seed).uniform(-45, 45)
    expected = streak(clean, *CONSTANTS["motion_blur"][size][severity - 1], angle)
    found = applied("motion_blur", size, severity, clean, seed)
    assert np.allclose(found, expected, atol=0.51 / 255)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", SIZES)
def test_glass_blur_is_the_published_loop(size, severity):
    """The swap of two views of an array, one pixel after the other, from the last to the first."""
    deviation, reach, times = CONSTANTS["glass_blur"][size][severity - 1]
    clean = picture(24, 17)
    generator = np.random.RandomState(7)
    pixels = to_bytes(smooth(to_array(clean), deviation))
    for _ in range(times):
        for row in range(17 - reach, reach, -1):
            for column in range(24 - reach, reach, -1):
                right, down = generator.randint(-reach, reach, size=2)
                here, there = pixels[row, column], pixels[row + down, column + right]
                here[:], there[:] = there, here
    expected = smooth(pixels.astype(np.float32) / 255, deviation)
    assert_levels(corrupt(clean, "glass_blur", severity, 7, size), expected, within=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(1, 4.5))
@example(3, 30, 1.875)
def test_zoom_is_the_middle_enlarged_between_its_corner_pixels(height, width, factor):
    clean = scene(width, height)[..., 0]
    kept = [math.ceil(side / factor) for side in clean.shape]
    start = [(side - keep) // 2 for side, keep in zip(clean.shape, kept, strict=True)]
    middle = clean[start[0] : start[0] + kept[0], start[1] : start[1] + kept[1]]
    # in its default mode a corner that rounding puts just outside would be 0
    large = ndimage.zoom(middle, factor, order=1, mode="nearest")
    start = [(have - side) // 2 for have, side in zip(large.shape, clean.shape, strict=True)]
    expected = large[start[0] : start[0] + height, start[1] : start[1] + width]
    found = zoom(torch.from_numpy(clean)[None, None], factor)[0, 0].numpy()
    assert found.shape == (height, width)
    assert np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_zoom_blur_is_the_mean_over_the_factors(size, severity):
    end, step = CONSTANTS["zoom_blur"][size][severity - 1]
    clean = torch.from_numpy(scene(30))
    factors = np.arange(1, end, step)
    planes = clean.permute(2, 0, 1)[None]
    together = torch.stack([planes, *(zoom(planes, factor) for factor in factors)])
    expected = together.mean(0)[0].permute(1, 2, 0).numpy()
    assert np.allclose(applied("zoom_blur", size, severity, clean.numpy()), expected, atol=1e-5)


# --- weather ---


def slow_plasma(side, decay, generator):
    """Diamond-square point by point, on the full grid; draws of a round in the published order."""
    heights, step, wobble = np.zeros((side, side)), side, 100.0

    def place(rows, columns, neighbours):
        draws = generator.uniform(-wobble, wobble, (len(rows), len(columns)))
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                around = [heights[(row + y) % side, (column + x) % side] for y, x in neighbours]
                heights[row, column] = sum(around) / 4 + wobble * draws[i, j]

    while step >= 2:
        half = step // 2
        even, odd = range(0, side, step), range(half, side, step)
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        place(odd, odd, [(y, x) for y in (-half, half) for x in (-half, half)])
        place(even, odd, cross)
        place(odd, even, cross)
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return heights / heights.max()


@pytest.mark.parametrize(("side", "decay"), [(2, 3), (8, 1.4), (16, 2), (32, 1.75)])
def test_plasma_is_diamond_square(side, decay):
    found = plasma(side, decay, np.random.RandomState(2))
    assert np.allclose(found, slow_plasma(side, decay, np.random.RandomState(2)))


def test_plasma_fills_the_range_and_is_rougher_the_slower_it_decays():
    rough = []
    for decay in (1.4, 1.75, 2, 3):
        maps = [plasma(50, decay, np.random.RandomState(seed)) for seed in range(5)]
        assert all((one.shape, one.min(), one.max()) == ((64, 64), 0, 1) for one in maps)
        rough.append(np.mean([np.abs(np.diff(one)).mean() for one in maps]))
    assert rough == sorted(rough, reverse=True)


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_fog_adds_a_plasma_and_keeps_the_brightest_value(size, severity):
    thickness, decay = CONSTANTS["fog"][size][severity - 1]
    clean = 0.8 * scene(40, 30)
    mist = plasma(40, decay, np.random.RandomState(0))[:30, :40, None]
    found = applied("fog", size, severity, clean)
    assert np.allclose(found * (clean.max() + thickness), (clean + thickness * mist) * clean.max())
    assert found.max() <= clean.max() + 1e-6
    assert levels(corrupt(flat(0), "fog", severity, 0, size)).max() == 0


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_snow_is_falling_flakes_over_a_whiter_picture(size, severity):
    keep = CONSTANTS["snow"][size][severity - 1][-1]
    clean = scene(64)
    black = np.zeros_like(clean)
    flakes = applied("snow", size, severity, black) - (1 - keep) * 0.5
    assert np.allclose(flakes, flakes[::-1, ::-1], atol=1e-6)  # flakes fall twice, once upside down
    assert flakes.min() >= -1e-6
    assert flakes.max() > 0
    # a streak by at most 45 degrees from straight down changes least in that direction
    plane = flakes[..., 0]
    assert np.abs(np.diff(plane, axis=0)).sum() < np.abs(np.diff(plane, axis=1)).sum()
    grey = (clean @ (0.299, 0.587, 0.114))[..., None]
    white = keep * clean + (1 - keep) * np.maximum(clean, 1.5 * grey + 0.5)
    assert np.allclose(applied("snow", size, severity, clean), white + flakes, atol=1e-5)


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_frost_is_some_picture_and_some_frost(size, severity):
    keep, add, shrink = CONSTANTS["frost"][size][severity - 1]
    clean = scene(40, 30)
    found = applied("frost", size, severity, clean, 4)
    sheet = frost_sheet(30, 40, shrink, np.random.RandomState(4))
    assert np.allclose(found, keep * clean + add * sheet)


@pytest.mark.parametrize(("side", "shrink"), [(32, 0.2), (64, 0.3), (224, 1)])
def test_frost_is_as_bright_and_uneven_as_the_photographs(side, shrink):
    sheets = [frost_sheet(side, side, shrink, np.random.RandomState(seed)) for seed in range(12)]
    means = np.array([sheet.mean() for sheet in sheets])
    spread = np.array([sheet.mean(axis=2).std() for sheet in sheets])
    assert np.all((means > 100 / 255) & (means < 215 / 255))
    assert np.ptp(means) > 0.1
    assert np.all((spread > 13 / 255) & (spread < 37 / 255))


def by_colour(change, pixels):
    """A function of hue, saturation and value applied pixel by pixel by the standard library."""
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*one))) for one in pixels]
    return np.array(changed)


def colours():
    """Many colours, and the corners: black, white, greys, pure ones."""
    corners = np.array(np.meshgrid(*[(0, 0.5, 1)] * 3)).reshape(3, -1).T
    return np.concatenate([corners, np.random.RandomState(0).random_sample((200, 3))])


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_brightness_and_saturate_change_value_and_saturation_alone(size, severity):
    pixels = colours()
    lift = CONSTANTS["brightness"][size][severity - 1]
    factor, addend = CONSTANTS["saturate"][size][severity - 1]
    for kind, change in (
        ("brightness", lambda h, s, v: (h, s, min(v + lift, 1))),
        ("saturate", lambda h, s, v: (h, min(s * factor + addend, 1), v)),
    ):
        found = applied(kind, size, severity, pixels[None].astype(np.float32))[0]
        assert np.allclose(found, by_colour(change, pixels), atol=1e-4)


# --- digital ---


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_contrast_scales_the_distance_to_each_channels_mean(size, severity):
    share = CONSTANTS["contrast"][size][severity - 1]
    clean = scene(40) * (1, 0.7, 0.3)
    found = applied("contrast", size, severity, clean.astype(np.float32))
    assert np.allclose(found.mean((0, 1)), clean.mean((0, 1)))
    assert np.allclose(found - found.mean((0, 1)), share * (clean - clean.mean((0, 1))), atol=1e-6)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", SIZES)
def test_elastic_is_an_affine_map_of_three_corners_then_a_smooth_displacement(size, severity):
    amplitude, deviation, jitter = CONSTANTS["elastic_transform"][size][severity - 1]
    height, width = 54, 66
    clean, generator = scene(width, height), np.random.RandomState(9)
    corners = [(width // 2 + x, height // 2 + y) for x, y in ((18, 18), (18, -18), (-18, -18))]
    moved = np.array(corners) + generator.uniform(-jitter, jitter, (3, 2))
    equations = [[*place, 1, 0, 0, 0] for place in moved] + [
        [0, 0, 0, *place, 1] for place in moved
    ]
    targets = [x for x, _ in corners] + [y for _, y in corners]
    to_x, to_y = np.split(np.linalg.solve(equations, targets), 2)
    down, across = np.mgrid[:height, :width]

    def pulled(image, rows, columns, mode):
        planes = [
            ndimage.map_coordinates(image[..., c], [rows, columns], order=1, mode=mode)
            for c in range(3)
        ]
        return np.stack(planes, axis=-1)

    columns, rows = (a * across + b * down + c for a, b, c in (to_x, to_y))
    expected = pulled(clean, rows, columns, "mirror")
    if amplitude:
        shift = [
            amplitude * ndimage.gaussian_filter(draw, deviation, mode="reflect", truncate=3)
            for draw in (generator.uniform(-1, 1, (height, width)) for _ in range(2))
        ]
        expected = pulled(expected, down + shift[1], across + shift[0], "reflect")
    assert np.allclose(applied("elastic_transform", size, severity, clean, 9), expected, atol=2e-3)


@pytest.mark.parametrize("side", [4, 20, 64])
def test_pixelate_by_half_is_the_mean_of_four(side):
    clean = picture(side, side + 2)
    found = levels(corrupt(clean, "pixelate", 5, 0, 64))
    fours = levels(clean).reshape((side + 2) // 2, 2, side // 2, 2, 3).mean((1, 3))
    # Pillow rounds after the rows and after the columns
    assert np.abs(found - fours.repeat(2, 0).repeat(2, 1)).max() <= 1


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_pixelate_reduces_to_its_share_by_box_and_back(size, severity):
    share = CONSTANTS["pixelate"][size][severity - 1]
    clean = picture(50, 37)
    small = clean.resize((int(50 * share), int(37 * share)), Image.Resampling.BOX)
    expected = small.resize((50, 37), Image.Resampling.BOX)
    assert corrupt(clean, "pixelate", severity, 0, size).tobytes() == expected.tobytes()


@pytest.mark.parametrize(("size", "severity"), EVERY)
def test_jpeg_is_stored_at_the_quality(size, severity):
    clean, stored = picture(50, 37), BytesIO()
    clean.save(stored, "JPEG", quality=CONSTANTS["jpeg_compression"][size][severity - 1])
    found = corrupt(clean, "jpeg_compression", severity, 0, size)
    assert found.tobytes() == Image.open(stored).tobytes()


# --- spatter ---


@pytest.mark.parametrize("size", SIZES)
def test_water_lightens_and_mud_covers(size):
    clean = picture(96)
    mud = np.array([63, 42, 20])
    for severity, (*_, muddy) in zip(SEVERITIES, CONSTANTS["spatter"][size], strict=True):
        found = levels(corrupt(clean, "spatter", severity, 1, size)).astype(float)
        changed = np.any(found != levels(clean), axis=2)
        assert 0.001 < changed.mean() < 0.5
        if muddy:
            # at least 0.8 of what is there is mud, and nothing else changes
            cover = found[changed] - mud
            assert np.all(np.abs(cover) <= 0.2 * np.abs(levels(clean)[changed] - mud) + 2)
        else:
            assert np.all(found >= levels(clean) - 1)


def test_without_a_drop_the_picture_stays():
    dry = (0.1, 0.01, 1, 0.9, 0.6, False)
    clean = scene(20)
    assert np.array_equal(CORRUPTIONS["spatter"](clean, dry, np.random.RandomState(0)), clean)


def test_edges_are_where_a_step_is_and_a_weak_one_counts_only_beside_a_strong_one():
    step = np.zeros((20, 30), np.uint8)
    step[:, 15:] = 200
    found = edges(step, 50, 150)
    assert found.any(axis=1).all()
    assert found.sum() == 20  # one pixel thick
    assert set(np.flatnonzero(found.any(axis=0))) <= {14, 15}
    assert not edges(step // 8, 50, 150).any()
    faint = step // 8  # a gradient of 100: between the thresholds
    faint[:8] = step[:8]
    assert edges(faint, 50, 150).any(axis=1).all()
    assert not edges(np.zeros((5, 5), np.uint8), 50, 150).any()


def test_a_slanted_edge_is_one_line():
    slope = np.fromfunction(lambda y, x: np.where(x > y, 220, 0), (20, 20)).astype(np.uint8)
    found = edges(slope, 50, 150)
    _, count = ndimage.label(found, np.ones((3, 3)))
    assert count == 1
    assert np.abs(np.subtract(*np.nonzero(found))).max() <= 1
    assert found.sum() >= 18


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=80))
def test_equalising_keeps_the_order_and_spreads_by_rank(values):
    given_levels = np.array(values, np.uint8)[None]
    found = equalised(given_levels)[0].astype(int)
    if len(set(values)) == 1:
        assert found.tolist() == values
        return
    lowest = values.count(min(values))
    for value, new in zip(values, found, strict=True):
        above = sum(other <= value for other in values) - lowest
        assert abs(new - 255 * above / (len(values) - lowest)) <= 0.5 + 1e-9


# --- sets of images ---


def to_tensor(image):
    """A transform that workers can be sent."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture
def clean():
    pixels = np.stack([levels(picture(32, seed=seed)) for seed in range(6)]).astype(np.uint8)
    images = ImageArray(pixels, [0, 1, 2, 0, 1, 2], "six pictures")
    images.groups = torch.tensor([5, 4, 3, 2, 1, 0])
    images.space = LabelSpace(("a", "b", "c"), ((0,), (1,), (2,)))
    return images


def drawn(images):
    return [images.picture(index).tobytes() for index in range(len(images))]


def test_a_corrupted_set_has_the_same_examples(clean):
    found = corrupted(clean.transformed(to_tensor), "shot_noise", 3)
    assert len(found) == 6
    assert found.labels.tolist() == clean.labels.tolist()
    assert found.groups.tolist() == clean.groups.tolist()
    assert found.space is clean.space
    pixels, label = found[4]
    assert label == 1
    assert torch.equal(pixels, to_tensor(found.picture(4)))
    assert not torch.equal(pixels, to_tensor(clean.picture(4)))
    assert found.transformed(lambda image: image.size)[0] == ((32, 32), 0)


def test_a_subset_or_another_order_has_the_same_pictures(clean):
    every = drawn(corrupted(clean, "snow", 2))
    for order in ([4, 1], [5, 4, 3, 2, 1, 0]):
        expected = [every[index] for index in order]
        assert drawn(corrupted(clean.subset(order), "snow", 2)) == expected
        assert drawn(corrupted(clean, "snow", 2).subset(order)) == expected
    part = corrupted(clean.subset([4, 1, 2]), "snow", 2).subset([2, 0])
    assert part.labels.tolist() == [2, 1]
    assert part.groups.tolist() == [3, 1]


def test_each_image_seed_and_kind_has_a_draw_of_its_own(clean):
    pixels = np.full((2, 16, 16, 3), 128, np.uint8)
    same = ImageArray(pixels, [0, 0], "two of a kind")
    first, second = drawn(corrupted(same, "gaussian_noise", 3))
    assert first != second
    assert drawn(corrupted(same, "gaussian_noise", 3, seed=1))[0] not in (first, second)
    assert drawn(corrupted(same, "gaussian_noise", 3, seed=0)) == [first, second]
    noise, speckle = (
        levels(corrupted(same, kind, 5).picture(0)) - 128.0
        for kind in ("gaussian_noise", "speckle_noise")
    )
    assert abs(np.corrcoef(noise.ravel(), speckle.ravel())[0, 1]) < 0.2


def test_severities_of_a_set_share_the_draw():
    grey = ImageArray(np.full((1, 16, 16, 3), 128, np.uint8), [0], "grey")
    weak, strong = (
        levels(corrupted(grey, "gaussian_noise", severity).picture(0)).ravel() - 128.0
        for severity in (4, 5)
    )
    assert np.corrcoef(weak, strong)[0, 1] > 0.99


def test_workers_read_what_one_reader_reads(clean):
    found = corrupted(clean.subset([5, 0, 3]), "elastic_transform", 4).transformed(to_tensor)
    sent = pickle.loads(pickle.dumps(found))
    loader = DataLoader(sent, batch_size=2, num_workers=2)
    pixels = torch.cat([batch for batch, _ in loader])
    assert torch.equal(pixels, torch.stack([found[index][0] for index in range(3)]))


def test_a_broken_image_is_named_and_can_be_left_out(tmp_path):
    for number in range(3):
        picture(20, seed=number).save(tmp_path / f"{number}.png")
    cut_short(tmp_path / "1.png")
    found = corrupted(ImageFiles(tmp_path, [f"{n}.png" for n in range(3)], range(3)), "fog", 1)
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        found[1]
    kept = found.without_broken()
    assert kept.labels.tolist() == [0, 2]
    assert [name[-5:] for name in kept.broken] == ["1.png"]
    assert corrupted(kept, "snow", 1).broken == kept.broken


def test_a_large_picture_is_first_reduced_as_for_imagenet_c():
    for (width, height), expected in {
        (600, 512): (300, 256),
        (300, 256): (300, 256),
        (257, 1000): (256, 996),
    }.items():
        one = ImageArray(np.asarray(picture(width, height))[None], [0], "one")
        assert corrupted(one, "contrast", 1).picture(0).size == expected
        assert corrupt(picture(width, height), "contrast", 1, 0).size == (width, height)


def test_one_corruption_goes_over_another(clean):
    twice = corrupted(corrupted(clean, "pixelate", 5), "contrast", 2)
    expected = corrupt(corrupt(clean.picture(1), "pixelate", 5, 0), "contrast", 2, 0)
    assert twice.picture(1).tobytes() == expected.tobytes()


def test_a_size_may_be_chosen_for_a_set(clean):
    found = corrupted(clean, "contrast", 5, size=224).picture(0)
    assert found.tobytes() == corrupt(clean.picture(0), "contrast", 5, 0, size=224).tobytes()
    assert found.tobytes() != corrupted(clean, "contrast", 5).picture(0).tobytes()


@pytest.mark.parametrize(
    ("kinds", "names"), [("common", KINDS), ("extra", EXTRA_KINDS), ("all", KINDS + EXTRA_KINDS)]
)
def test_shifts_are_called_by_kind_and_severity(clean, kinds, names):
    shifts = corruption_shifts(clean, kinds)
    assert list(shifts) == [f"{kind}/{severity}" for kind in names for severity in SEVERITIES]
    chosen = corruption_shifts(clean, kinds, severities=(2, 5), seed=3)
    assert list(chosen) == [f"{kind}/{severity}" for kind in names for severity in (2, 5)]
    name = f"{names[0]}/5"
    again = corrupted(clean, names[0], 5, seed=3)
    assert chosen[name].picture(2).tobytes() == again.picture(2).tobytes()
    assert shifts[name].picture(2).tobytes() != again.picture(2).tobytes()


def test_wrong_shifts_are_refused_before_anything_is_read(clean):
    with pytest.raises(ConfigError, match="kinds='noise' must be one of: common, extra, all"):
        corruption_shifts(clean, "noise")
    with pytest.raises(ConfigError, match="severity=7"):
        corruption_shifts(clean, severities=(1, 7))
    with pytest.raises(ConfigError, match="kind='Fog'"):
        corrupted(clean, "Fog", 1)
    with pytest.raises(ConfigError, match="size=33"):
        corrupted(clean, "fog", 1, size=33)


def test_a_missing_scipy_is_no_broken_image(clean, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(ConfigError, match=r"needs scipy.*pip install 'gmixout\[train\]'"):
        corrupted(clean, "fog", 1)


def test_the_notes_say_that_frost_is_not_the_published_kind():
    assert any("frost" in note and "not the published" in note for note in NOTES)
