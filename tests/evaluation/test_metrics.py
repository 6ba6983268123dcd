import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gmixout.errors import DataError, TrainingError
from gmixout.evaluation.metrics import accuracy, evaluate, predict, score


def dataset(logits, labels):
    """Images that an identity model turns into the given logits."""
    return TensorDataset(torch.as_tensor(logits).float(), torch.as_tensor(labels))


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
    benchmark = SimpleNamespace(
        id_val=right, id_test=seven_of_ten, shifts={"noise/1": wrong, "fonts": right}
    )
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
