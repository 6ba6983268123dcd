import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gmixout.results.statistics import Estimate, Pooled


def test_spread_has_n_minus_one_in_the_denominator():
    estimate = Estimate.of([0.1, 0.2, 0.6])
    assert estimate.mean == pytest.approx(0.3)
    assert estimate.sd == pytest.approx((((0.2**2) + 0.1**2 + 0.3**2) / 2) ** 0.5)
    assert estimate.n == 3


def test_one_seed_has_no_spread():
    estimate = Estimate.of([0.5])
    assert (estimate.sd, estimate.n, estimate.interval()) == (None, 1, None)


def test_interval_is_that_of_the_t_test():
    values = [0.022, 0.015, 0.029, 0.011]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert Estimate.of(values).interval(0.9) == pytest.approx(tuple(expected))


def test_bootstrap_interval_lies_within_the_values_and_is_the_same_twice():
    estimate = Estimate.of([0.022, 0.015, 0.029, 0.011])
    low, high = estimate.bootstrap()
    assert 0.011 <= low < estimate.mean < high <= 0.029
    assert estimate.bootstrap() == (low, high)
    assert Estimate.of([0.5]).bootstrap() is None


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    trials, n = 200, 20
    covered = 0
    for _ in range(trials):
        low, high = Estimate.of(generator.normal(size=n)).bootstrap()
        covered += low <= 0 <= high
    sd = (0.95 * 0.05 / trials) ** 0.5
    assert abs(covered / trials - 0.95) < 4 * sd  # percentile intervals cover a little less


@pytest.mark.parametrize(
    ("values", "significant"),
    [
        ([0.02, 0.021, 0.019], True),
        ([-0.02, -0.021, -0.019], True),
        ([0.02, -0.01, 0.03], False),  # by either interval
        ([0.001, 0.05, 0.03], False),  # by Student's alone: no value is below 0
        ([0.5], False),
        ([0.01, 0.01], False),  # two seeds may well agree to an image
        ([0.01, 0.01, 0.01], True),
    ],
)
def test_a_difference_is_significant_when_no_interval_reaches_zero(values, significant):
    assert Estimate.of(values).significant is significant


values = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=5)


@given(values)
def test_one_benchmark_has_students_interval(some):
    estimate = Estimate.of(some)
    assert Pooled({"a": estimate}).interval() == pytest.approx(estimate.interval(), abs=1e-9)
    assert not Pooled({"a": estimate}).significant


@given(st.lists(values, min_size=2, max_size=4), st.floats(0.1, 10), st.floats(-1, 1))
def test_the_interval_moves_and_scales_with_the_differences(samples, scale, shift):
    def pooled(parts):
        return Pooled({str(k): Estimate.of(each) for k, each in enumerate(parts)})

    low, high = pooled(samples).interval()
    moved = pooled([[scale * value + shift for value in each] for each in samples]).interval()
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-6)
    # what differs between benchmarks is no noise of the seeds
    apart = [[value + k for value in each] for k, each in enumerate(samples)]
    width = np.subtract(*pooled(apart).interval())
    assert width == pytest.approx(low - high, abs=1e-6)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    truth = np.array([0.0, 1.0, -2.0, 3.0])
    hits = 0
    for _ in range(1000):
        drawn = generator.normal(truth, 1.0, (3, 4)).T
        seeds = [each[: 3 - k % 3] for k, each in enumerate(drawn)]  # some do not reach a level
        low, high = Pooled({str(k): Estimate.of(each) for k, each in enumerate(seeds)}).interval()
        hits += low <= truth.mean() <= high
    assert 0.92 < hits / 1000 < 0.98  # four standard deviations of 1,000 draws


def test_one_seed_has_no_interval_and_seeds_that_agree_have_a_point():
    one, two = Estimate.of([0.1]), Estimate.of([0.2, 0.2])
    assert Pooled({"a": one, "b": one}).interval() is None
    assert Pooled({"a": two, "b": two}).interval() == (0.2, 0.2)


def test_significance_takes_three_benchmarks_that_agree():
    good, bad = Estimate.of([0.03, 0.031, 0.032]), Estimate.of([-0.05, -0.051, -0.052])
    three = Pooled({"a": good, "b": good, "c": Estimate.of([0.02, 0.021, 0.022])})
    assert three.significant
    assert not Pooled({"a": good, "b": good}).significant
    # far beyond the seeds' noise, and yet another benchmark might say the opposite
    mixed = Pooled({"a": good, "b": good, "c": bad})
    low, high = mixed.interval()
    assert not low <= 0 <= high or math.isclose(mixed.mean, 0)
    assert not mixed.significant
