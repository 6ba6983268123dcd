"""Whatever is wrong is said at once, by one family of errors, with the way out."""

import copy

import pytest
import torch
from tiny import TinyNet, batches, loss_of
from torch import nn

import gmixout
from gmixout import GMixout, GmixoutError, dropconnect, mixout, random_mask
from gmixout.errors import AttachError, ConfigError

OUT_OF_RANGE = [
    ("mask_rate", value) for value in (1.0, 1.5, -0.1, float("nan"), float("inf"), "0.9", None, [])
]
OUT_OF_RANGE += [("anchor_decay", v) for v in (-0.1, 1.1, float("nan"), "x", None)]
OUT_OF_RANGE += [
    ("resample_every", v) for v in (0, -1, 1.5, "ten", True, float("nan"), float("inf"))
]
OUT_OF_RANGE += [("structure", v) for v in ("rows", "", None, 3)]
OUT_OF_RANGE += [("residual", v) for v in ("keep", None)]
OUT_OF_RANGE += [("anchor", v) for v in ("one", None)]
OUT_OF_RANGE += [("moments", v) for v in ("keep", None)]
OUT_OF_RANGE += [("rescale", v) for v in ("yes", None)]
OUT_OF_RANGE += [("seed", v) for v in ("a", None, 0.5, float("nan"), float("inf"))]
OUT_OF_RANGE += [("block_size", v) for v in (0, -4, 1.5, "16", None)]
OUT_OF_RANGE += [("residual_dtype", v) for v in ("int64", "cat", torch.int8, "nn")]
OUT_OF_RANGE += [("residual_device", v) for v in ("banana", 1.5)]


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE, ids=str)
def test_a_wrong_setting_names_itself_and_its_value(field, value):
    with pytest.raises(ConfigError) as caught:
        GMixout(**{field: value})
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)
    assert isinstance(caught.value, GmixoutError)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"anchor": "zero"}, ("anchor", "residual")),
        ({"anchor": "zero", "residual": "persist"}, ("anchor", "anchor_decay")),
        ({"moments": "carry"}, ("moments", "residual")),
        # what a period learned would be thrown away
        ({"anchor_decay": 1.0}, ("anchor_decay", "residual", "resample_every")),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other(options, named):
    with pytest.raises(ConfigError) as caught:
        GMixout(**options)
    assert all(name in str(caught.value) for name in named)
    assert "use" in str(caught.value)


@pytest.mark.parametrize("preset", [mixout, random_mask, dropconnect, gmixout.high_rate_mixout])
def test_presets_check_their_values_too(preset):
    with pytest.raises(ConfigError, match="mask_rate"):
        preset(1.0)
    with pytest.raises(ConfigError, match="structure"):
        preset(0.5, structure="rows")


def test_numbers_of_other_libraries_are_taken_for_what_they_are():
    import numpy as np

    config = GMixout(
        mask_rate=np.float32(0.5), seed=np.int64(3), resample_every=np.int32(4), block_size=8.0
    )
    assert config == GMixout(mask_rate=0.5, seed=3, resample_every=4, block_size=8)
    assert type(config.mask_rate) is float
    assert type(config.seed) is type(config.resample_every) is type(config.block_size) is int
    assert GMixout(residual_dtype=torch.bfloat16) == GMixout(residual_dtype="bfloat16")


def check_refused(error, function, *mentions):
    with pytest.raises(error) as caught:
        function()
    message = str(caught.value)
    for mention in mentions:
        assert mention in message, f"{mention!r} is not in {message!r}"
    assert isinstance(caught.value, GmixoutError)


def test_a_model_with_nothing_to_mask():
    config = GMixout()
    check_refused(AttachError, lambda: gmixout.attach(nn.ReLU(), config), "0 parameters")
    check_refused(AttachError, lambda: gmixout.attach(nn.LayerNorm(4), config), "select=")
    frozen = TinyNet().requires_grad_(False)
    check_refused(AttachError, lambda: gmixout.attach(frozen, config), "requires_grad=True")
    check_refused(
        AttachError, lambda: gmixout.attach(TinyNet(), config, select=lambda n, p: False), "select="
    )


