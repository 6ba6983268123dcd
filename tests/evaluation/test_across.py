import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmixout.errors import StateError
from gmixout.evaluation.across import PLACES, Pooled, by_benchmark, compare_across
from gmixout.evaluation.curves import compare_at_matched_id
from gmixout.evaluation.summary import Estimate

SEEDS = (0, 1, 2)
# of each benchmark how easy it is, and by how much the better method is better there
BENCHMARKS = {"from_photo": (0.0, 0.02), "from_art": (-0.3, 0.04), "from_cartoon": (-0.1, 0.03)}


@pytest.fixture
def records(make_record):
    """A trade-off of ID and OOD over three rates, the same in each benchmark but for its place."""
    return [
        make_record(
            benchmark=benchmark,
            method=method,
            lr=lr,
            seed=seed,
            id=0.9 + place + 0.02 * k + 0.001 * seed,
            id_val=0.9 + place + 0.02 * k,
            ood=0.7 + place - 0.05 * k + (better + 0.002 * seed) * (method == "gmixout"),
        )
        for benchmark, (place, better) in BENCHMARKS.items()
        for method in ("full", "gmixout")
        for k, lr in enumerate((1e-4, 3e-4, 1e-3))
        for seed in SEEDS
    ]


def row_of(across, method):
    return next(row for row in across.rows if row.series[0] == method)


def test_differences_are_paired_within_benchmarks_and_averaged_over_them(records):
    across = compare_across(records)
    assert across.benchmarks == sorted(BENCHMARKS)
    row = row_of(across, "gmixout")
    expected = {name: better + 0.002 for name, (_, better) in BENCHMARKS.items()}
    for pooled in (row.at_own_id, *row.at_places):
        assert {name: each.mean for name, each in pooled.parts.items()} == pytest.approx(expected)
        assert pooled.mean == pytest.approx(np.mean(list(expected.values())))
        assert pooled.over_benchmarks.n == 3
        low, high = pooled.interval()
        assert low < pooled.mean < high
    assert row.estimate(lambda record: record.id).mean == pytest.approx(
        0.9 + 0.04 + 0.001 - 0.4 / 3
    )
    full = row_of(across, "full")
    assert full.at_own_id is None
    assert full.at_places == [None] * len(PLACES)
    # each benchmark by itself says the same
    alone = compare_at_matched_id(by_benchmark(records)["from_art"], "full", [0.62])
    (difference,) = alone.differences["gmixout", ""]
    assert row.at_places[1].parts["from_art"].values == pytest.approx(difference.values)
    assert across.id_levels["from_art"][1] == pytest.approx(0.621)


def test_the_order_of_records_says_nothing(records):
    assert compare_across(records[::-1]).benchmarks == compare_across(records).benchmarks
    forth, back = (row_of(compare_across(r), "gmixout") for r in (records, records[::-1]))
    assert forth.at_places[0].mean == pytest.approx(back.at_places[0].mean)


def test_a_benchmark_that_lacks_a_method_or_the_reference_does_not_count(records):
    fewer = [r for r in records if (r.method, r.benchmark) != ("gmixout", "from_art")]
    row = row_of(compare_across(fewer), "gmixout")
    assert set(row.at_own_id.parts) == set(row.chosen) == {"from_photo", "from_cartoon"}
    fewer = [r for r in records if (r.method, r.benchmark) != ("full", "from_art")]
    across = compare_across(fewer)
    row = row_of(across, "gmixout")
    assert set(row.at_own_id.parts) == {"from_photo", "from_cartoon"}
    assert set(row.chosen) == set(BENCHMARKS)
    assert across.id_levels["from_art"] == []
    nobody = row_of(compare_across(records, "lora"), "gmixout")
    assert nobody.at_own_id is None
    assert nobody.at_places == [None] * len(PLACES)


def test_one_rate_of_the_reference_is_one_level(records):
    one = [r for r in records if r.method != "full" or r.lr == 3e-4]
    one = [replace(r, accuracy={**r.accuracy, "id_test": 0.6}) if r.method == "full" else r
           for r in one]  # fmt: skip
    across = compare_across(one)
    assert all(len(set(levels)) == 1 for levels in across.id_levels.values())
    assert len({pooled and pooled.mean for pooled in row_of(across, "gmixout").at_places}) == 1


def test_metrics_that_differ_have_no_mean(records, make_record):
    figures = {name: {"macro_f1": 0.25} for name in make_record().accuracy}
    other = make_record(benchmark="animals", metric="macro_f1", figures=figures)
    with pytest.raises(StateError, match="one official metric, found accuracy, macro_f1"):
        compare_across([*records, other])
    with pytest.raises(StateError, match="no finished model"):
        compare_across([])


values = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=5)


@given(values)
def test_one_benchmark_has_students_interval(some):
    estimate = Estimate.of(some)
    assert Pooled({"a": estimate}).interval() == pytest.approx(estimate.interval(), abs=1e-9)
    assert not Pooled({"a": estimate}).clear


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


def test_clear_takes_three_benchmarks_that_agree():
    good, bad = Estimate.of([0.03, 0.031, 0.032]), Estimate.of([-0.05, -0.051, -0.052])
    three = Pooled({"a": good, "b": good, "c": Estimate.of([0.02, 0.021, 0.022])})
    assert three.clear
    assert not Pooled({"a": good, "b": good}).clear
    # far beyond the seeds' noise, and yet another benchmark might say the opposite
    mixed = Pooled({"a": good, "b": good, "c": bad})
    low, high = mixed.interval()
    assert not low <= 0 <= high or math.isclose(mixed.mean, 0)
    assert not mixed.clear
