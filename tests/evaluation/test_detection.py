"""Scores that tell images of unknown classes from known ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve
from torch import nn

from gmixout.errors import DataError
from gmixout.evaluation.detection import (
    DETECTORS,
    Detecting,
    detection,
    detector_scores,
    known_threshold,
)

scores = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=60)


def logits(seed, count=40, classes=5, scale=3.0):
    return scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def test_scores_are_those_of_their_papers_with_higher_for_known():
    given_logits = logits(0)
    found = detector_scores(given_logits)
    shares = torch.tensor([[math.exp(x) for x in row] for row in given_logits.double().tolist()])
    torch.testing.assert_close(found["max_logit"], given_logits.max(1).values)
    torch.testing.assert_close(found["energy"], shares.sum(1).log().float())
    torch.testing.assert_close(
        found["max_softmax"], (shares / shares.sum(1, keepdim=True)).amax(1).float()
    )
    # log sum exp lies between the largest logit and that plus the log of the number of classes
    assert (found["energy"] >= found["max_logit"]).all()
    assert (found["energy"] <= found["max_logit"] + math.log(5) + 1e-5).all()
    # a sure prediction is a known one, by every score
    sure = detector_scores(torch.tensor([[9.0, 0.0, 0.0]]))
    unsure = detector_scores(torch.tensor([[1.0, 1.0, 1.0]]))
    assert all(sure[name] > unsure[name] for name in DETECTORS)
    # energy and the largest logit see a shift of all logits, softmax does not
    moved = detector_scores(given_logits + 2)
    torch.testing.assert_close(moved["energy"], found["energy"] + 2)
    torch.testing.assert_close(moved["max_softmax"], found["max_softmax"])


@settings(max_examples=60, deadline=None)
@given(scores, scores)
def test_detection_is_rank_statistics_of_the_scores(known, unknown):
    known, unknown = torch.tensor(known), torch.tensor(unknown)
    found = detection(known, unknown)
    pairs = known.double()[:, None] - unknown.double()[None, :]
    by_pairs = ((pairs > 0).double() + 0.5 * (pairs == 0).double()).mean()
    assert found.auroc == pytest.approx(float(by_pairs), abs=1e-9)
    labels = [1] * len(known) + [0] * len(unknown)
    both = torch.cat([known, unknown]).double().numpy()
    false, true, _ = roc_curve(labels, both, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(false[(true >= 0.95 - 1e-12).argmax()], abs=1e-9)
    assert found.images == len(unknown)


@settings(max_examples=60, deadline=None)
@given(scores)
def test_the_threshold_is_the_largest_that_95_percent_reach(known):
    values = torch.tensor(known).double()
    threshold = known_threshold(torch.tensor(known))
    assert (values >= threshold).double().mean() >= 0.95
    above = values[values > threshold]
    assert not len(above) or (values >= above.min()).double().mean() < 0.95


def test_large_logits_are_told_apart():
    """A sigmoid, as libraries apply to scores outside of [0, 1], would make them equal."""
    found = detection(torch.tensor([101.0, 102.0]), torch.tensor([99.0, 100.0]))
    assert (found.auroc, found.fpr95) == (1.0, 0.0)


def test_nothing_to_detect_is_an_error():
    with pytest.raises(DataError, match="known and unknown"):
        detection(torch.empty(0), torch.ones(2))
    with pytest.raises(DataError, match="known and unknown"):
        detection(torch.ones(2), torch.empty(0))


class Unknown(torch.utils.data.Dataset):
    """Images of classes that are not the model's: more of them than it has."""

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return logits(7)[index].reshape(5, 1, 1) * 0.1, index

    def project(self, found):
        raise AssertionError("logits of unknown classes are the model's own")


def test_it_is_measured_along_an_evaluation():
    seen = []
    detecting = Detecting(lambda name, *_: seen.append(name))
    known = logits(1)
    detecting.see("id_val", None, logits(2), torch.zeros(40))
    detecting.see("id_test", None, known, torch.zeros(40))
    detecting.see("fog", None, logits(3), torch.zeros(40))
    found = detecting.measure(nn.Flatten(), {"animals": Unknown()}, num_workers=0)
    assert seen == ["id_val", "id_test", "fog", "unknown/animals"]
    expected = detection(known.amax(1), 0.1 * logits(7)[:30].amax(1))
    assert found["animals"].keys() == DETECTORS.keys()
    assert found["animals"]["max_logit"] == expected
    assert found["animals"]["energy"].auroc > 0.5
