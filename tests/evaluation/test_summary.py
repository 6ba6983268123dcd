import statistics
from dataclasses import replace

import pytest
from scipy import stats

from gmixout.errors import StateError
from gmixout.evaluation.summary import Estimate, by_series, select_by_id_validation, summarise


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


def test_selection_is_by_id_validation_alone(make_record):
    records = [
        make_record(lr=1e-4, id_val=0.90, id=0.99, ood=0.99),
        make_record(lr=1e-3, id_val=0.95, id=0.10, ood=0.10),
        make_record(lr=1e-2, id_val=0.94, id=0.99, ood=0.99),
    ]
    assert select_by_id_validation(records) is records[1]


def test_selection_ties_go_to_the_lower_rate_then_alpha(make_record):
    records = [
        make_record(lr=lr, options={"alpha": alpha}, method="wise_ft")
        for lr in (1e-2, 1e-3)
        for alpha in (0.9, 0.5)
    ]
    assert select_by_id_validation(records) is records[3]
    with pytest.raises(StateError, match="no records"):
        select_by_id_validation([])


def test_selection_over_seeds_ties_in_spite_of_rounding(make_record):
    # both means are 0.94, but in floating point the second is an ulp higher
    low = [make_record(lr=1e-3, seed=s, id_val=v) for s, v in enumerate([0.94, 0.94, 0.94])]
    high = [make_record(lr=1e-2, seed=s, id_val=v) for s, v in enumerate([0.92, 0.93, 0.97])]
    assert select_by_id_validation(summarise(high + low)).lr == 1e-3


def test_cells_gather_seeds_and_sort_by_rate_and_alpha(make_record):
    records = [make_record(method="zero_shot", lr=None, steps=0)]
    for seed in (1, 0):
        for lr in (3e-3, 1e-3):
            records.append(make_record(lr=lr, seed=seed, id=0.9 + seed / 100))
            records += [
                make_record(method="wise_ft", lr=lr, seed=seed, options={"alpha": alpha})
                for alpha in (0.9, 0.1)
            ]
    cells = summarise(records)
    assert [(c.method, c.lr, c.alpha) for c in cells] == [
        ("zero_shot", None, None),
        ("full", 1e-3, None),
        ("full", 3e-3, None),
        *[("wise_ft", lr, alpha) for lr in (1e-3, 3e-3) for alpha in (0.1, 0.9)],
    ]
    assert [record.seed for record in cells[1].records] == [0, 1]
    estimate = cells[1].estimate(lambda record: record.id)
    assert (estimate.mean, estimate.sd) == (
        pytest.approx(0.905),
        pytest.approx(statistics.stdev([0.9, 0.91])),
    )
    assert list(by_series(cells)) == [("zero_shot", ""), ("full", ""), ("wise_ft", "")]


def test_options_that_differ_are_never_averaged(make_record):
    def gmixout(rate, seed):
        options = {"mask_rate": rate, "structure": "row"}
        return make_record(method="gmixout", options=options, seed=seed, run=f"{rate}{seed}")

    cells = summarise([gmixout(rate, seed) for rate in (0.9, 0.95) for seed in (0, 1)])
    assert [cell.variant for cell in cells] == ["mask_rate=0.9", "mask_rate=0.95"]
    assert [len(cell.records) for cell in cells] == [2, 2]


def test_the_latest_evaluation_of_a_model_counts(make_record):
    old = make_record(id=0.5)
    (cell,) = summarise([old, replace(old, accuracy={**old.accuracy, "id_test": 0.6})])
    assert [record.id for record in cell.records] == [0.6]


def test_two_runs_of_one_seed_are_refused(make_record):
    with pytest.raises(StateError, match="seed 0: aaa, bbb"):
        summarise([make_record(run="aaa"), make_record(run="bbb", head_lr=1.0)])


def test_benchmarks_are_not_mixed(make_record):
    with pytest.raises(StateError, match=r"\['digits', 'pacs'\]"):
        summarise([make_record(), make_record(benchmark="pacs")])
