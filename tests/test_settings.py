"""Settings from Python: the right value as a plain one, or an error that names it."""

import copy
import dataclasses
import decimal
import fractions
import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn
from toy_benchmark import toy_pretrained

from gmixout.data import SOURCES
from gmixout.errors import ConfigError, GmixoutError
from gmixout.methods import METHODS, Method, get_method
from gmixout.settings import check_settings, shown
from gmixout.training import TrainingArguments


@dataclass(frozen=True)
class Every:
    """A field of each kind that settings have."""

    switch: bool = True
    count: int = 1
    share: float = 0.5
    limit: float | None = None
    name: str = "x"
    kind: Literal["a", "b"] = "a"
    root: Path = Path("x")
    shares: tuple[float, ...] = (0.5,)
    names: tuple[str, ...] = ()
    of: Method | None = None

    def __post_init__(self):
        check_settings(self)


class Shouting(str):
    def __str__(self):
        return self.upper()


FULL = get_method("full")
ACCEPTED = {
    "switch": [(np.True_, True), (torch.tensor(False), False)],
    "count": [
        (np.int64(3), 3), (torch.tensor(3), 3), (3.0, 3), (np.uint8(3), 3), (-(2**63) + 1,) * 2,
        (fractions.Fraction(6, 2), 3),
    ],
    "share": [
        (1, 1), (np.float32(0.5), 0.5), (torch.tensor(0.5), 0.5), (np.int16(2), 2), (-0.0, 0.0),
        (decimal.Decimal("0.5"), 0.5), (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    ],
    "limit": [(None, None), (np.float64(2), 2.0)],
    "name": [("", ""), (np.str_("y"), "y"), (Shouting("y"), "y")],
    "kind": [("b", "b"), (np.str_("b"), "b")],
    "root": [("/a/b", Path("/a/b")), (Path("a"), Path("a"))],
    "shares": [
        ([0.1, 1], (0.1, 1)), (np.linspace(0, 1, 3), (0.0, 0.5, 1.0)), ((), ()),
        (torch.tensor([0.5, 0.25]), (0.5, 0.25)), ([np.float64(0.5)], (0.5,)),
    ],
    "names": [(["a"], ("a",)), (np.array(["a", "b"]), ("a", "b"))],
    "of": [(FULL, FULL), (None, None)],
}  # fmt: skip
NOT_NUMBERS = [
    None, True, "1", "nan", math.nan, math.inf, -math.inf, 10**400, 10**5000, 1 + 2j, [1], {}, {1},
    object(), int, b"1", np.float64("nan"), np.array([1, 2]), torch.tensor([1.0]), FULL,
    torch.empty((), device="meta"), decimal.Decimal("nan"), decimal.Decimal("sNaN"),
    torch.tensor(True), np.datetime64("2020-01-01"), decimal.Decimal("1e999"),
]  # fmt: skip
NOT_TEXT = [None, True, 1, b"x", ["x"], object(), Path("x"), np.array(["x"]), FULL]
REFUSED = {
    "switch": [None, 0, 1, "true", "False", 1.0, [], torch.tensor(1), np.int64(1)],
    "count": [*NOT_NUMBERS, 3.7, 1e300, 2**63, -(2**63), np.float32(0.5), 5e-324],
    "share": NOT_NUMBERS,
    "limit": NOT_NUMBERS[1:],
    "name": NOT_TEXT,
    "kind": [*NOT_TEXT, "c", "", "A"],
    "root": [None, True, 1, b"x", ["x"], "a\0b", "\ud800", object()],
    "shares": ["0.5", 0.5, None, {0.5}, {0.5: 1}, [None], ["x"], [[0.5]], np.eye(2), [math.nan]],
    "names": ["train", None, [1], [None], [["a"]], b"ab", {"a"}, iter("ab")],
    "of": ["full", 1, METHODS["full"], [FULL]],
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_fitting_value_is_stored_as_a_plain_one(name):
    for given, stored in ACCEPTED[name]:
        value = getattr(Every(**{name: given}), name)
        assert value == stored
        assert type(value) is type(stored)
        assert hash(Every(**{name: given})) == hash(Every(**{name: stored}))


@pytest.mark.parametrize("name", REFUSED)
def test_another_value_is_named_with_what_is_allowed(name):
    for given in REFUSED[name]:
        with pytest.raises(ConfigError, match=rf"^Every\({name}=") as caught:
            Every(**{name: given})
        assert ") must be " in str(caught.value)
        assert len(str(caught.value)) < 600


def test_shown_is_short_and_never_fails():
    class Silent:
        def __repr__(self):
            raise RuntimeError("no")

    nested = []
    for _ in range(10_000):
        nested = [nested]
    for value in (Silent(), 10**5000, "a" * 10**6, nested, {"a": Silent()}, list(range(10**5))):
        assert 0 < len(shown(value)) < 1000


ODD = [
    *NOT_NUMBERS, "", "x", "\0", "\ud800", "a" * 5000, 0, -1, 1, 2**31, 2**62, 0.5, 1e308, 5e-324,
    "row", "block", "persist", "zero", "cpu", "meta", "bfloat16", torch.bfloat16, (0.5,), [0.5],
    FULL, 7, get_method("lora"), get_method("wise_ft"), False, np.float32(0.5), np.int64(3), [[]],
    {"a": {}},
]  # fmt: skip
KINDS = [TrainingArguments, *METHODS.values(), *SOURCES.values()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_option_takes_any_value_or_names_it(kind):
    needed = {"root": "data"} if kind in SOURCES.values() else {}
    accepted, refusals = 0, []
    for name in inspect.signature(kind).parameters:
        for value in ODD:
            try:
                made = kind(**{**needed, name: value})
            except ConfigError as error:
                refusals.append(str(error))
                continue
            accepted += 1
            plain = vars(made) if kind is TrainingArguments else made.options
            json.dumps(plain, allow_nan=False)
            hash(made)
            str(made)
            assert dataclasses.replace(made) == copy.deepcopy(made) == made
            assert type(getattr(made, name)) is not bool or "bool" in str(
                get_type_hints(kind)[name]
            )
    assert all(f"{kind.__name__}(" in text or "GMixout(" in text for text in refusals)
    assert accepted or not inspect.signature(kind).parameters


@pytest.mark.parametrize("name", ["lora", "dora"])
@pytest.mark.parametrize("rank", [65, 10**6, 2**62])
def test_a_rank_that_no_weight_has_is_refused_before_memory_is_asked_for(name, rank):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    with pytest.raises(ConfigError, match=rf"{name}\(rank={rank}\) must be 64 or less"):
        get_method(name, rank=rank).start(toy_pretrained(model, "2"), 0)


def test_settings_that_name_a_number_of_drawn_things_are_bounded():
    for options in ({"randaugment_ops": 2**31}, {"num_workers": 2**31}, {"mixup": 1e39},
                    {"cutmix": 5e-324}):  # fmt: skip
        with pytest.raises(GmixoutError, match=next(iter(options))):
            TrainingArguments(**options)


@dataclass(frozen=True)
class Own(Method):
    """A method of a user's, with a type that is not there at run time."""

    kind: "Nowhere" = 1  # noqa: F821

    def start(self, pretrained, seed):
        raise NotImplementedError


def test_a_class_with_types_for_the_type_checker_alone_is_taken_as_it_is():
    assert Own(kind="x").options == {"kind": "x"}
