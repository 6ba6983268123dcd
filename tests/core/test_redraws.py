"""A redraw of many weights: the masks and anchors of one at a time, in few operations."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import CUTS, STRUCTURES, UNPAIRED, TinyNet, batches, masked_copy, train
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gmixout
from gmixout import GMixout
from gmixout.core import masks
from gmixout.core.masks import STRUCTURES as MAKERS
from gmixout.core.masks import count_units, draw, draw_each, in_groups
from gmixout.core.process import MaskedWeight, redraw

SHAPES = [(8, 4), (8, 4), (8, 4, 3, 3), (16,), (4, 8), (16, 2), (8, 4), (5, 7)]


@pytest.mark.parametrize("batch", [1, 40, 10**6])
@pytest.mark.parametrize("rate", [0, 0.5, 0.9])
def test_drawn_together_or_alone_masks_are_the_same(rate, batch, monkeypatch):
    monkeypatch.setattr(masks, "BATCH_ENTRIES", {"cpu": batch})
    weights = []
    for kind in STRUCTURES:
        for place, shape in enumerate(SHAPES):
            options = {"group_size": 1, **CUTS[kind]}
            structure = MAKERS[options["structure"]](shape, 2)
            structure = in_groups(structure, shape, rate, options["group_size"])
            weights.append((structure, shape, count_units(structure, shape, rate), f"w{place % 7}"))
    together = draw_each(weights, seed=3, period=5, device="cpu")
    for (structure, shape, count, name), index in zip(weights, together, strict=True):
        alone = draw(structure, shape, count, seed=3, name=name, period=5)
        assert torch.equal(index, alone)
    assert torch.equal(together[0], draw_each(weights[:1], seed=3, period=5, device="cpu")[0])


CONFIGS = {
    "reset": GMixout(mask_rate=0.75, rescale=True, anchor_pull=0.1, biases="masked"),
    "persist": GMixout(mask_rate=0.75, residual="persist", biases="masked"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("structure", UNPAIRED)
@pytest.mark.parametrize("name", CONFIGS)
def test_redrawn_together_or_one_by_one_weights_are_the_same(name, structure, dtype):
    config = replace(CONFIGS[name], **CUTS[structure], block_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(128, 8), nn.Linear(8, 8),
        nn.Linear(8, 8), nn.Linear(8, 4),
    ).to(dtype)  # fmt: skip
    ends = []
    for together in (True, False):
        copied, masked = masked_copy(model, config)
        optimizer = masked.bind(torch.optim.SGD(masked.param_groups(0.1)))
        train(copied, optimizer, list(batches(3, dtype)))
        weights = list(masked._weights.values())
        for group in [weights] if together else [[each] for each in weights]:
            redraw(group, 1)
        ends.append({**masked.snapshot(), **{n: b.clone() for n, b in copied.named_buffers()}})
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    assert len(ends[0]) > len(list(model.parameters()))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_band_is_known_without_a_look_at_the_device(structure):
    """As a slice with the numbers of `index`: after a redraw, a resume, a reset and in a copy."""
    model, masked = masked_copy(TinyNet(), GMixout(mask_rate=0.75, **CUTS[structure], block_size=2))
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))

    def check(model):
        found = [each for each in model.modules() if isinstance(each, MaskedWeight)]
        for weight in found:
            if weight.band is not None:
                assert torch.equal(torch.arange(100)[weight.band], weight.index)
        return sum(weight.band is not None for weight in found)

    bands = check(model)
    assert (bands == 4) == (structure == "bands")
    train(model, optimizer, list(batches(10)))
    saved = copy.deepcopy(masked.state_dict())
    assert check(model) == check(copy.deepcopy(model)) == bands
    train(model, optimizer, list(batches(10)))
    masked.load_state_dict(saved)
    assert check(model) == bands
    masked.reset()
    assert check(model) == bands


class Operations(TorchDispatchMode):
    """Counts what a device would run; views run nothing."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += not func.is_view
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_redraw_takes_two_operations_a_weight(dtype):
    """Its entries are written and gathered; all else is done for all weights of a size at once."""
    counts = {}
    for depth in (2, 12):
        model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(depth)), nn.Linear(16, 4))
        masked = gmixout.attach(model.to(dtype), GMixout())
        weights = list(masked._weights.values())
        with Operations() as called:
            redraw(weights, 1)
        counts[depth] = called.count
    assert counts[12] - counts[2] == 2 * 10
    assert counts[2] < 80
