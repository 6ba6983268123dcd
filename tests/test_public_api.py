"""The contract of names that other people's code relies on."""

import ast
import dataclasses
import inspect
import json
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import gmixout

CALLS = {
    # name: arguments that must be there, in this order
    "attach": ["model", "config", "select", "head"],
    "load": ["path", "device"],
    "interpolate": ["state_a", "state_b", "alpha"],
    "uniform_soup": ["states"],
    "greedy_soup": ["states", "score"],
    "mixout": ["mask_rate"],
    "high_rate_mixout": ["mask_rate"],
    "random_mask": ["mask_rate"],
    "dropconnect": ["mask_rate"],
}


LISTED = Path(__file__).with_name("public_api.json")
"""The public names of each package, `PACKAGE: [NAMES]`."""


def public_packages():
    """The package itself and the packages in it that declare their names, apart from the bench."""
    yield gmixout
    for _, name, is_package in pkgutil.iter_modules(gmixout.__path__, "gmixout."):
        package = import_module(name)
        if is_package and hasattr(package, "__all__") and name != "gmixout.bench":
            yield package


def test_no_public_name_is_removed_unseen():
    """New names are written into the file: commit it. Removed ones are taken out by hand."""
    now = {package.__name__: sorted(package.__all__) for package in public_packages()}
    then = json.loads(LISTED.read_text())
    removed = [
        f"{name}.{each}" for name, names in then.items() for each in {*names} - {*now.get(name, ())}
    ]
    assert not removed, f"{removed} are gone; if that is meant: CHANGELOG.md, and {LISTED.name}"
    if then != now:
        LISTED.write_text(json.dumps(now, indent=1) + "\n")
    assert then == now, f"{LISTED.name} is new: commit it"


def test_each_public_name_is_there_and_documented():
    for package in public_packages():
        assert len({*package.__all__}) == len(package.__all__)
        for name in package.__all__:
            found = getattr(package, name)
            if inspect.isclass(found) or inspect.isfunction(found):
                assert inspect.getdoc(found), f"{package.__name__}.{name} has no docstring"


@pytest.mark.parametrize("name", CALLS)
def test_functions_and_their_arguments(name):
    parameters = list(inspect.signature(getattr(gmixout, name)).parameters)
    assert parameters[: len(CALLS[name])] == CALLS[name]


def test_all_names_are_there_and_documented():
    assert sorted(gmixout.__all__) == gmixout.__all__
    for name in gmixout.__all__:
        assert inspect.getdoc(getattr(gmixout, name)), f"gmixout.{name} has no docstring"
    assert {*CALLS, "GMixout", "Masked", "GmixoutError"} <= set(gmixout.__all__)


def test_names_are_what_type_checkers_are_told():
    tree = ast.parse(Path(gmixout.__file__).read_text())
    blocks = [each for each in tree.body if isinstance(each, ast.If)]
    (told,) = (each for each in blocks if isinstance(each.test, ast.Name))
    names = {}
    for each in told.body:
        names |= {alias.name: each.module for alias in each.names}
    assert names.keys() == set(gmixout.__all__)
    for name, module in names.items():
        assert getattr(gmixout, name) is getattr(import_module(module), name)
        assert name in dir(gmixout)
    with pytest.raises(AttributeError, match="no_such_name"):
        gmixout.no_such_name  # noqa: B018


def test_config_is_a_frozen_dataclass_with_the_promised_settings():
    config = gmixout.GMixout(
        mask_rate=0.9, anchor_decay=0.9, resample_every=10, structure="row", seed=0,
        rescale=False, residual="reset",
    )  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.mask_rate = 0.5
    assert hash(config) == hash(dataclasses.replace(config))
    for preset in ("mixout", "high_rate_mixout", "random_mask", "dropconnect"):
        assert type(getattr(gmixout, preset)(mask_rate=0.8)) is gmixout.GMixout


def test_handle_has_the_promised_methods():
    wanted = {
        "param_groups": ["lr", "head_lr"],
        "bind": ["optimizer"],
        "state_dict": [],
        "load_state_dict": ["state"],
        "detach": [],
        "parameters": [],
        "summary": [],
    }
    for name, arguments in wanted.items():
        parameters = list(inspect.signature(getattr(gmixout.Masked, name)).parameters)
        assert parameters[1 : 1 + len(arguments)] == arguments


def test_errors_are_one_family_and_builtin_kinds_too():
    from gmixout import errors

    family = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and value.__module__ == "gmixout.errors"
    ]
    assert {cls.__name__ for cls in family} == {
        "GmixoutError", "ConfigError", "AttachError", "StateError", "DataError", "TrainingError",
        "FollowedError",
    }  # fmt: skip
    assert all(issubclass(cls, gmixout.GmixoutError) for cls in family)


def test_the_two_lines_of_the_readme():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    config = gmixout.GMixout(
        mask_rate=0.9, anchor_decay=0.9, resample_every=10, structure="row", seed=0
    )
    masked = gmixout.attach(model, config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-3, head_lr=1e-3)))
    for _ in range(3):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert masked.detach() is model
