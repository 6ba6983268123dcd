"""What holds of each task, and what defines it."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from gmixout.errors import ConfigError, DataError
from gmixout.evaluation.metrics import score
from gmixout.evaluation.official import METRICS
from gmixout.named import from_spec, spec_of
from gmixout.tasks import DEFAULT_TASK, TASKS, LearningTask, multi_label, regression

CLASSES = ("ant", "bee", "cat")
LABELS = {
    "single_label": torch.tensor([0, 2, 1, 1, 0, 2, 2]),
    "multi_label": torch.tensor(
        [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    ).float(),
    "regression": torch.tensor([[3.0, -1, 900]]) * torch.linspace(-1, 2, 7)[:, None] + 5,
}
OUTPUTS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
NAMES = sorted(TASKS)


def task_of(name):
    return TASKS[name].fitted(LABELS[name])


def test_the_tasks_have_labels_here():
    assert LABELS.keys() == TASKS.keys()
    assert task_of("single_label") == DEFAULT_TASK


@pytest.mark.parametrize("name", NAMES)
def test_a_task_comes_back_from_the_metadata_of_a_file(name):
    task = task_of(name)
    held = json.loads(json.dumps(spec_of(task)))
    assert from_spec(held, LearningTask) == task
    task.check_outputs(3)


@pytest.mark.parametrize("name", NAMES)
def test_its_metrics_are_of_it_and_of_no_other(name):
    task = task_of(name)
    for each in (task.metric, *task.extra_metrics):
        assert METRICS[each].task == name
    found = score(OUTPUTS, LABELS[name], task.extra_metrics, task=task)
    assert found.figures.keys() == {*task.extra_metrics}
    assert (found.accuracy is None) == (name != "single_label")
    assert (found.nll is None) == (found.ece is None) == (not task.has_classes)


@pytest.mark.parametrize("name", NAMES)
def test_labels_written_as_a_table_are_read_back(name):
    task, labels = task_of(name), LABELS[name]
    columns, rows = task.table(labels, CLASSES)
    by_column = columns == [*CLASSES]
    encoded = task.encoder(CLASSES, by_column)
    again = torch.tensor([encoded(tuple(row)) for row in rows])
    torch.testing.assert_close(again, labels, rtol=0, atol=0)
    assert all(not task.wrong(cell, by_column) for row in rows for cell in row)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_same_in_another_order_of_the_outputs(name):
    task, labels = task_of(name), LABELS[name]
    there = task.in_order(labels, [2, 0, 1], 3)
    back = task.in_order(there, [1, 2, 0], 3)
    assert torch.equal(back, labels)
    _, rows = task.table(there, ["bee", "cat", "ant"])
    if name != "regression":
        _, own = task.table(labels, CLASSES)
        assert [{*row[0].split("|")} for row in rows] == [{*row[0].split("|")} for row in own]


@pytest.mark.parametrize("name", NAMES)
def test_good_labels_have_no_problem_and_bad_ones_do(name):
    task = task_of(name)
    assert task.problem(LABELS[name], CLASSES) == ""
    bad = {"single_label": torch.tensor([3]), "multi_label": torch.tensor([[0, 2.0, 0]]),
           "regression": torch.tensor([[0, math.nan, 0]])}  # fmt: skip
    assert task.problem(bad[name], CLASSES)
    if name != "single_label":
        assert "shape [images, 3], not [7]" in task.problem(LABELS["single_label"], CLASSES)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_linear_probe_is_convex_and_a_sum(name):
    task, labels = task_of(name), LABELS[name]
    one, two = OUTPUTS.double(), OUTPUTS.double().flip(0) * 3
    ends = (task.fit_loss(one, labels) + task.fit_loss(two, labels)) / 2
    assert task.fit_loss((one + two) / 2, labels) < ends
    parts = [task.fit_loss(one[n : n + 1], labels[n : n + 1]) for n in range(7)]
    torch.testing.assert_close(sum(parts), task.fit_loss(one, labels))


@pytest.mark.parametrize("name", NAMES)
def test_predictions_fill_their_columns(name):
    task = task_of(name)
    scores = task.scores(OUTPUTS, 2.0)
    assert scores.shape == OUTPUTS.shape
    named = [*zip(CLASSES, scores[0].tolist(), strict=True)]
    top = sorted(named, key=lambda each: -each[1]) if task.has_classes else named
    for top_k in (0, 2, 3):
        columns = task.columns(CLASSES, top_k)
        assert len({*columns}) == len(columns) == len(task.cells(top, 0.5, top_k))
    json.dumps(task.fields(top, 0.5, 2))
    assert all(text and text == text.strip() for text in (task.title, task.told(top, 2)))


# ----- several labels an image


@pytest.mark.parametrize(
    ("cell", "names"),
    [("a|b", "ab"), (" a ; b;", "ab"), ("", ""), ("b||a", "ba"), ("a|a", "aa"), ("|", "")],
)
def test_several_labels_in_a_cell(cell, names):
    encoded = multi_label.encoder(("a", "b"), by_column=False)
    assert encoded((cell,)) == [float("a" in names), float("b" in names)]
    assert multi_label.wrong(cell, by_column=False) == ""
    assert {*multi_label.outputs_of([(cell,)])} == {*names}


def test_a_class_whose_name_cannot_be_read_gets_a_column():
    columns, rows = multi_label().table(LABELS["multi_label"], ("a|b", "c", "d"))
    assert columns == ["a|b", "c", "d"]
    assert rows[1] == ["0", "1", "1"]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 5))
def test_metrics_of_several_labels_are_scikit_learns(seed, images, classes):
    draws = np.random.default_rng(seed)
    labels = (draws.random((images, classes)) < 0.4).astype(np.int64)
    logits = draws.normal(size=(images, classes)).astype(np.float32)
    task, there = multi_label(), labels.sum(0) > 0
    found = score(
        torch.tensor(logits), torch.tensor(labels).float(), [task.metric, *task.extra_metrics],
        task=task,
    )  # fmt: skip
    if not there.any():
        assert task.metric not in found.figures
        return
    expected = sklearn_metrics.average_precision_score(
        labels[:, there], logits[:, there], average="macro"
    )
    f1 = [
        sklearn_metrics.f1_score(labels[:, n], logits[:, n] > 0, zero_division=0)
        for n in there.nonzero()[0]
    ]
    micro = sklearn_metrics.f1_score(labels.ravel(), logits.ravel() > 0, zero_division=0)
    assert found.of(task.metric) == pytest.approx(expected, abs=1e-5)
    assert found.of("multi_label_macro_f1") == pytest.approx(np.mean(f1), abs=1e-5)
    assert found.of("multi_label_micro_f1") == pytest.approx(micro, abs=1e-5)
    nll = sklearn_metrics.log_loss(
        labels.ravel(), 1 / (1 + np.exp(-logits.ravel().astype(np.float64))), labels=[0, 1]
    )
    assert found.nll == pytest.approx(nll, rel=1e-4)


def test_a_rare_class_is_in_every_part_of_a_split():
    from gmixout.data.sampling import stratified

    labels = torch.zeros(200, 3)
    labels[:, 0] = 1
    labels[::2, 1] = 1
    labels[::20, 2] = 1
    for part, share in zip(stratified(multi_label().strata(labels), (0.2, 0.2), 0), (2, 2, 6),
                           strict=True):  # fmt: skip
        assert labels[part][:, 2].sum() == share
        assert labels[part][:, 1].mean() == pytest.approx(0.5, abs=0.02)


def test_images_without_a_label_are_shared_out_as_a_class_is():
    labels = torch.tensor([[1.0, 0], [0, 0], [0, 1], [1, 1], [1, 0]])
    assert multi_label().strata(labels).tolist() == [0, 2, 1, 1, 0]


# ----- numbers


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 3))
def test_metrics_of_numbers_are_scikit_learns_in_their_units(seed, images, numbers):
    draws = np.random.default_rng(seed)
    labels = torch.tensor(draws.normal(50, 9, (images, numbers))).float()
    task = regression.fitted(labels)
    values = torch.tensor(draws.normal(50, 9, (images, numbers))).double()
    found = score(task.encoded(values), labels, ["mae", "rmse", "r2"], task=task).figures
    truth = labels.double().numpy()
    assert found["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(truth, values))
    rmse = sklearn_metrics.root_mean_squared_error(truth, values)
    assert found["rmse"] == pytest.approx(rmse)
    assert found["r2"] == pytest.approx(sklearn_metrics.r2_score(truth, values), abs=1e-6)


def test_a_set_of_one_value_has_an_r2():
    r2 = METRICS["r2"]
    labels = torch.full((3, 1), 2.0)
    assert r2(labels, labels) == 1
    assert r2(labels + 1, labels) == 0


def test_standardizing_is_undone_and_is_that_of_the_training_set():
    labels = LABELS["regression"]
    task = regression.fitted(labels)
    own = task.encoded(labels.double())
    torch.testing.assert_close(own.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(own.std(0, correction=0), torch.ones(3).double())
    torch.testing.assert_close(task.decoded(own), labels.double())
    assert (task.metric, regression.fitted(labels[:, :1]).metric) == ("r2", "mae")


def test_lower_is_better_and_no_other_metric_says_so():
    assert {name for name, each in METRICS.items() if each.lower} == {"mae", "rmse"}
    assert METRICS["mae"].worth(1.0) > METRICS["mae"].worth(2.0)
    assert METRICS["accuracy"].worth(0.5) == 0.5


@pytest.mark.parametrize("cell", ["", "x", "nan", "inf", "-inf", "1e400", "1,5"])
def test_what_is_no_number_is_refused(cell):
    assert regression.wrong(cell, by_column=False)


@pytest.mark.parametrize("labels", [torch.ones(4, 1), torch.empty(0, 1),
                                    torch.tensor([[1.0, 2], [1, 3]])])  # fmt: skip
def test_numbers_that_are_all_equal_cannot_be_learned(labels):
    with pytest.raises(DataError, match="nothing to learn"):
        regression.fitted(labels)


def test_numbers_that_float32_cannot_tell_apart_are_refused():
    seconds = torch.tensor([[1.7e9], [1.7e9 + 1000]])
    with pytest.raises(DataError, match="subtract what they have in common"):
        regression.fitted(seconds)


def test_a_set_without_any_label_has_no_metric():
    assert "no mAP" in multi_label().unmeasured(torch.zeros(3, 2))
    assert all(task_of(name).unmeasured(LABELS[name]) == "" for name in NAMES)


@pytest.mark.parametrize(
    "values", [{"mean": [0.0], "std": [0.0]}, {"mean": [0.0], "std": []}, {"mean": "x"},
               {"mean": [0.0], "std": [float("nan")]}, {"more": 1}],
)  # fmt: skip
def test_a_file_cannot_say_a_task_that_is_none(values):
    with pytest.raises(ConfigError):
        from_spec({"class_path": "regression", "init_args": values}, LearningTask)


def test_a_file_with_too_few_numbers_is_refused():
    with pytest.raises(ConfigError, match="2 numbers, one for each output"):
        regression((0.0,), (1.0,)).check_outputs(2)
