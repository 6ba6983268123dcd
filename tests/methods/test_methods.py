import dataclasses
import itertools
import json

import pytest
import torch
from torch.nn import functional
from toy_benchmark import net, toy, toy_pretrained

import gmixout
from gmixout.errors import ConfigError
from gmixout.methods import (
    METHODS,
    DenseFinetuning,
    Derived,
    Method,
    Runs,
    Variant,
    get_method,
    preset,
)
from gmixout.named import from_spec, spec_of


def finetune(name: str, seed: int = 0, **options) -> torch.nn.Module:
    """Three steps by hand."""
    model, train = net(), toy().train
    finetuning = get_method(name, **options).start(toy_pretrained(model), seed)
    optimizer = finetuning.bind(torch.optim.AdamW(finetuning.param_groups(lr=1e-2, head_lr=1e-3)))
    for _ in range(3):
        functional.cross_entropy(model(train.images), train.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return finetuning.detach()


def runs(*states):
    """Finished runs, the better the nearer their `w` is to 0.4."""
    return Runs(states, lambda state: -abs(float(state["w"]) - 0.4))


def test_names_are_those_that_users_type():
    expected = (
        "zero_shot linear_probe lp_ft full ema swa l2_sp wise_ft uniform_soup greedy_soup "
        "lora dora shira bitfit random_mask dropconnect mixout high_rate_mixout gmixout "
        "gmixout_wise_ft"
    )
    assert set(expected.split()) <= METHODS.keys()  # names in files of people
    assert all(get_method(name).name == name for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_options_are_plain_and_make_the_same_method_again(name):
    spec = json.loads(json.dumps(spec_of(get_method(name))))
    assert from_spec(spec, Method) == get_method(name)
    assert "gmixout." not in json.dumps(spec)  # of ours no import path, at any level


@pytest.mark.parametrize("name", ["gmixout", "mixout", "random_mask"])
def test_masks_follow_the_seed_of_the_run(name):
    def weight(seed):
        return finetune(name, seed).body.weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))


@pytest.mark.parametrize(
    "name", ["gmixout", "mixout", "high_rate_mixout", "random_mask", "dropconnect"]
)
def test_a_masked_method_is_a_preset_of_the_process(name):
    preset = gmixout.GMixout if name == "gmixout" else getattr(gmixout, name)
    method = get_method(name)
    config = method.start(toy_pretrained(), seed=7).config
    assert config == dataclasses.replace(preset(mask_rate=method.mask_rate), seed=7)


def test_the_table_has_no_two_methods_that_do_the_same():
    presets = [vars(get_method(name)) for name in METHODS if "mask_rate" in vars(get_method(name))]
    assert all(a != b for a, b in itertools.combinations(presets, 2))
    assert get_method("mixout").mask_rate < get_method("high_rate_mixout").mask_rate


def test_options_reach_the_process():
    finetuning = get_method("gmixout", mask_rate=0.75, structure="column").start(
        toy_pretrained(), 0
    )
    assert (finetuning.config.mask_rate, finetuning.config.structure) == (0.75, "column")


def test_the_head_has_its_own_learning_rate():
    model = net()
    start = toy_pretrained(model)
    groups = {g["name"]: g for g in DenseFinetuning(start).param_groups(lr=0.1, head_lr=0.2)}
    assert (groups["dense"]["lr"], groups["head"]["lr"]) == (0.1, 0.2)
    assert groups["head"]["params"] == list(model.head.parameters())
    assert groups["dense"]["params"] == list(model.body.parameters())
    groups = DenseFinetuning(start).param_groups(lr=0.1)
    assert {group["lr"] for group in groups} == {0.1}
    model.head.requires_grad_(False)
    assert [g["name"] for g in DenseFinetuning(start).param_groups(lr=0.1)] == ["dense"]


def test_wise_ft_walks_from_the_zero_shot_head_to_the_finetuned_model():
    method = get_method("wise_ft", alphas=(0.0, 0.5, 1.0))
    pretrained, finetuned = net().state_dict(), finetune("full").state_dict()
    models = list(method.models(pretrained, runs(finetuned)))
    assert [model.options for model in models] == [{"alpha": a} for a in (0.0, 0.5, 1.0)]
    assert {model.members for model in models} == {(0,)}
    for key in pretrained:  # the head among them
        assert torch.equal(models[0].state[key], pretrained[key])
        assert torch.equal(models[2].state[key], finetuned[key])
    middle = (pretrained["head.weight"] + finetuned["head.weight"]) / 2
    torch.testing.assert_close(models[1].state["head.weight"], middle)


