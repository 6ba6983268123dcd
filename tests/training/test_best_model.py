"""The best model of a run by in-domain validation, and early stopping."""

import math
import signal
from functools import partial

import pytest
import torch
from toy_benchmark import toy, toy_pretrained

from gmixout.errors import ConfigError, StateError
from gmixout.methods import get_method
from gmixout.training import TrainingArguments, TrainingInterrupted, train
from gmixout.training.checkpoint import load_checkpoint, save_checkpoint

STEPS = 24


class Script:
    """Validation values in the order of the calls; keeps a copy of the weights of each."""

    def __init__(self, *values):
        self.values, self.seen = values, []

    def __call__(self, state):
        self.seen.append({name: value.clone() for name, value in state.items()})
        return self.values[len(self.seen) - 1]


def run(validate, checkpoint=None, on_progress=lambda *_: None, name="full", **settings):
    arguments = TrainingArguments(
        **{
            "steps": STEPS,
            "batch_size": 7,
            "lr": 1e-2,
            "select": "id_validation",
            "validate_every_steps": 4,
            "log_every_steps": 1,
            **settings,
        }
    )
    start = partial(get_method(name).start, seed=0)
    return train(
        toy_pretrained(), start, toy().train, arguments, checkpoint, "run", on_progress,
        validate=validate,
    )  # fmt: skip


def assert_is(model, state):
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("name", ["full", "lora", "gmixout", "mixout", "swa"])
def test_the_best_model_is_kept_and_the_steps_are_those_of_any_run(name):
    script = Script(0.1, 0.5, 0.7, 0.7, 0.2, 0.6)
    found = run(script, name=name)
    assert (found.step, found.kept_step) == (STEPS, 12)  # of equal ones the first
    assert_is(found.model, script.seen[2])
    assert found.losses == run(None, name=name, select="last", validate_every_steps=None).losses


def test_the_last_model_is_a_candidate_even_off_the_beat():
    script = Script(0.1, 0.2, 0.3)
    found = run(script, steps=10)
    assert (found.step, found.kept_step) == (10, 10)
    assert_is(found.model, script.seen[2])


def test_by_default_validation_comes_ten_times():
    assert list(TrainingArguments(steps=57, select="id_validation").validate_at) == [
        *range(5, 57, 5)
    ]
    assert list(TrainingArguments(steps=3, select="id_validation").validate_at) == [1, 2]
    assert list(TrainingArguments(steps=57).validate_at) == []


def test_patience_counts_validations_without_a_better_one():
    script = Script(0.1, 0.5, 0.4, 0.6, 0.6, 0.5)
    found = run(script, patience=2)
    assert (found.step, found.kept_step) == (24, 16)
    script = Script(0.1, 0.5, 0.4, 0.5)
    found = run(script, patience=2)
    assert (found.step, found.kept_step) == (16, 8)
    assert len(found.losses) == 16
    assert_is(found.model, script.seen[1])


def test_a_value_that_is_no_number_is_not_the_best():
    found = run(Script(0.3, math.nan, 0.4, math.nan, 0.2, 0.1))
    assert found.kept_step == 12


def interrupt_at(step):
    def on_progress(now, loss):
        if now == step:
            signal.raise_signal(signal.SIGINT)

    return on_progress


VALUES = {4: 0.1, 8: 0.5, 12: 0.4, 16: 0.3, 20: 0.2, 24: 0.1}


def by_step(seen):
    """A function of the weights alone, as validation is: the first pass notes their values."""
    return lambda state: seen[float(state["head.weight"].double().sum())]


@pytest.mark.parametrize("stop", [2, 7, 8, 9, 13, 15])
@pytest.mark.parametrize("name", ["full", "gmixout"])
def test_a_resumed_run_keeps_the_same_model_and_stops_at_the_same_step(stop, name, tmp_path):
    values, seen = iter(VALUES.values()), {}

    def note(state):
        value = seen[float(state["head.weight"].double().sum())] = next(values)
        return value

    whole = run(note, name=name, patience=2)
    assert (whole.step, whole.kept_step) == (16, 8)
    file = tmp_path / "c.pt"
    with pytest.raises(TrainingInterrupted):
        run(by_step(seen), file, interrupt_at(stop), name=name, patience=2)
    again = run(by_step(seen), file, name=name, patience=2)
    assert (again.step, again.kept_step) == (16, 8)
    assert again.losses == whole.losses
    assert_is(again.model, whole.model.state_dict())


def test_a_run_that_stopped_early_is_not_trained_again(tmp_path):
    file = tmp_path / "c.pt"
    first = run(Script(0.5, 0.4, 0.3), file, patience=2)
    again = run(Script(), file, patience=2)
    assert (again.step, again.kept_step) == (first.step, first.kept_step) == (12, 4)
    assert_is(again.model, first.model.state_dict())


WRONG = {
    "none": lambda c: c.pop("best"),
    "empty": lambda c: c.update(best={}),
    "a step to come": lambda c: c["best"].update(step=99),
    "an odd step": lambda c: c["best"].update(step="4"),
    "a value that is none": lambda c: c["best"].update(value=math.nan),
    "too long ago": lambda c: c["best"].update(worse_since=99),
    "no model": lambda c: c["best"].update(model={}),
    "another shape": lambda c: c["best"]["model"].update({"head.bias": torch.zeros(9)}),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_with_another_best_model_is_refused(what, tmp_path):
    file = tmp_path / "c.pt"
    with pytest.raises(TrainingInterrupted):
        run(Script(0.5), file, interrupt_at(5))
    content = load_checkpoint(file, "run")
    WRONG[what](content)
    save_checkpoint(file, "run", {k: v for k, v in content.items() if k not in ("format", "run")})
    with pytest.raises(StateError):
        run(Script(*[0.1] * 9), file)


@pytest.mark.parametrize("settings", [{"patience": 2}, {"validate_every_steps": 5}])
def test_options_of_validation_need_it(settings):
    with pytest.raises(ConfigError, match="without --select id_validation"):
        TrainingArguments(**settings)


def test_nothing_to_validate_with():
    with pytest.raises(ConfigError, match="validate=FUNCTION"):
        run(None)


def test_validation_changes_nothing(rng_untouched):
    def validate(state):
        torch.manual_seed(0)
        for value in state.values():
            value.sum()
        return 0.5

    with rng_untouched():
        found = run(validate)
    assert found.losses == run(None, select="last", validate_every_steps=None).losses
