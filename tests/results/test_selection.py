from dataclasses import replace

import pytest

from gmixout.errors import StateError
from gmixout.evaluation.metrics import Scores
from gmixout.results import Record, Study
from gmixout.results.curves import effective_robustness
from gmixout.results.selection import RULES, id_validation, last, oracle
from gmixout.results.study import Point, pareto_front


def test_id_validation_looks_at_id_validation_alone(make_record):
    records = [
        make_record(lr=1e-4, id_val=0.90, id=0.99, ood=0.99),
        make_record(lr=1e-3, id_val=0.95, id=0.10, ood=0.10),
        make_record(lr=1e-2, id_val=0.94, id=0.99, ood=0.99),
    ]
    assert id_validation.choose(records) is records[1]


def test_oracle_looks_at_the_shifts_and_says_so(make_record):
    records = [make_record(lr=lr, ood=ood, id_val=1 - ood) for lr, ood in ((1, 0.5), (2, 0.6))]
    assert oracle.choose(records) is records[1]
    assert "ORACLE" in oracle.note


def test_last_takes_the_end_of_training_and_id_validation_the_best_on_the_way(make_record):
    records = [
        make_record(lr=lr, step=step, id_val=id_val)
        for lr, step, id_val in [(1e-3, 100, 0.97), (1e-3, 300, 0.95), (1e-2, 300, 0.96)]
    ]
    assert id_validation.choose(records) is records[0]
    assert last.choose(records) is records[2]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_ties_go_to_the_one_that_moved_least(make_record, rule):
    records = [
        make_record(lr=lr, alpha=alpha, method="wise_ft")
        for lr in (1e-2, 1e-3)
        for alpha in (0.9, 0.5)
    ]
    assert rule.choose(records) is records[3]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_nothing_to_choose_from(rule):
    with pytest.raises(StateError, match="no records"):
        rule.choose([])


def test_over_seeds_means_tie_in_spite_of_rounding(make_record):
    # both means are 0.94, but in floating point the second is an ulp higher
    low = [make_record(lr=1e-3, seed=s, id_val=v) for s, v in enumerate([0.94, 0.94, 0.94])]
    high = [make_record(lr=1e-2, seed=s, id_val=v) for s, v in enumerate([0.92, 0.93, 0.97])]
    assert id_validation.choose(Study(high + low).settings).lr == 1e-3


def of_error(record, id_val, fog, rain=1.0):
    """The record with an error in place of accuracy, which may be above 1."""
    values = {"id_val": id_val, "id_test": id_val, "fog": fog, "rain": rain}
    scores = {
        name: Scores(None, None, None, examples=9, figures={"mae": value, "r2": -3.0})
        for name, value in values.items()
    }
    return replace(record, benchmark=replace(record.benchmark, metric="mae"), scores=scores)


def test_of_an_error_the_lowest_is_chosen_and_the_highest_is_the_worst(make_record):
    records = [
        of_error(make_record(lr=lr), id_val, fog, rain)
        for lr, id_val, fog, rain in [(1e-4, 250.0, 1.0, 2.0), (1e-3, 90.0, 9.0, 3.0)]
    ]
    assert id_validation.choose(records) is records[1]
    assert last.choose(records) is records[1]
    assert oracle.choose(records) is records[0]
    assert [record.worst for record in records] == [2.0, 9.0]
    again = Record.from_json(records[0].to_json())
    assert again == records[0]
    assert again.of("r2") == dict.fromkeys(again.scores, -3.0)
    # its spread is not known, so that nothing is significantly worse than the start
    assert records[0].against_start(1.0) is records[0]
    study = Study(records)
    assert study.selected[("full", "")].lr == 1e-3
    assert study.curves == []
    assert effective_robustness(study) == {}


def test_a_share_above_1_is_no_record(make_record):
    record = make_record()
    scores = {name: replace(each, figures={"r2": 1.5}) for name, each in record.scores.items()}
    assert replace(record, scores=scores).of("r2")
    for metric in ("macro_f1", "a_metric_of_the_future"):
        wrong = {name: replace(each, figures={metric: 1.5}) for name, each in scores.items()}
        with pytest.raises(StateError, match=rf"figures\.{metric} is 1\.5, and not from 0 to 1"):
            replace(record, scores=wrong)


def test_the_front_of_errors_is_the_lower_left():
    points = [Point(1, 5), Point(2, 2), Point(3, 3), Point(5, 1), Point(1, 6)]
    assert pareto_front(points, lower=True) == [Point(5, 1), Point(2, 2), Point(1, 5)]
    mirrored = [Point(-p.id, -p.ood) for p in points]
    assert {Point(-p.id, -p.ood) for p in pareto_front(mirrored)} == {
        *pareto_front(points, lower=True)
    }


def test_rules_are_known_by_their_names():
    assert {name: rule.name for name, rule in RULES.items()} == {n: n for n in RULES}
    assert list(RULES) == ["id_validation", "last", "oracle"]
