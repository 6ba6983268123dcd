"""Save in mid-training, load into fresh objects, go on: bit-equal to a run that never stopped."""

import copy
import io
from dataclasses import replace
from functools import cache

import pytest
import torch
from tiny import CUTS, STRUCTURES, TinyNet, batches, same_state, train

import gmixout
from gmixout import GMixout, dropconnect, mixout, random_mask
from gmixout.errors import GmixoutError, StateError

SETTINGS = {
    "reset": GMixout(mask_rate=0.7, resample_every=4),
    "reset, rescaled": GMixout(mask_rate=0.7, resample_every=4, rescale=True, anchor_decay=0.5),
    "persist": GMixout(mask_rate=0.7, resample_every=4, residual="persist"),
    "persist, rescaled": GMixout(
        mask_rate=0.7, resample_every=4, residual="persist", rescale=True, anchor_decay=0.5
    ),
    "persist, bf16 residual": GMixout(
        mask_rate=0.7, resample_every=3, residual="persist", residual_dtype="bfloat16"
    ),
    "random depth": GMixout(mask_rate=0.7, resample_every=4, mean_start_depth=0.5),
    "bounded depth": GMixout(
        mask_rate=0.7, resample_every=4, mean_start_depth=0.6, min_start_depth=0.3
    ),
    "persist, random depth": GMixout(
        mask_rate=0.7, resample_every=4, mean_start_depth=0.5, residual="persist", moments="carry"
    ),
    "masked biases": GMixout(mask_rate=0.7, resample_every=4, biases="masked"),
    "persist, masked biases": GMixout(
        mask_rate=0.7, resample_every=4, residual="persist", rescale=True, biases="masked"
    ),
    "held biases, random depth": GMixout(
        mask_rate=0.7, resample_every=4, mean_start_depth=0.5, biases="held"
    ),
    "pulled anchor": GMixout(mask_rate=0.7, resample_every=4, anchor_pull=0.3),
    "carried moments": mixout(0.7, resample_every=3, biases="masked"),
    "mixout": mixout(0.7),
    "random mask": random_mask(0.7),
    "dropconnect": dropconnect(0.5),
    "full": GMixout(mask_rate=0, residual="persist"),
}

OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
}


def start(config, optimizer="adamw", dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = TinyNet().to(dtype)
    masked = gmixout.attach(model, config)
    return model, masked, masked.bind(OPTIMIZERS[optimizer](masked.param_groups(lr=1e-3)))


def saved(*objects):
    """The bytes of a file."""
    file = io.BytesIO()
    torch.save([thing.state_dict() for thing in objects], file)
    return file.getvalue()


STEPS = 11


@cache
def uninterrupted(config, optimizer, dtype):
    """The states at the end of a run, with the process on it and without."""
    model, masked, optimizer = start(config, optimizer, dtype)
    train(model, optimizer, list(batches(STEPS, dtype)))
    assert masked.steps == STEPS
    return copy.deepcopy(model.state_dict()), masked.detach().state_dict()


@cache
def interrupted(config, optimizer, dtype):
    """What another run saved, by its number of steps."""
    run, files = start(config, optimizer, dtype), {}
    for step, batch in enumerate(batches(8, dtype), start=1):
        train(run[0], run[2], [batch])
        files[step] = saved(*run)
    return files


def check(config, at, order, optimizer="adamw", dtype=torch.float32):
    states = torch.load(io.BytesIO(interrupted(config, optimizer, dtype)[at]), weights_only=True)
    # Other weights to begin with: all that counts has to come from the states.
    second = start(config, optimizer, dtype, seed=1)
    for thing in order:
        second[thing].load_state_dict(states[thing])
    same(second[0].state_dict(), states[MODEL])
    train(second[0], second[2], list(batches(STEPS, dtype))[at:])
    attached, plain = uninterrupted(config, optimizer, dtype)
    assert second[1].steps == STEPS
    same(second[0].state_dict(), attached)
    same(second[1].detach().state_dict(), plain)


def same(found, expected):
    torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=0)


MODEL, PROCESS, OPTIMIZER = 0, 1, 2


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("at", [3, 6, 8], ids=["mid-period", "later", "boundary"])
def test_resume_is_exact(setting, structure, at):
    config = replace(SETTINGS[setting], **CUTS[structure], block_size=4)
    check(config, at, (MODEL, PROCESS, OPTIMIZER))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    "order",
    [(PROCESS, MODEL, OPTIMIZER), (OPTIMIZER, PROCESS, MODEL), (OPTIMIZER, MODEL, PROCESS)],
    ids=["process first", "model last", "optimizer first"],
)
def test_the_order_of_loading_does_not_matter(setting, order):
    for at in (6, 8):
        check(replace(SETTINGS[setting], block_size=4), at, order)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("setting", ["reset", "persist, rescaled", "carried moments"])
def test_resume_with_other_optimizers(optimizer, setting):
    for at in (7, 8):
        check(SETTINGS[setting], at, (PROCESS, MODEL, OPTIMIZER), optimizer)


@pytest.mark.parametrize("setting", ["reset", "persist, rescaled", "mixout"])
@pytest.mark.parametrize("order", [(MODEL, PROCESS, OPTIMIZER), (PROCESS, MODEL, OPTIMIZER)])
def test_resume_under_half_precision_weights(setting, order):
    check(SETTINGS[setting], 6, order, dtype=torch.bfloat16)


def test_the_models_state_dict_keeps_its_keys_and_holds_phi():
    torch.manual_seed(0)
    plain = TinyNet()
    model, masked, optimizer = start(SETTINGS["persist, rescaled"])
    train(model, optimizer, list(batches(5)))
    state = model.state_dict()
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state, strict=True)
    images = next(batches(1))[0]
    torch.testing.assert_close(plain(images), model(images))
    del masked


