import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmixout.results import Study
from gmixout.results.curves import (
    against_reference_curve,
    compare_at_matched_id,
    effective_robustness,
    front_area,
    id_levels_of,
)
from gmixout.results.study import Curve, Point, pareto_front


def ood_at_matched_id(points, level):
    return Curve(("full", ""), 0, tuple(points)).ood_at(level)


MANY = {"id_val": 10**6, "id_test": 10**6, "noise": 10**6}
percent = st.integers(0, 100).map(lambda value: value / 100)
points = st.lists(st.builds(Point, percent, percent), min_size=1, max_size=12)


def test_front_drops_what_is_beaten_in_both():
    full = [Point(0.948, 0.706), Point(0.955, 0.674), Point(0.948, 0.522), Point(0.94, 0.706)]
    assert pareto_front(full) == [Point(0.948, 0.706), Point(0.955, 0.674)]
    assert pareto_front([]) == []


@given(points)
def test_front_is_an_upper_envelope(points):
    front = pareto_front(points)
    assert all(a.id < b.id and a.ood > b.ood for a, b in pairwise(front))
    for point in points:
        height = ood_at_matched_id(points, point.id)
        assert height is not None
        assert height >= point.ood - 1e-12


def test_matched_id_interpolates_between_neighbours():
    front = [Point(0.90, 0.80), Point(0.94, 0.70), Point(0.96, 0.40)]
    assert ood_at_matched_id(front, 0.91) == pytest.approx(0.775)
    assert ood_at_matched_id(front, 0.95) == pytest.approx(0.55)
    assert [ood_at_matched_id(front, point.id) for point in front] == [0.80, 0.70, 0.40]


@pytest.mark.parametrize("level", [0.0, 0.899, 0.961, 1.0, float("nan")])
def test_nothing_is_extrapolated(level):
    assert ood_at_matched_id([Point(0.90, 0.8), Point(0.96, 0.4)], level) is None
    assert ood_at_matched_id([], level) is None


def test_a_model_that_beats_the_others_stands_for_the_id_levels_below_it():
    better = [Point(0.90, 0.81), Point(0.96, 0.85)]
    assert [ood_at_matched_id(better, level) for level in (0.90, 0.93, 0.96)] == [0.85] * 3
    assert ood_at_matched_id(better, 0.89) is None
    assert ood_at_matched_id(better, 0.97) is None


def test_levels_lie_inside_of_what_every_seed_covers():
    def curve(seed, *ids):
        return Curve(("full", ""), seed, tuple(Point(x, 1 - x) for x in ids))

    assert id_levels_of([curve(0, 0.90, 0.94), curve(1, 0.86, 0.92, 0.95)]) == [0.91, 0.92, 0.93]
    assert id_levels_of([curve(0, 0.9001, 0.9003)]) == [pytest.approx(0.9002)]
    assert id_levels_of([curve(0, 0.9)]) == [0.9]
    assert id_levels_of([curve(0, 0.90, 0.91), curve(1, 0.92, 0.93)]) == []
    assert id_levels_of([]) == []


@pytest.fixture
def three_seeds(make_record):
    """Mixout lies 1, 2 and 6 points above full finetuning; seed 2 never gets to ID 0.935."""
    records = [make_record(method="zero_shot", steps=0, id=0.6, ood=0.6)]
    for seed, gain in enumerate([0.01, 0.02, 0.06]):
        shift = seed / 100
        for lr, id, ood in [(1e-4, 0.90, 0.80), (1e-3, 0.96, 0.50)]:
            records.append(make_record(lr=lr, seed=seed, id=id, ood=ood + shift))
        for lr, id in [(1e-4, 0.90), (1e-3, 0.93 if seed == 2 else 0.96)]:
            ood = 0.80 - (id - 0.90) * 5 + shift + gain
            records.append(make_record(method="mixout", lr=lr, seed=seed, id=id, ood=ood))
        records.append(make_record(method="l2", lr=1e-3, seed=seed, id=0.98, ood=0.1))
    return records


def test_paired_differences_at_matched_id(three_seeds):
    result = compare_at_matched_id(Study(three_seeds), "full", [0.92, 0.95])
    assert result.id_levels == [0.92, 0.95]
    assert [e.mean for e in result.reference_ood] == pytest.approx([0.71, 0.56])
    low, high = result.differences["mixout", ""]
    assert (low.mean, low.n) == (pytest.approx(0.03), 3)
    # paired: the spread of the gains, without that of the seeds' own levels
    assert low.sd == pytest.approx(0.0264575, abs=1e-6)
    assert (high.mean, high.n) == (pytest.approx(0.015), 2)
    assert result.differences["l2", ""] == [None, None]
    assert ("zero_shot", "") not in result.differences


def test_one_seed_compares_without_spread(three_seeds):
    one = [record for record in three_seeds if record.seed == 0]
    result = compare_at_matched_id(Study(one), "full", [0.93])
    (estimate,) = result.differences["mixout", ""]
    assert estimate.mean == pytest.approx(0.01)
    assert (estimate.sd, estimate.n) == (None, 1)


