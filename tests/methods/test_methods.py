import pytest
import torch
from torch.nn import functional
from toy_benchmark import foundation, toy

import gmixout
from gmixout.errors import ConfigError
from gmixout.methods import METHODS, get_method
from gmixout.methods.base import DenseFinetuning

TRAINED = [name for name in METHODS if get_method(name).trained == get_method(name)]


def finetune(name: str, seed: int = 0, **options) -> torch.nn.Module:
    """Three steps by hand."""
    model, train = foundation(), toy().train
    finetuning = get_method(name, **options).start(model, seed)
    optimizer = finetuning.bind(torch.optim.AdamW(finetuning.param_groups(lr=1e-2, head_lr=1e-3)))
    for _ in range(3):
        functional.cross_entropy(model(train.images), train.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return finetuning.detach()


def test_names_are_those_that_users_type():
    expected = "zero_shot full wise_ft random_mask mixout high_rate_mixout dropconnect gmixout"
    assert list(METHODS) == expected.split()
    assert all(get_method(name).name == name for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_options_make_the_same_method_again(name):
    method = get_method(name)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in method.options.items()}
    assert get_method(name, **options) == method


@pytest.mark.parametrize("name", TRAINED)
def test_training_ends_in_a_plain_model_that_moved(name, rng_untouched):
    with rng_untouched():
        model = finetune(name)
    before = foundation()
    assert type(model) is type(before)
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    after = model.state_dict()
    assert list(after) == list(before.state_dict())
    for key, value in before.state_dict().items():
        assert not torch.equal(after[key], value), key


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
    preset = gmixout.GMixout() if name == "gmixout" else getattr(gmixout, name)()
    model = foundation()
    assert get_method(name).start(model, seed=7).config == gmixout.GMixout(
        **{**vars(preset), "seed": 7}
    )


def test_options_reach_the_process():
    finetuning = get_method("gmixout", mask_rate=0.75, structure="column").start(foundation(), 0)
    assert (finetuning.config.mask_rate, finetuning.config.structure) == (0.75, "column")


def test_the_head_has_its_own_learning_rate():
    model = foundation()
    groups = {g["name"]: g for g in DenseFinetuning(model).param_groups(lr=0.1, head_lr=0.2)}
    assert (groups["dense"]["lr"], groups["head"]["lr"]) == (0.1, 0.2)
    assert groups["head"]["params"] == list(model.head.parameters())
    assert groups["dense"]["params"] == list(model.body.parameters())
    groups = DenseFinetuning(model).param_groups(lr=0.1)
    assert {group["lr"] for group in groups} == {0.1}
    model.head.requires_grad_(False)
    assert [g["name"] for g in DenseFinetuning(model).param_groups(lr=0.1)] == ["dense"]


def test_wise_ft_walks_from_the_zero_shot_head_to_the_finetuned_model():
    method = get_method("wise_ft", alphas=(0.0, 0.5, 1.0))
    pretrained, finetuned = foundation().state_dict(), finetune("full").state_dict()
    variants = list(method.variants(pretrained, finetuned))
    assert [options for options, _ in variants] == [{"alpha": a} for a in (0.0, 0.5, 1.0)]
    for key in pretrained:  # the head among them
        assert torch.equal(variants[0][1][key], pretrained[key])
        assert torch.equal(variants[2][1][key], finetuned[key])
    middle = (pretrained["head.weight"] + finetuned["head.weight"]) / 2
    torch.testing.assert_close(variants[1][1]["head.weight"], middle)
    assert method.trained == get_method("full")


def test_zero_shot_trains_nothing():
    method, pretrained = get_method("zero_shot"), foundation().state_dict()
    assert method.trained is None
    assert list(method.variants(pretrained, {})) == [({}, pretrained)]
    with pytest.raises(ConfigError, match="trains nothing"):
        method.start(foundation(), seed=0)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("gmixxout", {}, "'gmixxout'.*gmixout"),
        ("gmixout", {"rate": 0.5}, "no option rate.*mask_rate"),
        ("gmixout", {"seed": 1}, "no option seed"),
        ("full", {"rate": 0.5}, "options: none"),
        ("gmixout", {"mask_rate": 1.0}, r"mask_rate=1\.0"),
        ("mixout", {"structure": "cell"}, "structure='cell'"),
        ("wise_ft", {"alphas": (0.5, 1.5)}, r"alphas=\[0\.5, 1\.5\]"),
        ("wise_ft", {"alphas": ()}, "one or more"),
    ],
)
def test_wrong_names_and_options(name, options, says):
    with pytest.raises(ConfigError, match=says):
        get_method(name, **options)
