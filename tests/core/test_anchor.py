"""The library's training runs against a slow dense process in float64, step by step."""

import copy

import pytest
import torch
from dense_process import DenseProcess, adamw, sgd
from tiny import CUTS, MASKED_OF_TINY, STRUCTURES, TinyNet, batches, loss_of

import gmixout
from gmixout import GMixout

OPTIMIZERS = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.05), sgd(0.05)),
    "momentum": (
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8, weight_decay=0.1),
        sgd(0.02, momentum=0.8, weight_decay=0.1),
    ),
    # An epsilon this large keeps 200 steps of two roundings from drifting apart.
    "adamw": (
        lambda p: torch.optim.AdamW(p, lr=0.003, weight_decay=0.1, eps=1e-3),
        adamw(0.003, weight_decay=0.1, eps=1e-3),
    ),
}

SETTINGS = {
    "reset": {"residual": "reset"},
    "reset, rescaled": {"residual": "reset", "rescale": True, "anchor_decay": 0.6},
    "persist": {"residual": "persist"},
    "persist, rescaled": {"residual": "persist", "rescale": True, "anchor_decay": 0.5},
    "persist, lambda 0": {"residual": "persist", "anchor_decay": 0.0},
    "persist, slow anchor": {"residual": "persist", "anchor_decay": 0.99},
    "persist, fixed anchor": {"residual": "persist", "anchor_decay": 1.0, "resample_every": 1},
    "one mask": {"residual": "reset", "resample_every": None, "anchor_decay": 1.0},
    "dropconnect": {
        "residual": "persist",
        "anchor": "zero",
        "anchor_decay": 1.0,
        "rescale": True,
        "mask_rate": 0.25,
    },
}


def close(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-9, atol=1e-9, msg=name)


def check_against_dense(config, optimizer, steps):
    make, rule = OPTIMIZERS[optimizer]
    model = TinyNet().double()
    slow = DenseProcess(copy.deepcopy(model), MASKED_OF_TINY, config, rule)
    masked = gmixout.attach(model, config)
    assert [w.name for w in masked.summary().weights] == MASKED_OF_TINY
    bound = masked.bind(make([p for p in model.parameters() if p.requires_grad]))
    for batch in batches(steps, torch.float64):
        slow.step(lambda call, batch=batch: loss_of(call, batch))
        loss_of(model, batch).backward()
        bound.step()
        bound.zero_grad()
        close(model.state_dict(), slow.phi())
    plain = masked.detach()
    close(plain.state_dict(), slow.plain())


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_and_structure(setting, structure):
    options = {"mask_rate": 0.75, "anchor_decay": 0.9, "resample_every": 3, "block_size": 2}
    options |= {**CUTS[structure], "seed": 5} | SETTINGS[setting]
    check_against_dense(GMixout(**options), "sgd", steps=14)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("residual", ["reset", "persist"])
@pytest.mark.parametrize("rescale", [False, True])
def test_optimizers_with_memory_start_anew_each_period(optimizer, residual, rescale):
    config = GMixout(
        mask_rate=0.5, anchor_decay=0.7, resample_every=4, residual=residual, rescale=rescale
    )
    check_against_dense(config, optimizer, steps=18)


@pytest.mark.parametrize(
    ("structure", "residual", "rescale"), [("row", "reset", False), ("element", "persist", True)]
)
def test_the_anchor_over_200_steps(structure, residual, rescale):
    config = GMixout(
        mask_rate=0.75,
        anchor_decay=0.9,
        resample_every=7,
        **CUTS[structure],
        block_size=2,
        residual=residual,
        rescale=rescale,
    )
    check_against_dense(config, "adamw", steps=200)


def test_residual_in_half_precision_on_the_cpu_is_the_same_process_roughly():
    """Storage of the dense residual alone differs, so the runs part by its rounding."""
    states = []
    for dtype in (None, "bfloat16"):
        config = GMixout(
            mask_rate=0.5,
            resample_every=2,
            residual="persist",
            residual_dtype=dtype,
            residual_device="cpu" if dtype else None,
        )
        torch.manual_seed(0)
        model = TinyNet()
        masked = gmixout.attach(model, config)
        residual = config.residual_dtype
        assert residual == dtype
        before = copy.deepcopy(model.state_dict())
        bound = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
        for batch in batches(20):
            loss_of(model, batch).backward()
            bound.step()
            bound.zero_grad()
        states.append(masked.detach().state_dict())
    for name in MASKED_OF_TINY:
        moved = (states[0][name] - before[name]).norm()
        assert 0 < (states[1][name] - states[0][name]).norm() < 0.05 * moved
