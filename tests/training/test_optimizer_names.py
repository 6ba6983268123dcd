"""Optimizers by name and by class path, with their options."""

import inspect
import pickle
import warnings

import pytest
import torch
from torch import nn

from gmixout.bench.identity import identity_of_training
from gmixout.bench.options import options_of
from gmixout.errors import ConfigError
from gmixout.methods import get_method
from gmixout.named import NotAllowedError, allowing, from_spec, spec_of
from gmixout.training import TrainingArguments
from gmixout.training.optimizers import OPTIMIZERS, Optimizer

CLASSES = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer"
}
FULL = get_method("full")


@pytest.mark.parametrize("name", CLASSES)
def test_every_optimizer_of_torch_is_made_with_its_options(name):
    kind = Optimizer.adopted(CLASSES[name])
    made = kind()
    assert made.name == name
    built = made.make([nn.Parameter(torch.ones(2, 2))], 0.5, 0.0)
    assert type(built) is CLASSES[name]
    (group,) = built.param_groups
    assert group["lr"] == 0.5
    for option, value in vars(made).items():
        assert group[option] == value or (value is None), option
    assert pickle.loads(pickle.dumps(made)) == made
    with allowing(["torch.optim"]):
        assert from_spec(spec_of(made), Optimizer) == made
    with pytest.raises(NotAllowedError):
        from_spec(spec_of(made), Optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_and_its_object_without_options_are_one_setting(name):
    named, made = (TrainingArguments(optimizer=each) for each in (name, OPTIMIZERS[name]()))
    assert named == made
    assert made.optimizer == name
    identities = [identity_of_training(FULL, each) for each in (named, made)]
    assert identities[0] == identities[1]
    assert identities[0]["training"] == ({} if name == "adamw" else {"optimizer": name})
    assert pickle.loads(pickle.dumps(named.rule)) == made.rule


def test_options_tell_runs_from_one_another():
    settings = [
        TrainingArguments(optimizer=each)
        for each in (
            *OPTIMIZERS,
            OPTIMIZERS["adamw"](betas=(0.9, 0.95)),
            OPTIMIZERS["sgd"](momentum=0.5),
            Optimizer.adopted(torch.optim.NAdam)(),
            Optimizer.adopted(torch.optim.NAdam)(momentum_decay=0.1),
            Optimizer.adopted(torch.optim.SGD)(),
        )
    ]
    identities = [str(identity_of_training(FULL, each)) for each in settings]
    assert len({*identities}) == len(settings)


def test_the_defaults_of_the_names():
    parameter = [nn.Parameter(torch.ones(2))]
    adamw, sgd = (OPTIMIZERS[name]().make(parameter, 1e-3, 0.1) for name in OPTIMIZERS)
    assert type(adamw) is torch.optim.AdamW
    assert adamw.defaults["betas"] == (0.9, 0.999)
    assert (type(sgd), sgd.defaults["momentum"]) == (torch.optim.SGD, 0.9)
    assert adamw.defaults["weight_decay"] == sgd.defaults["weight_decay"] == 0.1
    assert {"lr", "weight_decay", "params", "fused"}.isdisjoint(options_of(OPTIMIZERS["adamw"]))


class Strict(torch.optim.SGD):
    """Without weight decay, and with an option that must be given."""

    def __init__(self, params, lr, size):
        if size != 3:
            raise AssertionError("three!")
        super().__init__(params, lr)


def test_what_cannot_be_made_says_so():
    kind, parameter = Optimizer.adopted(Strict), [nn.Parameter(torch.ones(2))]
    assert isinstance(kind(size=3).make(parameter, 1.0, 0.0), Strict)
    for made, decay, said in (
        (kind(size=2), 0.0, "optimizer Strict.size=2. cannot be made: three!"),
        (kind(size=3), 0.1, "has no weight decay: --weight-decay 0"),
        (OPTIMIZERS["adamw"](betas=(2.0, 0.9)), 0.0, "adamw.betas=.* cannot be made"),
    ):
        with pytest.raises(ConfigError, match=said), warnings.catch_warnings():
            made.make(parameter, 1.0, decay)
    for wrong in ({"betas": 3}, {"amsgrad": 1}, {"eps": "small"}):
        with pytest.raises(ConfigError, match=r"adamw.* must be"):
            OPTIMIZERS["adamw"](**wrong)
