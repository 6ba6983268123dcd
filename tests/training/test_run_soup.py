"""A soup of a run's own last models."""

import itertools
import signal
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_benchmark import net, toy, toy_pretrained

from gmixout.errors import ConfigError, StateError
from gmixout.methods import get_method
from gmixout.models import Pretrained
from gmixout.training import (
    TrainingArguments,
    TrainingInterrupted,
    check_training_settings,
    train,
)
from gmixout.training.checkpoint import load_checkpoint, save_checkpoint
from gmixout.weightspace import greedy_members, uniform_soup

STEPS = 24


def run(validate, checkpoint=None, on_progress=lambda *_: None, name="full", **settings):
    arguments = TrainingArguments(
        **{
            "steps": STEPS,
            "batch_size": 7,
            "lr": 1e-2,
            "soup": "greedy",
            "soup_of": 3,
            "validate_every_steps": 4,
            "log_every_steps": 1,
            **settings,
        }
    )
    start = partial(get_method(name).start, seed=0)
    seen = {}

    def note(step, finetuning, loss):
        seen[step] = {n: value.clone() for n, value in finetuning.snapshot().items()}

    found = train(
        toy_pretrained(), start, toy().train, arguments, checkpoint, "run", on_progress,
        note, (16, 20, 24), validate=validate,
    )  # fmt: skip
    return found, [seen.get(step) for step in (16, 20, 24)]


def worth(state):
    """A function of the weights alone, as validation is."""
    return round(float(torch.sin(1e3 * state["head.weight"].double().sum())), 2)


def assert_is(model, state):
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("name", ["full", "lora", "gmixout", "mixout", "swa"])
@pytest.mark.parametrize("soup", ["greedy", "uniform"])
def test_the_result_is_the_soup_of_the_last_models(name, soup):
    found, states = run(worth, name=name, soup=soup)
    members = greedy_members(states, worth) if soup == "greedy" else [0, 1, 2]
    assert found.soup_steps == tuple((16, 20, 24)[member] for member in members)
    assert (found.step, found.kept_step) == (STEPS, STEPS)
    assert_is(found.model, uniform_soup([states[member] for member in members]))
    plain, _ = run(None, name=name, soup="none", soup_of=None, validate_every_steps=None)
    assert found.losses == plain.losses
    assert plain.soup_steps == ()
    assert worth(found.model.state_dict()) >= max(map(worth, states)) or soup == "uniform"


def test_a_uniform_soup_is_not_validated():
    run(lambda state: 1 / 0, soup="uniform")


@given(steps=st.integers(1, 400), of=st.integers(2, 9), every=st.none() | st.integers(1, 500))
def test_a_soup_has_the_last_models_at_equal_distances(steps, of, every):
    arguments = TrainingArguments(
        steps=steps, soup="uniform", soup_of=of, validate_every_steps=every
    )
    at = [*arguments.validate_at, steps]
    assert at == sorted({*at})
    assert at[0] >= 1
    assert len(at) <= of
    gap = every or max(1, steps // 10)
    assert {b - a for a, b in itertools.pairwise(at[:-1])} <= {gap}
    assert len(at) == min(of, 1 + (steps - 1) // gap)


def interrupt_at(step):
    def on_progress(now, loss):
        if now == step:
            signal.raise_signal(signal.SIGINT)

    return on_progress


@pytest.mark.parametrize("stop", [3, 15, 16, 17, 21, 23])
@pytest.mark.parametrize("name", ["full", "gmixout"])
def test_a_resumed_run_has_the_same_soup(stop, name, tmp_path):
    whole, _ = run(worth, name=name)
    file = tmp_path / "c.pt"
    with pytest.raises(TrainingInterrupted):
        run(worth, file, interrupt_at(stop), name=name)
    again, _ = run(worth, file, name=name)
    assert again.soup_steps == whole.soup_steps
    assert again.losses == whole.losses
    assert_is(again.model, whole.model.state_dict())
    once_more, _ = run(worth, file, name=name)  # as after a kill while the soup was made
    assert_is(once_more.model, whole.model.state_dict())


WRONG = {
    "none": lambda c: c.pop("best"),
    "empty": lambda c: c.update(best={}),
    "a step to come": lambda c: c["best"].update(steps=[99]),
    "another step": lambda c: c["best"].update(steps=[15]),
    "no model": lambda c: c["best"].update(models=[]),
    "another shape": lambda c: c["best"]["models"][0].update({"head.bias": torch.zeros(9)}),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_with_other_models_is_refused(what, tmp_path):
    file = tmp_path / "c.pt"
    with pytest.raises(TrainingInterrupted):
        run(worth, file, interrupt_at(17))
    content = load_checkpoint(file, "run")
    WRONG[what](content)
    save_checkpoint(file, "run", {k: v for k, v in content.items() if k not in ("format", "run")})
    with pytest.raises(StateError):
        run(worth, file)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"soup_of": 3}, "soup_of=3.*None without --soup"),
        ({"soup": "greedy", "select": "id_validation"}, "select=.*last with --soup"),
        ({"soup": "greedy", "patience": 2}, "patience=2.*--select id_validation"),
        ({"soup": "greedy", "soup_of": 1}, "soup_of=1.*from 2"),
        ({"soup": "greedly"}, "soup=.*one of: none, greedy, uniform"),
    ],
)
def test_settings_that_do_not_go_together(settings, said):
    with pytest.raises(ConfigError, match=said):
        TrainingArguments(**settings)


def test_nothing_to_validate_with():
    with pytest.raises(ConfigError, match=r"soup=greedy needs train.*validate=FUNCTION"):
        run(None)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(1), net()

    def forward(self, images):
        return self.head(self.norm(images))


def test_batch_norm_statistics_are_frozen_in_a_soup_or_it_is_refused():
    start = Pretrained(Normed(), "head.head", tuple("abcd"))
    own = TrainingArguments(soup="uniform", batch_size=8)
    check_training_settings(start, toy().train, own)
    moving = TrainingArguments(soup="uniform", batch_size=8, freeze_batch_norm=False)
    with pytest.raises(ConfigError, match="leave freeze_batch_norm on"):
        check_training_settings(start, toy().train, moving)
    check_training_settings(toy_pretrained(), toy().train, moving)


def test_an_option_that_is_off_leaves_no_trace():
    assert not {"soup", "soup_of"} & TrainingArguments().identity().keys()
    assert TrainingArguments(soup="greedy").identity()["soup"] == "greedy"
