import math
import resource

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gmixout.data import Benchmark
from gmixout.data.common_corruptions.constants import KINDS
from gmixout.errors import ConfigError, DataError, TrainingError
from gmixout.evaluation.metrics import (
    MAX_BATCH,
    MAX_BATCH_VALUES,
    Scores,
    accuracy,
    batch_size_for,
    check_metrics,
    evaluate,
    figure,
    predict,
    score,
    summarise_shifts,
)
from gmixout.evaluation.official import METRICS
from gmixout.tasks import multi_label


def dataset(logits, labels, groups=None):
    """Images that an identity model turns into the given logits."""
    data = TensorDataset(torch.as_tensor(logits).float(), torch.as_tensor(labels))
    if groups is not None:
        data.groups = torch.as_tensor(groups)
    return data


def benchmark_of(**changes):
    right = dataset(torch.eye(3), [0, 1, 2])
    sets = {"id_val": right, "id_test": right, "shifts": {"fonts": right}}
    named = {"name": "by hand", "classes": tuple("abc"), "train": right}
    return Benchmark(**(named | sets | changes))


@pytest.fixture
def seven_of_ten():
    logits = torch.eye(3).repeat(4, 1)[:10]
    labels = logits.argmax(1)
    labels[:3] = (labels[:3] + 1) % 3
    return dataset(logits, labels)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 512])
def test_known_answer_whatever_the_batch_size(seven_of_ten, batch_size):
    assert accuracy(nn.Identity(), seven_of_ten, batch_size) == 7 / 10


def test_modes_come_back_and_dropout_is_off():
    model = nn.Sequential(nn.Dropout(0.9), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    nn.init.eye_(model[1][0].weight)
    nn.init.zeros_(model[1][0].bias)
    model.train()
    model[1][1].eval()
    before = [module.training for module in model.modules()]
    data = dataset(torch.eye(3), [0, 1, 2])
    assert accuracy(model, data) == 1.0
    assert [module.training for module in model.modules()] == before
    assert model[1][1].num_batches_tracked == 0


def test_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Identity()).train()
    with pytest.raises(TrainingError):
        accuracy(model, dataset([[float("nan"), 0.0]], [0]))
    assert all(module.training for module in model.modules())


def test_global_random_state_is_untouched(seven_of_ten):
    state = torch.get_rng_state()
    accuracy(nn.Identity(), seven_of_ten)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(value):
    with pytest.raises(TrainingError, match=r"not finite.*lower learning rate"):
        accuracy(nn.Identity(), dataset([[0.0, 1.0], [value, 0.0]], [1, 1]), batch_size=1)


def test_empty_data_set():
    with pytest.raises(DataError, match="empty"):
        accuracy(nn.Identity(), dataset(torch.empty(0, 3), torch.empty(0, dtype=torch.long)))


@pytest.mark.parametrize("label", [-1, 3, 100])
def test_label_without_a_logit(label):
    with pytest.raises(DataError, match=f"label {label} is out of range.*3 classes.*0 to 2"):
        accuracy(nn.Identity(), dataset(torch.eye(3), [0, label, 1]))


def test_evaluate_covers_every_set_and_names_the_broken_one(seven_of_ten):
    right = dataset(torch.eye(3), [0, 1, 2])
    wrong = dataset(torch.eye(3), [1, 2, 0])
    benchmark = benchmark_of(id_test=seven_of_ten, shifts={"noise/1": wrong, "fonts": right})
    found = evaluate(nn.Identity(), benchmark)
    assert {name: scores.accuracy for name, scores in found.items()} == {
        "id_val": 1.0,
        "id_test": 0.7,
        "noise/1": 0.0,
        "fonts": 1.0,
    }
    assert found["id_test"].examples == 10
    benchmark.shifts["fonts"] = dataset(torch.eye(3), [0, 1, 9])
    with pytest.raises(DataError, match=r"`fonts`.*label 9"):
        evaluate(nn.Identity(), benchmark)