def test_a_lazy_model():
    check_refused(
        AttachError, lambda: gmixout.attach(nn.Sequential(nn.LazyLinear(4)), GMixout(), head=()),
        "0.weight", "batch",
    )  # fmt: skip


def test_wrong_arguments_of_attach():
    model = TinyNet()
    check_refused(ConfigError, lambda: gmixout.attach(model, {"mask_rate": 0.5}), "GMixout")
    check_refused(
        ConfigError, lambda: gmixout.attach(model, GMixout(), head="haed"), "haed", "head"
    )
    check_refused(AttachError, lambda: gmixout.attach(None, GMixout()), "Module")


def test_attach_twice():
    model = TinyNet()
    masked = gmixout.attach(model, GMixout())
    check_refused(AttachError, lambda: gmixout.attach(model, GMixout()), "detach()")
    check_refused(AttachError, lambda: gmixout.attach(model.attention, GMixout()), "detach()")
    check_refused(AttachError, lambda: gmixout.attach(nn.Sequential(model), GMixout()), "detach()")
    masked.detach()
    gmixout.attach(model, GMixout())


def test_a_refused_attach_leaves_the_model_alone():
    for options in ({"head": "nowhere"}, {"select": lambda n, p: False}):
        model = TinyNet()
        before = copy.deepcopy(model.state_dict())
        classes = [type(module) for module in model.modules()]
        with pytest.raises(GmixoutError):
            gmixout.attach(model, GMixout(), **options)
        assert [type(module) for module in model.modules()] == classes
        assert all(p.requires_grad for p in model.parameters())
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_nothing_works_after_detach():
    model = TinyNet()
    masked = gmixout.attach(model, GMixout())
    optimizer = torch.optim.SGD(masked.param_groups(lr=0.1))
    state = masked.state_dict()
    masked.detach()
    for function in (
        lambda: masked.bind(optimizer),
        masked.detach,
        masked.state_dict,
        lambda: masked.load_state_dict(state),
        masked.parameters,
        lambda: masked.param_groups(lr=0.1),
        masked.summary,
    ):
        check_refused(AttachError, function, "detach()", "attach()")


def test_optimizers_that_cannot_be_bound():
    model = TinyNet()
    before = torch.optim.SGD(model.parameters(), lr=0.1)
    masked = gmixout.attach(model, GMixout())
    check_refused(AttachError, lambda: masked.bind(before), "masked values", "param_groups")
    some = torch.optim.SGD(masked.parameters()[:-1], lr=0.1)
    check_refused(AttachError, lambda: masked.bind(some), "hidden.weight")
    check_refused(AttachError, lambda: masked.bind(None), "optimizer")
    check_refused(AttachError, lambda: masked.bind(model), "optimizer")


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.SGD(groups, momentum=0.9),
        torch.optim.AdamW,
        torch.optim.RMSprop,
        torch.optim.Adagrad,
    ],
)
def test_an_optimizer_that_has_stepped_is_refused(make):
    """Its moments would come back at each new mask as what a period starts with."""
    model = TinyNet()
    masked = gmixout.attach(model, GMixout())
    optimizer = make(masked.param_groups(lr=0.1))
    loss_of(model, next(batches(1))).backward()
    check_refused(AttachError, optimizer.step, "no process follows", "masked.bind")
    check_refused(AttachError, lambda: masked.bind(optimizer), "stepped")


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf"), "1e-3", None])
def test_a_learning_rate_that_is_none(rate):
    masked = gmixout.attach(TinyNet(), GMixout())
    check_refused(ConfigError, lambda: masked.param_groups(lr=rate), "lr", repr(rate))
    if rate is not None:
        check_refused(
            ConfigError, lambda: masked.param_groups(lr=1.0, head_lr=rate), "head_lr", repr(rate)
        )


@pytest.mark.parametrize("head", [torch.nn.Linear(2, 2), torch.nn.Sequential(), 3])
def test_a_head_that_is_no_name(head):
    check_refused(ConfigError, lambda: gmixout.attach(TinyNet(), GMixout(), head=head), "name")


def test_a_selection_that_is_no_function():
    wrong = lambda: gmixout.attach(TinyNet(), GMixout(), select=["head.weight"])  # noqa: E731
    check_refused(ConfigError, wrong, "select=['head.weight']", "function")
