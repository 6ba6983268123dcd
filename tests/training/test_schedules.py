"""Schedules of the learning rate by name, and schedulers of torch."""

import inspect
import pickle
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from gmixout.bench.job import identity_of_training
from gmixout.errors import ConfigError
from gmixout.methods import get_method
from gmixout.named import from_spec, spec_of
from gmixout.training import TrainingArguments
from gmixout.training.schedules import SCHEDULES, LrSchedule

FULL = get_method("full")
FALLING = ("cosine", "linear", "wsd")


def rates_of(kind, steps, **options):
    """The rates that a scheduler of torch itself gives a group with the peak 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = kind(optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=st.integers(1, 300), warmup=st.integers(0, 50))
def test_shares_of_any_run_are_between_zero_and_the_peak(name, steps, warmup):
    arguments = TrainingArguments(schedule=name, steps=warmup + steps, warmup_steps=warmup)
    factors = arguments.lr_factors()
    assert len(factors) == arguments.steps + 1
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    if not arguments.curve.has_warmup:
        assert factors[warmup] == 1
        assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


@pytest.mark.parametrize("name", FALLING)
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_what_falls_ends_where_it_should(name, final):
    shares = SCHEDULES[name](final=final).shares(50)
    assert (shares[0], shares[-1]) == (1.0, pytest.approx(final, abs=1e-12))


def test_the_shapes():
    assert SCHEDULES["wsd"](decay=0.25).shares(8) == [1.0] * 7 + [0.5, 0.0]
    assert SCHEDULES["step"]().shares(8) == pytest.approx([1.0] * 4 + [0.1] * 2 + [0.01] * 3)
    cosine = rates_of(lr_scheduler.CosineAnnealingLR, 40, T_max=40)
    assert SCHEDULES["cosine"]().shares(40)[:40] == pytest.approx(cosine)
    linear = rates_of(lr_scheduler.LinearLR, 40, start_factor=1.0, end_factor=0.0, total_iters=40)
    assert SCHEDULES["linear"]().shares(40)[:40] == pytest.approx(linear)
    cycle = rates_of(lr_scheduler.OneCycleLR, 40, max_lr=1.0, total_steps=41, cycle_momentum=False)
    assert SCHEDULES["one_cycle"]().shares(40)[:40] == cycle
    assert SCHEDULES["one_cycle"]().has_warmup


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_name_and_its_object_without_options_are_one_setting(name):
    named, made = (TrainingArguments(schedule=each) for each in (name, SCHEDULES[name]()))
    assert named == made
    assert made.schedule == name
    identity = identity_of_training(FULL, made)["training"]
    assert identity == ({} if name == "cosine" else {"schedule": name})
    assert from_spec(spec_of(named.curve), LrSchedule) == named.curve
    assert pickle.loads(pickle.dumps(named.curve)) == named.curve


def test_options_tell_runs_from_one_another():
    kinds = [*SCHEDULES, SCHEDULES["cosine"](final=0.1), SCHEDULES["wsd"](decay=0.5)]
    kinds += [SCHEDULES["step"](at=(0.5,)), SCHEDULES["one_cycle"](pct_start=0.1)]
    kinds += [LrSchedule.adopted(lr_scheduler.ExponentialLR)(gamma=g) for g in (0.9, 0.99)]
    found = {str(identity_of_training(FULL, TrainingArguments(schedule=each))) for each in kinds}
    assert len(found) == len(kinds)


OPTIONS = {
    "CosineAnnealingLR": {}, "CosineAnnealingWarmRestarts": {"T_0": 10}, "ExponentialLR": {
        "gamma": 0.9}, "MultiStepLR": {"milestones": (3, 5)}, "StepLR": {"step_size": 3},
    "PolynomialLR": {}, "ConstantLR": {}, "LinearLR": {}, "OneCycleLR": {}, "CyclicLR": {
        "base_lr": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_a_scheduler_of_torch_gives_its_own_rates(name):
    kind = getattr(lr_scheduler, name)
    made = LrSchedule.adopted(kind)(**OPTIONS[name])
    own = {"T_max": 30, "total_steps": 31, "max_lr": 1.0, "cycle_momentum": False}
    own = {n: v for n, v in own.items() if n in inspect.signature(kind).parameters}
    assert made.shares(30)[:30] == rates_of(kind, 30, **own, **OPTIONS[name])
    assert pickle.loads(pickle.dumps(made)) == made
    assert TrainingArguments(schedule=made).lr_factors()


@dataclass(frozen=True)
class Odd(LrSchedule):
    value: float = 1.0
    more: int = 1

    def shares(self, steps: int) -> list[float]:
        return [self.value] * (steps + self.more)


@pytest.mark.parametrize("made", [Odd(more=0), Odd(-1.0), Odd(float("1e308") * 1)])
def test_shares_of_ones_own_are_checked(made):
    arguments = TrainingArguments(schedule=made)
    if made.value > 1:
        assert arguments.lr_factors()
        return
    with pytest.raises(ConfigError, match=r"Odd.* must give 301 finite shares"):
        arguments.lr_factors()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("ReduceLROnPlateau", {}), ("StepLR", {"step_size": 0}), ("OneCycleLR", {"pct_start": 7})],
)
def test_what_follows_more_than_steps_or_cannot_be_made_is_refused(kind, options):
    made = LrSchedule.adopted(getattr(lr_scheduler, kind))(**options)
    with pytest.raises(ConfigError, match=f"schedule {kind}.* by the number of steps alone"):
        TrainingArguments(schedule=made).lr_factors()


@pytest.mark.parametrize(
    ("name", "options"),
    [("wsd", {"decay": 0}), ("cosine", {"final": 2}), ("step", {"at": (1.0,)}), ("step", {"at": 3}),
     ("step", {"factor": -1}), ("linear", {"final": "x"})],
)  # fmt: skip
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(ConfigError, match=rf"{name}\({next(iter(options))}="):
        SCHEDULES[name](**options)