def test_scores_of_predictions_with_a_known_answer():
    # two confident images, one of them wrong; confidence 0.9, accuracy 0.5
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
    scores = score(logits, torch.tensor([0, 1]))
    assert scores.accuracy == 0.5
    assert scores.nll == pytest.approx(-(math.log(0.9) + math.log(0.1)) / 2)
    assert scores.ece == pytest.approx(0.4, abs=1e-6)
    assert scores.examples == 2


def test_ece_is_the_weighted_gap_over_bins():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 4, generator=generator)
    labels = torch.randint(4, (500,), generator=generator)
    confidence, predicted = logits.softmax(1).max(1)
    bins = (confidence * 15).ceil().long()
    gaps = [
        (confidence[bins == b].mean() - (predicted == labels)[bins == b].float().mean()).abs()
        * (bins == b).float().mean()
        for b in bins.unique()
    ]
    assert score(logits, labels).ece == pytest.approx(float(sum(gaps)), abs=1e-5)


def test_predictions_keep_the_order_of_the_data(seven_of_ten):
    logits, labels = predict(nn.Identity(), seven_of_ten, batch_size=3)
    assert torch.equal(logits, seven_of_ten.tensors[0])
    assert torch.equal(labels, seven_of_ten.tensors[1])


def test_a_data_set_with_classes_of_its_own_is_scored_among_them():
    data = dataset([[9.0, 1.0, 2.0], [9.0, 2.0, 1.0]], [1, 0])
    assert accuracy(nn.Identity(), data) == 0.5
    data.project = lambda logits: logits[:, 1:]  # two of the model's three classes
    assert accuracy(nn.Identity(), data) == 1.0


def test_official_metrics_are_those_of_each_set_and_accuracy_stays_itself(seven_of_ten):
    names = ("macro_recall", "accuracy")
    benchmark = benchmark_of(metric="macro_f1", extra_metrics=names, id_test=seven_of_ten)
    found = evaluate(nn.Identity(), benchmark, batch_size=4)
    logits, labels = seven_of_ten.tensors
    assert found["id_test"].figures == {
        name: METRICS[name](logits, labels) for name in ("macro_f1", "macro_recall")
    }
    assert found["id_test"].accuracy == 0.7
    assert {*found} == {"id_val", "id_test", "fonts"}
    assert found["fonts"].figures["macro_f1"] == 1.0
    assert figure(nn.Identity(), seven_of_ten, "macro_f1") == found["id_test"].figures["macro_f1"]
    plain = evaluate(nn.Identity(), benchmark_of(extra_metrics=("accuracy",)))
    assert all(scores.figures == {} for scores in plain.values())


def test_metrics_of_groups_are_left_out_where_a_set_has_none():
    """As for ImageNet-LT: the test images have shot groups, those of validation have none."""
    logits, labels = torch.eye(3)[[0, 1, 1, 2]], [0, 1, 2, 2]
    shots = ("many_shot", "medium_shot", "few_shot")
    test = dataset(logits, labels, groups=[0, 0, 1, 1])
    found = evaluate(nn.Identity(), benchmark_of(extra_metrics=shots, id_test=test, shifts={}))
    assert found["id_val"].figures == {}
    # there is no class with few images, so nothing to measure
    assert found["id_test"].figures == {"many_shot": 1.0, "medium_shot": 0.5}