@pytest.mark.parametrize("name", ["wise_ft", "gmixout_wise_ft", "uniform_soup", "greedy_soup"])
def test_a_derived_method_shares_the_runs_of_another_and_says_which(name):
    usual = get_method("gmixout" if name == "gmixout_wise_ft" else "full")
    method, state = get_method(name), {"w": torch.ones(1)}
    assert method.trained == usual
    assert all("of" not in model.options for model in method.models(state, runs(state)))
    other = get_method("gmixout", mask_rate=0.5)
    method = get_method(name, of=other)
    assert method.trained == other
    told = {model.options["of"] for model in method.models(state, runs(state))}
    assert told == {"gmixout(mask_rate=0.5)"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_trained_or_derived(name):
    method, start = get_method(name), {"w": torch.zeros(1)}
    run = {"w": torch.ones(1)}
    models = list(method.models(start, runs(run)))
    assert len({json.dumps(model.options) for model in models}) == len(models)
    assert all(model.state.keys() == start.keys() for model in models)
    if isinstance(method, Derived):
        assert method.trained != method
        with pytest.raises(ConfigError, match=f"{name} trains nothing itself"):
            method.start(toy_pretrained(), seed=0)
    else:
        assert method.trained == method
        assert models == [Variant(method.options, run, (0,))]
        assert not method.several_runs


def test_a_derived_method_of_the_users_own():
    @dataclasses.dataclass(frozen=True)
    class ends(Derived):
        """The first run, and the last."""

        of: Method = dataclasses.field(default_factory=METHODS["lora"])
        several_runs = True

        def models(self, pretrained, runs):
            for member in (0, -1):
                yield Variant({"which": member, **self.of_option}, runs.states[member], (member,))

    made = [{"w": torch.tensor([value])} for value in (0.0, 1.0, 5.0)]
    first, last = ends().models({}, runs(*made))
    assert (first.state, last.state) == (made[0], made[2])
    assert ends().trained == get_method("lora")
    assert (ends().of_option, ends(get_method("full")).of_option) == ({}, {"of": "full"})
    with pytest.raises(ConfigError, match=r"ends\(of=.*trained itself"):
        ends(of=ends())


def test_a_preset_is_the_method_with_other_defaults():
    made = preset(METHODS["swa"], "soup_of_lora", "A summary.", of=get_method("lora"), every=5)
    assert made() == made(get_method("lora"), 5)
    assert dataclasses.asdict(made(every=3)) == dataclasses.asdict(
        get_method("swa", of=get_method("lora"), every=3)
    )
    assert (made().name, str(made()), made.__doc__[:20]) == (
        "soup_of_lora",
        "soup_of_lora",
        "A summary.\n\nArgs:\n  ",
    )
    with pytest.raises(ConfigError, match=r"soup_of_lora\(every=0\)"):
        made(every=0)
    for name, of in (("gmixout_wise_ft", "wise_ft"), ("high_rate_mixout", "mixout")):
        assert issubclass(METHODS[name], METHODS[of])
        assert not {"start", "models", "__post_init__"} & vars(METHODS[name]).keys()


def test_a_method_is_told_by_what_is_unusual_of_it():
    assert str(get_method("gmixout")) == "gmixout"
    assert str(get_method("random_mask", structure="column")) == "random_mask(structure='column')"
    of = get_method("lora", rank=2)
    assert str(get_method("wise_ft", of=of)) == "wise_ft(of=lora(rank=2))"


def test_soups_are_made_of_several_runs():
    made = runs(*({"w": torch.tensor([value])} for value in (0.0, 1.0, 5.0)))
    several = [name for name, kind in METHODS.items() if kind.several_runs]
    assert several == ["uniform_soup", "greedy_soup"]
    ((_, uniform, all_of_them),) = get_method("uniform_soup").models({}, made)
    ((_, greedy, best),) = get_method("greedy_soup").models({}, made)
    assert (all_of_them, best) == ((0, 1, 2), (0, 1))
    assert (float(uniform["w"]), float(greedy["w"])) == (2.0, 0.5)


def test_zero_shot_trains_nothing():
    method, pretrained = get_method("zero_shot"), net().state_dict()
    assert method.trained is None
    assert list(method.models(pretrained, runs())) == [({}, pretrained, ())]
    with pytest.raises(ConfigError, match="trains nothing"):
        method.start(toy_pretrained(), seed=0)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("gmixxout", {}, "'gmixxout'.*gmixout"),
        ("gmixout", {"rate": 0.5}, "no option rate.*mask_rate"),
        ("gmixout", {"seed": 1}, "no option seed"),
        ("full", {"rate": 0.5}, "options: none"),
        ("gmixout", {"mask_rate": 1.0}, r"mask_rate=1\.0"),
        ("mixout", {"structure": "cell"}, "structure='cell'"),
        ("wise_ft", {"alphas": (0.5, 1.5)}, r"alphas=\(0\.5, 1\.5\)"),
        ("wise_ft", {"alphas": ()}, "one or more"),
        ("gmixout_wise_ft", {"alphas": (2.0,)}, "gmixout_wise_ft.*0 to 1"),
        ("wise_ft", {"of": get_method("zero_shot")}, "of=zero_shot.*trained itself"),
        ("greedy_soup", {"of": get_method("wise_ft")}, "of=wise_ft.*trained itself"),
        ("uniform_soup", {"of": "full"}, "of='full'.*a Method"),
        ("lp_ft", {"probe_steps": -1}, "probe_steps=-1"),
        ("swa", {"every": 0}, r"every=0\) must be at least 1"),
        ("swa", {"of": get_method("wise_ft")}, "of=wise_ft.*trained itself"),
        ("ema", {"decay": 1.0}, r"decay=1\.0.*\[0, 1\)"),
        ("l2_sp", {"pull": -1.0}, r"pull=-1\.0"),
        ("l2_sp", {"head_decay": float("nan")}, "head_decay=nan"),
        ("lora", {"rank": 0}, "rank=0"),
    ],
)
def test_wrong_names_and_options(name, options, says):
    with pytest.raises(ConfigError, match=says):
        get_method(name, **options)


def test_alpha_is_the_place_on_an_interpolation_path_and_no_option():
    with pytest.raises(ConfigError, match="cannot be called alpha"):

        class mine(Method):
            alpha: float = 0.5
