"""Optimizers by name and by class path, with their options."""

import inspect
import pickle
import warnings
from functools import partial

import pytest
import timm.optim
import torch
from torch import nn
from toy_benchmark import toy, toy_pretrained

from gmixout.allowed import NotAllowedError, allowing
from gmixout.bench.identity import identity_of_training
from gmixout.bench.options import options_of
from gmixout.errors import AttachError, ConfigError
from gmixout.methods import get_method
from gmixout.named import from_spec, spec_of
from gmixout.training import TrainingArguments, TrainingInterrupted, train
from gmixout.training.loop import check_optimizer
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
    assert not made.name.islower()  # the short names have other defaults
    assert type(built) is CLASSES[name]
    (group,) = built.param_groups
    assert group["lr"] == 0.5
    for option, value in vars(made).items():
        assert group[option] == value or (value is None), option
    assert Optimizer.adopted(CLASSES[name]) is kind
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
    adamw, sgd = (OPTIMIZERS[name]().make(parameter, 1e-3, 0.1) for name in ("adamw", "sgd"))
    assert type(adamw) is torch.optim.AdamW
    assert adamw.defaults["betas"] == (0.9, 0.999)
    assert (type(sgd), sgd.defaults["momentum"]) == (torch.optim.SGD, 0.9)
    assert adamw.defaults["weight_decay"] == sgd.defaults["weight_decay"] == 0.1
    assert {"lr", "weight_decay", "params", "fused"}.isdisjoint(options_of(OPTIMIZERS["adamw"]))


ALL_OF_TIMM = timm.optim.list_optimizers(exclude_filters=["bnb*", "fused*", "kron*", "adahessian"])
RESUMED = [*OPTIMIZERS, "timm.adan", "timm.lamb", "timm.adafactorbv", "timm.nmuon"]


@pytest.mark.parametrize("name", ALL_OF_TIMM)
def test_every_optimizer_that_timm_knows_by_name_is_made_as_by_its_factory(name):
    made = OPTIMIZERS[f"timm.{name}"]()
    assert made.name in (f"timm.{name}", name)
    assert from_spec(spec_of(made), Optimizer) == made  # no module needs to be allowed
    assert pickle.loads(pickle.dumps(made)) == made
    ours, theirs = (
        build([{"params": [nn.Parameter(torch.ones(2, 2))], "lr": 0.25}])
        for build in (
            lambda groups: made.make(groups, 0.5, 0.1),
            lambda groups: timm.optim.create_optimizer_v2(groups, name, lr=0.5, weight_decay=0.1),
        )
    )
    assert type(ours) is type(theirs)
    (one,), (other,) = ours.param_groups, theirs.param_groups
    if one.get("momentum") != other.get("momentum"):
        # of classes with a momentum of their own the factory makes it 0.9
        default = inspect.signature(type(ours)).parameters["momentum"].default
        assert one["momentum"] == default > 0
    unlike = {"params", "momentum"}
    assert {k: v for k, v in one.items() if k not in unlike} == {
        k: v for k, v in other.items() if k not in unlike
    }


def test_names_of_timm_that_it_has_not_or_that_do_not_fit_a_step():
    for name, said in (
        ("timm.lamp", r"timm\.lamp is not available.*did you mean timm\.lamb"),
        ("timm.adahessian", "second derivatives"),
    ):
        with pytest.raises(ConfigError, match=said):
            from_spec(name, Optimizer)
    with pytest.raises(NotAllowedError):
        from_spec("timm.optim.Lion", Optimizer)
    assert OPTIMIZERS.get("Lion") is None
    assert OPTIMIZERS["timm.lion"] is OPTIMIZERS["lion"]


def net() -> nn.Module:
    return toy_pretrained().model


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("method", ["full", "gmixout(resample_every=2, biases=masked)"])
def test_a_resumed_run_equals_an_uninterrupted_one_with_every_kind_of_state(name, method, tmp_path):
    arguments = TrainingArguments(
        optimizer=OPTIMIZERS[name](), steps=8, batch_size=7, lr=1e-3, log_every_steps=1,
        schedule="one_cycle", checkpoint_every_steps=3,
    )  # fmt: skip

    def run(checkpoint=None, stop_at=None):
        def stop(step, loss):
            if step == stop_at:
                raise TrainingInterrupted("stop")

        start = partial(get_method(method).start, seed=0)
        return train(toy_pretrained(), start, toy().train, arguments, checkpoint, "run", stop)

    whole = run()
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "c.pt", 5)
    again = run(tmp_path / "c.pt")
    assert again.losses == whole.losses
    for one, other in zip(*(r.model.state_dict().values() for r in (whole, again)), strict=True):
        assert torch.equal(one, other)
    start = net().state_dict()["body.weight"]
    assert not torch.equal(whole.model.state_dict()["body.weight"], start)


def test_muon_steps_hidden_matrices_alone_and_the_head_is_not_one():
    model = net()
    groups = get_method("full").start(toy_pretrained(model), 0).param_groups(lr=1e-3, head_lr=1e-3)
    optimizer = OPTIMIZERS["muon"]().make(groups, 1e-3, 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    by_muon = {n for n, p in model.named_parameters() if "momentum_buffer" in optimizer.state[p]}
    assert by_muon == {"body.weight"}


@pytest.mark.parametrize("moments", ["reset", "carry"])
def test_muon_steps_masked_matrices_and_its_adamw_masked_biases(moments, tmp_path):
    method = get_method(
        "gmixout", residual="persist", resample_every=2, biases="masked", moments=moments
    )
    model = net()
    finetuning = method.start(toy_pretrained(model), 0)
    groups = finetuning.param_groups(lr=1e-3, head_lr=1e-3)
    optimizer = finetuning.bind(OPTIMIZERS["muon"]().make(groups, 1e-3, 0.0))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for _ in range(5):
        model(torch.rand(3, 1, 3, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if moments == "carry" or finetuning.steps % 2 != 0:
            by_muon = {names[id(p)] for p, s in optimizer.state.items() if "momentum_buffer" in s}
            assert len(by_muon) == 1
            assert {p.dim() for p in optimizer.state if names[id(p)] in by_muon} == {2}
            assert not any(name.startswith("head") for name in by_muon)


def test_muon_of_torch_is_refused_before_training_where_there_are_vectors():
    if not hasattr(torch.optim, "Muon"):
        return
    arguments = TrainingArguments(optimizer=Optimizer.adopted(torch.optim.Muon)())
    for method in ("full", "gmixout(biases=masked)", "gmixout(structure=element)"):
        finetuning = get_method(method).start(toy_pretrained(), 0)
        with pytest.raises(ConfigError, match="Muon cannot be made: Muon only supports 2D"):
            check_optimizer(finetuning, arguments)


def test_an_optimizer_that_cannot_follow_a_redraw_is_refused_with_the_reason():
    arguments = TrainingArguments(optimizer=OPTIMIZERS["adafactor"]())
    carry = get_method("gmixout", moments="carry", residual="persist").start(toy_pretrained(), 0)
    with pytest.raises(AttachError, match="not a moment of single entries"):
        check_optimizer(carry, arguments)
    check_optimizer(get_method("gmixout").start(toy_pretrained(), 0), arguments)


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
