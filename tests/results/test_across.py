import numpy as np
import pytest
from records import changed, sets

from gmixout.errors import StateError
from gmixout.results import studies
from gmixout.results.across import PLACES, compare_across
from gmixout.results.curves import compare_at_matched_id

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
    across = compare_across(studies(records))
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
    alone = compare_at_matched_id(studies(records)[0], "full", [0.62])
    (difference,) = alone.differences["gmixout", ""]
    assert row.at_places[1].parts["from_art"].values == pytest.approx(difference.values)
    assert across.id_levels["from_art"][1] == pytest.approx(0.621)


def test_the_order_of_records_says_nothing(records):
    one, other = (compare_across(studies(r)) for r in (records, records[::-1]))
    assert one.benchmarks == other.benchmarks
    forth, back = row_of(one, "gmixout"), row_of(other, "gmixout")
    assert forth.at_places[0].mean == pytest.approx(back.at_places[0].mean)


def test_a_benchmark_that_lacks_a_method_or_the_reference_does_not_count(records):
    fewer = [r for r in records if (r.method.name, r.benchmark.name) != ("gmixout", "from_art")]
    row = row_of(compare_across(studies(fewer)), "gmixout")
    assert set(row.at_own_id.parts) == set(row.chosen) == {"from_photo", "from_cartoon"}
    fewer = [r for r in records if (r.method.name, r.benchmark.name) != ("full", "from_art")]
    across = compare_across(studies(fewer))
    row = row_of(across, "gmixout")
    assert set(row.at_own_id.parts) == {"from_photo", "from_cartoon"}
    assert set(row.chosen) == set(BENCHMARKS)
    assert across.id_levels["from_art"] == []
    nobody = row_of(compare_across(studies(records), "lora"), "gmixout")
    assert nobody.at_own_id is None
    assert nobody.at_places == [None] * len(PLACES)


def test_one_rate_of_the_reference_is_one_level(records):
    one = [r for r in records if r.method.name != "full" or r.lr == 3e-4]
    same = {"id_test": 0.6}
    one = [
        changed(r, accuracy=sets(r, "accuracy") | same) if r.method.name == "full" else r
        for r in one
    ]
    across = compare_across(studies(one))
    assert all(len(set(levels)) == 1 for levels in across.id_levels.values())
    assert len({pooled and pooled.mean for pooled in row_of(across, "gmixout").at_places}) == 1


def test_metrics_that_differ_have_no_mean(records, make_record):
    figures = {name: {"macro_f1": 0.25} for name in make_record().scores}
    other = make_record(benchmark="animals", metric="macro_f1", figures=figures)
    with pytest.raises(StateError, match="one official metric, found accuracy, macro_f1"):
        compare_across(studies([*records, other]))
    with pytest.raises(StateError, match="no finished model"):
        compare_across([])
