import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score
from torch.nn.functional import one_hot

from gmixout.data.common_corruptions.constants import EXTRA_KINDS, KINDS
from gmixout.data.sampling import FEW, MANY, MEDIUM
from gmixout.errors import DataError
from gmixout.evaluation.official import (
    ALEXNET_ERRORS,
    METRICS,
    SHOTS,
    SUMMARIES,
    mce_alexnet,
    mean_corruption_error_unnormalised,
)


def logits_of(predictions, classes):
    return one_hot(torch.tensor(predictions), classes).float()


answers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=50)
@given(answers)
def test_means_over_classes_are_over_those_that_occur(pairs):
    """As WILDS calls scikit-learn: over the classes among the labels."""
    predictions, labels = map(list, zip(*pairs, strict=True))
    logits, occurring = logits_of(predictions, 6), sorted(set(labels))
    asked = {"labels": occurring, "average": "macro", "zero_division": 0}
    expected = f1_score(labels, predictions, **asked)
    assert METRICS["macro_f1"](logits, torch.tensor(labels), None) == pytest.approx(expected)
    expected = recall_score(labels, predictions, **asked)
    assert METRICS["macro_recall"](logits, torch.tensor(labels), None) == pytest.approx(expected)


def test_a_class_that_is_only_predicted_does_not_count():
    labels = torch.tensor([0, 0, 1, 1])
    # class 0: precision 1, recall 1/2; class 1: perfect; class 2 is a wrong prediction alone
    value = METRICS["macro_f1"](logits_of([0, 2, 1, 1], 3), labels, None)
    assert value == pytest.approx((2 / 3 + 1) / 2)


@settings(deadline=None, max_examples=50)
@given(answers, st.randoms(use_true_random=False))
def test_the_worst_group_is_the_worst(pairs, random):
    predictions, labels = map(list, zip(*pairs, strict=True))
    groups = [random.randrange(3) * 100 for _ in pairs]
    right = [p == label for p, label in pairs]
    shares = [
        sum(r for r, g in zip(right, groups, strict=True) if g == group) / groups.count(group)
        for group in set(groups)
    ]
    arguments = (logits_of(predictions, 6), torch.tensor(labels))
    value = METRICS["worst_group"](*arguments, torch.tensor(groups))
    assert value == pytest.approx(min(shares))
    assert value <= METRICS["accuracy"](*arguments, None) + 1e-9
    one = METRICS["worst_group"](*arguments, torch.zeros(len(pairs)))
    assert one == METRICS["accuracy"](*arguments, None)


def test_shots_are_accuracies_of_their_groups():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    logits = logits_of([0, 1, 0, 0, 0, 0], 3)
    groups = torch.tensor([0, 1, 2])[labels]
    values = [METRICS[f"{shot}_shot"](logits, labels, groups) for shot in SHOTS]
    assert values == [1.0, 0.5, 0.0]
    assert math.isnan(METRICS["few_shot"](logits[:2], labels[:2], groups[:2]))


def test_groups_are_numbered_as_the_loader_numbers_them():
    assert (SHOTS[MANY], SHOTS[MEDIUM], SHOTS[FEW]) == ("many", "medium", "few")


@pytest.mark.parametrize("name", ["worst_group", "many_shot", "medium_shot", "few_shot"])
def test_a_metric_of_groups_needs_groups(name):
    with pytest.raises(DataError, match=f"{name} needs groups"):
        METRICS[name](logits_of([0], 2), torch.tensor([0]), None)


def everywhere(value):
    return {f"{kind}/{severity}": value for kind in KINDS for severity in range(1, 6)}


def test_alexnet_itself_has_a_mean_corruption_error_of_1():
    own = {name: 1 - ALEXNET_ERRORS[name.split("/")[0]] for name in everywhere(0)}
    assert mce_alexnet(own) == pytest.approx(1)
    assert mce_alexnet(everywhere(1)) == 0
    half = {name: 1 - (1 - value) / 2 for name, value in own.items()}
    assert mce_alexnet(half) == pytest.approx(0.5)
    mean = sum(ALEXNET_ERRORS.values()) / 15
    assert mean_corruption_error_unnormalised(own) == pytest.approx(mean)


def test_kinds_weigh_as_their_baseline_says():
    """One point of error on a kind that AlexNet finds easy counts for more, without it the same."""
    base = everywhere(0.5)
    easy, hard = (base | {f"{kind}/1": 0.0} for kind in ("brightness", "impulse_noise"))
    assert mce_alexnet(easy) > mce_alexnet(hard) > mce_alexnet(base)
    plain = mean_corruption_error_unnormalised
    assert plain(easy) == pytest.approx(plain(hard)) == pytest.approx(0.5 + 0.5 / 75)


@pytest.mark.parametrize("name", SUMMARIES)
def test_extra_kinds_do_not_count_and_a_missing_one_is_named(name):
    own = everywhere(0.5)
    extra = {f"{kind}/{s}": 0.0 for kind in EXTRA_KINDS for s in range(1, 6)}
    assert SUMMARIES[name](own | extra | {"fonts": 0.0}) == SUMMARIES[name](own)
    del own["fog/3"]
    with pytest.raises(DataError, match=r"1 of these 75 are missing, fog/3"):
        SUMMARIES[name](own)


def test_the_fifteen_kinds_are_the_loaders():
    assert tuple(ALEXNET_ERRORS) == KINDS
    # ImageNet-C's table of the paper: noise is the hardest for AlexNet, brightness the easiest
    assert min(ALEXNET_ERRORS, key=ALEXNET_ERRORS.__getitem__) == "brightness"
