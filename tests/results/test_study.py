import statistics

import pytest
from records import changed, sets

from gmixout.errors import StateError
from gmixout.results import Study, studies
from gmixout.results.study import series_named


def test_models_on_the_way_are_learning_curves_and_in_no_setting(make_record):
    way = [
        make_record(seed=seed, step=step, id=step / 400, run=f"run{seed}")
        for seed in (0, 1)
        for step in (300, 100, 200)
    ]
    other = make_record(method="gmixout")
    study = Study([*way, other])
    assert [(s.method, s.step) for s in study.settings] == [("full", 300), ("gmixout", 300)]
    (line,) = study.learning_curves
    assert [setting.step for setting in line] == [100, 200, 300]
    assert [len(setting.records) for setting in line] == [2, 2, 2]


def test_training_settings_that_differ_are_never_averaged(make_record):
    plain = make_record(settings={"augment": "none"}, run="a")
    other = make_record(settings={"augment": "randaugment"}, run="b")
    assert [setting.variant for setting in Study([plain, other]).settings] == [
        'augment="none"',
        'augment="randaugment"',
    ]


def test_settings_gather_seeds_and_sort_by_rate_and_alpha(make_record):
    records = [make_record(method="zero_shot", steps=0)]
    for seed in (1, 0):
        for lr in (3e-3, 1e-3):
            records.append(make_record(lr=lr, seed=seed, id=0.9 + seed / 100))
            records += [
                make_record(method="wise_ft", lr=lr, seed=seed, alpha=alpha) for alpha in (0.9, 0.1)
            ]
    study = Study(records)
    settings = study.settings
    assert [(c.method, c.lr, c.alpha) for c in settings] == [
        ("zero_shot", None, None),
        ("full", 1e-3, None),
        ("full", 3e-3, None),
        *[("wise_ft", lr, alpha) for lr in (1e-3, 3e-3) for alpha in (0.1, 0.9)],
    ]
    assert [record.seed for record in settings[1].records] == [0, 1]
    estimate = settings[1].estimate(lambda record: record.id)
    assert (estimate.mean, estimate.sd) == (
        pytest.approx(0.905),
        pytest.approx(statistics.stdev([0.9, 0.91])),
    )
    assert list(study.by_series) == [("zero_shot", ""), ("full", ""), ("wise_ft", "")]


def test_a_record_from_before_an_option_existed_has_its_default(make_record):
    def gmixout(seed, **options):
        options = {"mask_rate": 0.9, **options}
        run = f"{seed}{options}"
        return make_record(method="gmixout", options=options, seed=seed, run=run)

    settings = Study([gmixout(0), gmixout(1, biases="dense"), gmixout(1, biases="held")]).settings
    assert [(each.variant, len(each.records)) for each in settings] == [
        ('biases="dense"', 2),
        ('biases="held"', 1),
    ]


def test_options_that_differ_are_never_averaged(make_record):
    def gmixout(rate, seed):
        options = {"mask_rate": rate, "structure": "row"}
        return make_record(method="gmixout", options=options, seed=seed, run=f"{rate}{seed}")

    settings = Study([gmixout(rate, seed) for rate in (0.9, 0.95) for seed in (0, 1)]).settings
    assert [setting.variant for setting in settings] == ["mask_rate=0.9", "mask_rate=0.95"]
    assert [len(setting.records) for setting in settings] == [2, 2]


def test_the_latest_evaluation_of_a_model_counts(make_record):
    old = make_record(id=0.5)
    new = changed(old, accuracy=sets(old, "accuracy") | {"id_test": 0.6})
    (setting,) = Study([old, new]).settings
    assert [record.id for record in setting.records] == [0.6]


def test_the_latest_evaluation_counts_whatever_the_order_of_folders(make_record):
    old = make_record(id=0.5, time="2026-11-20T00:00:00Z")
    new = changed(old, accuracy=sets(old, "accuracy") | {"id_test": 0.6})
    new = changed(new, time="2026-11-21T00:00:00Z")
    for records in ([old, new], [new, old]):
        (setting,) = Study(records).settings
        assert [record.id for record in setting.records] == [0.6]


@pytest.mark.parametrize("field", [{"steps": 200, "step": 200}, {"batch_size": 8}, {"head_lr": 1}])
def test_numbers_of_a_training_that_differ_are_never_averaged(make_record, field):
    settings = Study([make_record(run="a"), make_record(run="b", **field)]).settings
    assert len(settings) == 2


