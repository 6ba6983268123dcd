import statistics
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from gmixout.errors import StateError
from gmixout.evaluation.summary import Estimate, by_series, learning_curves, summarise


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
    ("values", "clear"),
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
def test_a_difference_is_clear_when_no_interval_reaches_zero(values, clear):
    assert Estimate.of(values).clear is clear


def test_models_on_the_way_are_learning_curves_and_in_no_cell(make_record):
    way = [
        make_record(seed=seed, step=step, id=step / 400, run=f"run{seed}")
        for seed in (0, 1)
        for step in (300, 100, 200)
    ]
    other = make_record(method="gmixout")
    assert [(c.method, c.step) for c in summarise([*way, other])] == [
        ("full", 300),
        ("gmixout", 300),
    ]
    (line,) = learning_curves([*way, other])
    assert [cell.step for cell in line] == [100, 200, 300]
    assert [len(cell.records) for cell in line] == [2, 2, 2]


def test_training_settings_that_differ_are_never_averaged(make_record):
    plain = make_record(training={"augment": "none"}, run="a")
    other = make_record(training={"augment": "randaugment"}, run="b")
    assert [cell.variant for cell in summarise([plain, other])] == [
        'augment="none"',
        'augment="randaugment"',
    ]


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


def test_the_latest_evaluation_counts_whatever_the_order_of_folders(make_record):
    old = make_record(id=0.5, time="2026-11-20T00:00:00Z")
    new = replace(old, accuracy={**old.accuracy, "id_test": 0.6}, time="2026-11-21T00:00:00Z")
    for records in ([old, new], [new, old]):
        (cell,) = summarise(records)
        assert [record.id for record in cell.records] == [0.6]


@pytest.mark.parametrize("field", [{"steps": 200, "step": 200}, {"batch_size": 8}, {"head_lr": 1}])
def test_numbers_of_a_training_that_differ_are_never_averaged(make_record, field):
    cells = summarise([make_record(run="a"), make_record(run="b", **field)])
    assert len(cells) == 2


def test_two_runs_of_one_seed_are_refused(make_record):
    with pytest.raises(StateError, match="seed 0: aaa, bbb"):
        summarise([make_record(run="aaa"), make_record(run="bbb", device="gpu")])


def test_benchmarks_are_not_mixed(make_record):
    with pytest.raises(StateError, match=r"\['digits', 'pacs'\]"):
        summarise([make_record(), make_record(benchmark="pacs")])


def test_records_of_several_official_metrics_are_no_table(make_record):
    figures = {name: {"macro_f1": 0.25} for name in make_record().accuracy}
    other = make_record(method="lora", metric="macro_f1", figures=figures)
    with pytest.raises(StateError, match=r"several official metrics.*accuracy, macro_f1"):
        summarise([make_record(), other])


def other_data(record, what):
    sets = {name: getattr(record, name) for name in ("accuracy", "nll", "ece", "examples")}
    if what == "one shift more":
        return {name: values | {"fog": 1} for name, values in sets.items()}
    if what == "one shift less":
        return {n: {k: v for k, v in values.items() if k != "fonts"} for n, values in sets.items()}
    if what == "other sizes":
        return {"examples": record.examples | {"fonts": 7}}
    return {"digests": {"data": what}}


@pytest.mark.parametrize("what", ["one shift more", "one shift less", "other sizes", "bcd"])
@pytest.mark.parametrize("turn", [1, -1])
def test_figures_over_other_data_share_no_cell(make_record, what, turn):
    first = make_record(seed=0, digests={"data": "abc"})
    other = make_record(seed=1, **other_data(first, what))
    with pytest.raises(StateError, match=r"different (test sets|images).*report on each"):
        summarise([first, other][::turn])


def test_older_records_that_do_not_say_their_data_are_taken_by_their_sets(make_record):
    digests = ({"data": "abc"}, {}, {"data": "abc", "pretrained": "1"})
    records = [make_record(seed=seed, digests=each) for seed, each in enumerate(digests)]
    assert len(summarise(records)[0].records) == 3