def test_loading_other_weights_makes_them_the_pretrained_ones():
    """As if they had been there when the process was put on."""
    for setting in ("reset", "persist", "dropconnect"):
        config = SETTINGS[setting]
        late, masked, optimizer = start(config, seed=1)
        other = TinyNet()
        late.load_state_dict(other.state_dict())
        early = copy.deepcopy(other)
        its_masked = gmixout.attach(early, config)
        its_optimizer = its_masked.bind(OPTIMIZERS["adamw"](its_masked.param_groups(lr=1e-3)))
        train(late, optimizer, list(batches(6)))
        train(early, its_optimizer, list(batches(6)))
        assert same_state(late, early)
        assert same_state(masked.detach(), its_masked.detach())


WRONG = {
    "another config": lambda s: {**s, "config": {**s["config"], "mask_rate": 0.5}},
    "another version": lambda s: {**s, "version": 99},
    "truncated": lambda s: {"version": s["version"]},
    "a weight missing": lambda s: {
        **s, "weights": {k: v for k, v in s["weights"].items() if not k.startswith("hidden")},
    },
    "a tensor missing": lambda s: {
        **s, "weights": {k: {"values": v["values"]} for k, v in s["weights"].items()},
    },
    "another shape": lambda s: {
        **s,
        "weights": {k: {n: t[:1] for n, t in v.items()} for k, v in s["weights"].items()},
    },
    "no state at all": lambda s: s["weights"],
    "None": lambda s: None,
    **{
        f"steps {steps!r:.20}": lambda s, steps=steps: {**s, "steps": steps}
        for steps in (-3, 2.9, "3", True, None, 10**30, [3], float("nan"), torch.tensor(3))
    },
    **{
        f"version {version!r:.20}": lambda s, version=version: {**s, "version": version}
        for version in (1, "2", 2.0, True, None, torch.tensor([2, 2]))
    },
    **{
        f"{part} {value!r:.20}": lambda s, part=part, value=value: {**s, part: value}
        for part in ("config", "weights", "moments", "periods")
        for value in (3, "x", None, [1], {"x": 1}, {"hidden.weight": None}, torch.zeros(2))
    },
    **{
        f"values {name}": lambda s, change=change: {
            **s, "weights": {
                k: {n: change(t) if n == "values" else t for n, t in v.items()}
                for k, v in s["weights"].items()
            },
        }
        for name, change in {
            "boolean": lambda t: t.bool(), "whole": lambda t: t.long(),
            "complex": lambda t: t.to(torch.complex64), "nan": lambda t: t * float("nan"),
            "infinite": lambda t: t / 0, "none": lambda t: None, "a list": lambda t: t.tolist(),
            "a dimension more": lambda t: t[None], "empty": lambda t: t[:0],
        }.items()
    },
    "a setting that is unknown": lambda s: {**s, "config": {**s["config"], "colour": "red"}},
    "a setting out of range": lambda s: {**s, "config": {**s["config"], "mask_rate": 7}},
}  # fmt: skip


MOMENTS = {
    f"moments {name}": lambda s, change=change: {
        **s, "moments": {
            k: {n: change(t) for n, t in v.items()} for k, v in s["moments"].items()
        },
    }
    for name, change in {
        "of another shape": lambda t: t[:1], "whole": lambda t: t.long(), "3": lambda t: 3,
        "not finite": lambda t: t / 0, "none": lambda t: None,
    }.items()
}  # fmt: skip
MOMENTS["moments of another optimizer"] = lambda s: {
    **s,
    "moments": {k: {"momentum_buffer": v["exp_avg"]} for k, v in s["moments"].items()},
}


@pytest.mark.parametrize("wrong", [*WRONG, *MOMENTS])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(wrong):
    setting = "mixout" if wrong in MOMENTS else "persist"
    file = interrupted(SETTINGS[setting], "adamw", torch.float32)[6]
    state = {**WRONG, **MOMENTS}[wrong](torch.load(io.BytesIO(file), weights_only=True)[PROCESS])
    other, its_masked, _ = start(SETTINGS[setting], seed=1)
    before, its_state = copy.deepcopy(other.state_dict()), copy.deepcopy(its_masked.state_dict())
    with pytest.raises(StateError):
        its_masked.load_state_dict(state)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())
    now = its_masked.state_dict()
    assert now["steps"] == its_state["steps"] == 0
    for name, tensors in now["weights"].items():
        assert all(torch.equal(its_state["weights"][name][k], t) for k, t in tensors.items())


def test_carried_moments_go_where_their_weights_are():
    """A checkpoint is read into the memory of the CPU, whatever goes on with it."""
    states = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            masked = gmixout.attach(TinyNet(), mixout(0.5, resample_every=1))
            optimizer = masked.bind(torch.optim.SGD(masked.param_groups(1e-3), momentum=0.9))
            if states:
                masked.load_state_dict(states[0])
            for values in masked.parameters():
                values.grad = torch.ones_like(values)
            optimizer.step()
        states.append(masked.state_dict())
    kinds = {moment.device.type for w in states[1]["moments"].values() for moment in w.values()}
    assert kinds == {"meta"}


def test_carried_moments_want_an_optimizer_and_say_so():
    model, masked, optimizer = start(SETTINGS["mixout"])
    train(model, optimizer, list(batches(3)))
    unbound = gmixout.attach(TinyNet(), SETTINGS["mixout"])
    with pytest.raises(GmixoutError, match="Bind the optimizer"):
        unbound.load_state_dict(masked.state_dict())
    assert unbound.steps == 0
