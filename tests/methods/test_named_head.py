"""The head is the layer that the pretrained model names, whatever it and others are called."""

import pytest
from small_models import ALL, TRAINED
from torch import nn
from toy_benchmark import toy_pretrained


class Misnamed(nn.Module):
    """Its `head` is a hidden layer, and `tail` scores the classes."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.tail = nn.Linear(9, 12), nn.Linear(12, 12), nn.Linear(12, 4)


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_takes_the_named_layer_for_the_head(name):
    model = Misnamed()
    tail = set(model.tail.parameters())
    groups = ALL[name].start(toy_pretrained(model, "tail"), 0).param_groups(lr=0.1, head_lr=0.2)
    head = {p for group in groups if group["name"] == "head" for p in group["params"]}
    assert head == tail
    trained = {p for group in groups for p in group["params"] if p.requires_grad}
    assert tail <= trained
    if name == "linear_probe":
        assert trained == tail