def test_what_cannot_be_measured_is_said_before_anything_is():
    def broken(_):
        raise AssertionError("the model was used")

    grouped = dataset(torch.eye(3), [0, 1, 2], groups=[0, 1, 2])
    for error, words, changes in (
        (ConfigError, "metric='f1' must be one of: accuracy, macro_f1", {"metric": "f1"}),
        (ConfigError, "extra_metrics='f1' must be", {"extra_metrics": ("accuracy", "f1")}),
        (ConfigError, "summary='mce' must be one of: mce_alexnet", {"summary": "mce"}),
        (
            DataError,
            "extra_metrics='few_shot' needs groups, and no set has any",
            {"extra_metrics": ("few_shot",)},
        ),
        (
            DataError,
            "metric='worst_group' needs groups.*have none: id_val, fonts.*`groups`",
            {"metric": "worst_group", "id_test": grouped},
        ),
        (
            ConfigError,
            r"unknown=\['odd'\].* is for one class an image.* multi_label",
            {
                "unknown": {"odd": grouped},
                "task": multi_label(),
                "metric": "mean_average_precision",
            },
        ),
    ):
        benchmark = benchmark_of(**changes)
        for act in (check_metrics, lambda each: evaluate(broken, each)):
            with pytest.raises(error, match=words):
                act(benchmark)
    check_metrics(benchmark_of(extra_metrics=("worst_group",), id_test=grouped))


def test_the_official_figure_over_all_shifts_is_there_or_a_note_says_why_not():
    names = [f"{kind}/{severity}" for kind in KINDS for severity in range(1, 6)]
    half = Scores(0.5, 1.0, 0.1, 10)
    name = "mean_corruption_error_unnormalised"
    scores = dict.fromkeys([*names, "fonts", "id_test"], half)
    assert summarise_shifts(name, scores) == ({name: 0.5}, [])
    assert summarise_shifts(None, scores) == ({}, [])
    del scores["fog/2"]
    summary, (note,) = summarise_shifts(name, scores)
    assert summary == {}
    assert "without its mean corruption error" in note
    assert "fog/2" in note


def test_large_images_go_in_small_batches_and_small_ones_as_ever():
    for side, expected in ((28, MAX_BATCH), (64, MAX_BATCH)):
        assert batch_size_for([(torch.empty(3, side, side, device="meta"), 0)]) == expected
    for side in (224, 336, 4096):
        size = batch_size_for([(torch.empty(3, side, side, device="meta"), 0)])
        assert 1 <= size < MAX_BATCH
        assert size == 1 or size * 3 * side**2 <= MAX_BATCH_VALUES < (size + 1) * 3 * side**2


def test_workers_change_nothing_but_the_time(seven_of_ten):
    for one, two in zip(
        predict(nn.Identity(), seven_of_ten, batch_size=3),
        predict(nn.Identity(), seven_of_ten, batch_size=3, num_workers=1),
        strict=True,
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize("rows", [1, 3, 10, 64])
def test_scores_are_the_same_however_many_images_are_looked_at_at_once(rows, monkeypatch):
    """And those of the whole: the parts are for the memory, which many classes take."""
    from torchmetrics.functional import calibration_error

    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(64, 7, generator=generator)
    labels = torch.randint(7, (64,), generator=generator)
    monkeypatch.setattr("gmixout.evaluation.metrics.MAX_BATCH_VALUES", rows * 7)
    scores = score(logits, labels)
    kind = {"task": "multiclass", "num_classes": 7, "n_bins": 15}
    assert scores.ece == pytest.approx(float(calibration_error(logits.softmax(1), labels, **kind)))
    nll = nn.functional.cross_entropy(logits.double(), labels)
    assert scores.nll == pytest.approx(float(nll), rel=1e-12)


def test_many_classes_take_little_more_memory_than_twice_their_logits():
    logits, labels = torch.ones(4000, 10_000), torch.zeros(4000, dtype=torch.int64)
    score(logits[:10], labels[:10])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    score(logits, labels)
    used = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    # two arrays of their size, 320 MB; its softmax and float64 were 800 MB
    assert used < 2.25 * 4 * logits.numel()


def test_predictions_can_be_learned_from():
    logits, labels = predict(nn.Identity(), dataset(torch.eye(3), [0, 1, 2]))
    weight = torch.ones(3, 3, requires_grad=True)
    nn.functional.cross_entropy(logits @ weight, labels).backward()
    assert weight.grad is not None
