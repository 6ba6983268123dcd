"""A pretrained model of the user's own: its head is the layer that it names."""

import pytest
import torch
from torch import nn

from gmixout.errors import ConfigError
from gmixout.models import Pretrained

CLASSES = ("no", "yes")


def model():
    layers = {"head": nn.Linear(3, 4), "act": nn.ReLU(), "score": nn.Linear(4, 2)}
    found = nn.Sequential()
    for name, layer in layers.items():
        found.add_module(name, layer)
    return found


@pytest.mark.parametrize(
    ("head", "names"), [("score", ("score",)), (("head", "score"), ("head", "score")), ((), ())]
)
def test_one_name_several_or_none(head, names):
    assert Pretrained(model(), head, CLASSES).heads == names


@pytest.mark.parametrize("head", ["fc", ("score", "fc"), "score.weight", "", 3, None, nn.ReLU()])
def test_what_is_not_in_the_model_is_refused_with_what_is(head):
    with pytest.raises(ConfigError, match="head="):
        Pretrained(model(), head, CLASSES)


@pytest.mark.parametrize("classes", [(), "ab"])
def test_classes_are_a_tuple_of_names(classes):
    with pytest.raises(ConfigError, match="must be a tuple of class names"):
        Pretrained(model(), "score", classes)


def test_a_copy_has_a_model_of_its_own():
    first = Pretrained(model(), "score", CLASSES)
    second = first.copy()
    with torch.no_grad():
        second.model.score.weight.zero_()
    assert first.model.score.weight.any()
    assert second.heads == first.heads