def test_no_reference_no_comparison(three_seeds, make_record):
    assert compare_at_matched_id(Study(three_seeds), "lora") is None
    assert compare_at_matched_id(Study(three_seeds), "full", [0.1]) is None
    other = make_record(ood=0.5, lr=1e-3, options={"wd": 1}, run="other")
    assert compare_at_matched_id(Study([*three_seeds, other])) is None


def test_one_variant_can_be_the_reference_of_the_other(three_seeds, make_record):
    full = [record for record in three_seeds if record.method.name == "full"]
    other = [
        make_record(lr=r.lr, seed=r.seed, id=r.id, ood=r.ood + 0.04, options={"wd": 1})
        for r in full
    ]
    result = compare_at_matched_id(Study([*three_seeds, *other]), "full(wd=1)", [0.92])
    assert result.reference == ("full", "wd=1")
    (estimate,) = result.differences["full", ""]
    assert estimate.mean == pytest.approx(-0.04)
    assert ("full", "wd=1") not in result.differences


def test_curves_keep_seeds_and_methods_apart(three_seeds):
    found = {(c.series[0], c.seed): len(c.points) for c in Study(three_seeds).curves}
    assert found["full", 0] == 2
    assert found["l2", 2] == 1
    assert ("zero_shot", 0) not in found


def test_area_of_the_front_is_the_dominated_share_of_the_box(make_record):
    records = [
        make_record(lr=lr, id=id, ood=ood)
        for lr, id, ood in [(1, 0.90, 0.80), (2, 0.95, 0.70), (3, 0.92, 0.60)]
    ]
    records += [make_record(method="b", lr=lr, id=i, ood=o) for lr, i, o in [(1, 1.0, 0.50)]]
    # the box is 0.1 wide and 0.3 high; full dominates nothing left of 0.90 (it starts there)
    areas = front_area(Study(records))
    assert areas["full", ""].mean == pytest.approx(0.05 * 0.20 / (0.10 * 0.30))
    assert areas["b", ""].mean == 0


def test_a_point_is_compared_with_the_curve_at_its_own_id(three_seeds, make_record):
    soups = [
        make_record(method="soup", lr=None, seed=seed, id=0.93, ood=0.65 + seed / 100 + gain)
        for seed, gain in enumerate([0.02, 0.03, 0.04])
    ]
    found = against_reference_curve(Study([*three_seeds, *soups]), "full")
    # full finetuning is at 0.65 there, plus a point a seed
    assert found["soup", ""].mean == pytest.approx(0.03)
    assert found["soup", ""].n == 3
    assert found["full", ""].mean == pytest.approx(0)
    assert found["l2", ""] is None
    assert Study(three_seeds).selected["mixout", ""].lr == 1e-4


def test_effective_robustness_is_what_lies_above_the_baselines_line(make_record):
    def logistic(x):
        return 1 / (1 + math.exp(-x))

    base = [
        make_record(lr=lr, id=logistic(x), ood=logistic(0.5 - 0.4 * x), examples=MANY)
        for lr, x in [(1, 1.0), (2, 2.0), (3, 2.5)]
    ]
    above = make_record(
        method="gmixout", id=logistic(1.7), ood=logistic(0.5 - 0.4 * 1.7) + 0.1, examples=MANY
    )
    found = effective_robustness(Study([*base, above]))
    assert found["gmixout", ""].mean == pytest.approx(0.1, abs=1e-3)
    assert found["full", ""].mean == pytest.approx(0, abs=1e-3)
    assert effective_robustness(Study([above])) == {}
    # only models of the baselines draw the line
    assert effective_robustness(Study([*base, above]), baselines=("gmixout",)) == {}


def test_measures_of_curves_are_of_trained_methods(make_record):
    zero_shot = make_record(method="zero_shot", steps=0, id=0.6, ood=0.95)
    full = [make_record(lr=lr, id=i, ood=o) for lr, i, o in [(1, 0.9, 0.8), (2, 0.95, 0.7)]]
    study = Study([zero_shot, *full])
    assert set(front_area(study)) == {("full", "")}
    assert front_area(study) == front_area(Study(full))
    assert set(against_reference_curve(study)) == {("full", "")}


def test_a_rate_that_one_lucky_seed_survived_is_not_selected(make_record):
    records = [make_record(lr=1e-3, seed=seed, id_val=0.90, id=0.9) for seed in range(3)]
    records.append(make_record(lr=3e-2, seed=1, id_val=0.95, id=0.95))
    assert Study(records).selected["full", ""].lr == 1e-3


def test_without_shifts_there_is_nothing_to_compare(make_record):
    records = [
        make_record(method=method, lr=lr, accuracy={"id_val": lr, "id_test": lr})
        for method in ("full", "lora", "zero_shot")
        for lr in (0.5, 0.6)
    ]
    study = Study(records)
    assert study.curves == []
    assert compare_at_matched_id(study) is None
    assert front_area(study) == effective_robustness(study) == {}


def test_curves_are_of_the_official_metric(make_record):
    figures = {name: {"macro_f1": 0.25} for name in make_record().scores}
    (curve,) = Study([make_record(metric="macro_f1", figures=figures)]).curves
    assert curve.points == (Point(0.25, 0.25),)
