"""The measurement of planted labels plants what it says and counts what is found."""

import pytest
import torch

label_noise = pytest.importorskip("label_noise")


def test_a_share_of_the_labels_is_wrong_and_known():
    labels = torch.arange(5).repeat(40)
    changed, wrong = label_noise.planted(labels, 0.05, 5, seed=1)
    assert {*(changed != labels).nonzero().flatten().tolist()} == wrong
    assert len(wrong) == 10
    assert changed.min() >= 0
    assert changed.max() < 5
    again, _ = label_noise.planted(labels, 0.05, 5, seed=2)
    assert not torch.equal(again, changed)


def test_hits_are_counted():
    assert label_noise.line(0, "x", {1, 2, 3, 4}, {1, 2, 9}) == (
        "| 0 | x | 3 | 4 | 2 | 0.50 | 0.67 |"
    )
