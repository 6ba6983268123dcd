import pytest

from gmixout.errors import StateError
from gmixout.results import Study
from gmixout.results.selection import RULES, id_validation, last, oracle


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


def test_rules_are_known_by_their_names():
    assert {name: rule.name for name, rule in RULES.items()} == {n: n for n in RULES}
    assert list(RULES) == ["id_validation", "last", "oracle"]
