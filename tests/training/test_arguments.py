import itertools
import math
from dataclasses import fields

import pytest

from gmixout.errors import ConfigError
from gmixout.training import TrainingArguments
from gmixout.training.arguments import (
    Augmentation,
    Conduct,
    Objective,
    Optimization,
    Selection,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("head_lr", -1e-3),
        ("weight_decay", -0.1),
        ("steps", 0),
        ("batch_size", 0),
        ("seed", -1),
        ("warmup_steps", 300),
        ("warmup_steps", -1),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", math.nan),
        ("log_every_steps", 0),
        ("checkpoint_every_steps", 0),
        ("num_workers", -1),
        ("schedule", "zigzag"),
        ("optimizer", "adam"),
        ("mixed_precision", "fp8"),
        ("augment", "trivial"),
        ("randaugment_ops", 0),
        ("randaugment_magnitude", 31),
        ("mixup", -1.0),
        ("cutmix", math.inf),
        ("label_smoothing", 1.0),
        ("layer_decay", 0.0),
        ("layer_decay", 1.5),
        ("ema_decay", 1.0),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=rf"TrainingArguments\({name}={value!r}\) must be "):
        TrainingArguments(**{name: value})


PARTS = (Optimization, Objective, Augmentation, Selection, Conduct)


def test_every_setting_belongs_to_one_part_and_is_checked_there_alone_too():
    names = [field.name for part in PARTS for field in fields(part)]
    whole = {field.name for field in fields(TrainingArguments)}
    assert len(names) == len({*names})
    assert whole - {*names} == {
        *("seed", "steps", "batch_size", "accumulate", "batches", "mixed_precision"),
        "freeze_batch_norm",
    }
    for part in PARTS:
        made = part()
        for field in fields(part):
            assert getattr(made, field.name) == getattr(TrainingArguments(), field.name)
    for part, wrong in zip(
        PARTS, ("lr", "mixup", "crop_scale", "patience", "num_workers"), strict=True
    ):
        with pytest.raises(ConfigError, match=rf"{part.__name__}\({wrong}=-1\.?0?\) must be "):
            part(**{wrong: -1})
    assert TrainingArguments().conduct() == tuple(field.name for field in fields(Conduct))


def test_the_schedule_rises_and_falls():
    arguments = TrainingArguments(steps=100, warmup_steps=10)
    factors = arguments.lr_factors()[:100]
    assert 0 < factors[0] < factors[5] < factors[10] == 1
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.01
    assert {*TrainingArguments(schedule="constant").lr_factors()} == {1}


def test_identity_is_what_decides_the_outcome():
    plain = TrainingArguments().identity()
    assert TrainingArguments(log_every_steps=1, num_workers=2).identity() == plain
    assert TrainingArguments(lr=0.5).identity() != plain