def test_two_runs_of_one_seed_are_refused(make_record):
    with pytest.raises(StateError, match="seed 0: aaa, bbb"):
        Study([make_record(run="aaa"), make_record(run="bbb", device="gpu")])


def test_benchmarks_are_not_mixed(make_record):
    with pytest.raises(StateError, match=r"\['digits', 'pacs'\]"):
        Study([make_record(), make_record(benchmark="pacs")])


def test_records_of_several_official_metrics_are_no_table(make_record):
    figures = {name: {"macro_f1": 0.25} for name in make_record().scores}
    other = make_record(method="lora", metric="macro_f1", figures=figures)
    with pytest.raises(StateError, match=r"several official metrics.*accuracy, macro_f1"):
        Study([make_record(), other])


def other_data(record, what):
    accuracy = sets(record, "accuracy")
    if what == "one shift more":
        return {"accuracy": accuracy | {"fog": 1}}
    if what == "one shift less":
        return {"accuracy": {name: value for name, value in accuracy.items() if name != "fonts"}}
    if what == "other sizes":
        return {"examples": {"fonts": 7}}
    return {"digests": {"data": what}}


@pytest.mark.parametrize("what", ["one shift more", "one shift less", "other sizes", "bcd"])
@pytest.mark.parametrize("turn", [1, -1])
def test_figures_over_other_data_share_no_setting(make_record, what, turn):
    first = make_record(seed=0, digests={"data": "abc"})
    other = make_record(seed=1, **other_data(first, what))
    with pytest.raises(StateError, match=r"different (test sets|images).*report on each"):
        Study([first, other][::turn])


def test_older_records_that_do_not_say_their_data_are_taken_by_their_sets(make_record):
    digests = ({"data": "abc"}, {}, {"data": "abc", "pretrained": "1"})
    records = [make_record(seed=seed, digests=each) for seed, each in enumerate(digests)]
    assert len(Study(records).settings[0].records) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora", ("lora", "")),
        ("lora()", ("lora", "")),
        ("gmixout(k=5)", ("gmixout", "k=5, p=0.9")),
        ("gmixout(p=0.9,k=5)", ("gmixout", "k=5, p=0.9")),
        ("gmixout(k=10)", ("gmixout", "k=10, p=0.9")),
        ("wise_ft(of=lora)", ("wise_ft", 'alphas=[0.1, 0.5], of="lora"')),
        ('wise_ft(of="lora(rank=2, alpha=1)")', ("wise_ft", 'of="lora(rank=2, alpha=1)"')),
        ("my(odd", ("my(odd", "")),
        ("gmixout", None),
        ("gmixout(p=0.9)", None),
        ("gmixout(k=1)", None),
        ("gmix", None),
        ("lora(rank=8)", None),
    ],
)
def test_a_reference_is_told_by_as_many_options_as_it_takes(name, expected):
    there = [("lora", ""), ("my(odd", ""), ("gmixout", "k=5, p=0.9"), ("gmixout", "k=10, p=0.9")]
    there += [
        ("wise_ft", 'alphas=[0.1, 0.5], of="lora"'),
        ("wise_ft", 'of="lora(rank=2, alpha=1)"'),
    ]
    assert series_named(name, there * 3) == expected


def test_a_benchmark_has_a_study_of_its_own_once_a_model_is_finished(make_record):
    records = [make_record(benchmark=name) for name in ("b", "a")]
    records += [make_record(benchmark="c", step=10), make_record(benchmark="b", lr=1.0)]
    found = studies(records)
    assert [(study.benchmark, len(study.settings)) for study in found] == [("a", 1), ("b", 2)]
    with pytest.raises(StateError, match="no model is finished"):
        Study([make_record(step=10)])


def test_methods_stand_in_the_order_of_the_table_with_their_regularizers_behind(make_record):
    names = ("mine", "gmixout", "full", "another", "lora")
    records = [make_record(method=name) for name in names]
    records.append(make_record(method="full+sam", base="full", regularizers={"sam": {"rho": 0.1}}))
    order = ["full", "full+sam", "lora", "gmixout", "another", "mine"]
    for some in (records, records[::-1]):
        assert [setting.method for setting in Study(some).settings] == order


def test_an_option_of_a_regularizer_makes_a_variant(make_record):
    records = [
        make_record(
            method="full+sam", base="full", regularizers={"sam": {"rho": rho}}, run=f"{rho}"
        )
        for rho in (0.05, 0.1)
    ]
    assert [s.variant for s in Study(records).settings] == ["sam.rho=0.05", "sam.rho=0.1"]
