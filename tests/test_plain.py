"""Whatever a file says, it is taken at its value or refused with its place."""

import unicodedata
from typing import Annotated, Any

import pytest
from annotated_types import Interval
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import NotRequired, TypedDict

from gmixout.plain import bounded, checked, printable, read_json


class Form(TypedDict):
    share: Annotated[float, Interval(ge=0, le=1)]
    count: int
    names: NotRequired[list[str]]
    options: NotRequired[dict[str, Any]]


FINE: dict[str, Any] = {"share": 0.5, "count": 3}


@given(st.text(st.characters(exclude_categories=[])))
def test_printable_text_stays_on_its_line_and_can_be_written(text):
    shown = printable(text)
    assert printable(shown) == shown
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    shown.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_stays_as_it_is(text):
    assert printable(text) == text


def nested(levels):
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (FINE | {"share": 1.01}, "share"),
        (FINE | {"share": -1}, "share"),
        (FINE | {"share": float("nan")}, "share"),
        (FINE | {"share": True}, "share"),
        (FINE | {"share": "0.5"}, "share"),
        (FINE | {"share": 10**400}, "share"),
        (FINE | {"count": 3.0}, "count"),
        (FINE | {"count": 2**63}, "count"),
        (FINE | {"names": [1]}, "names.0"),
        (FINE | {"names": "ab"}, "names"),
        (FINE | {"options": {"a": {"b": float("inf")}}}, "options.a.b"),
        (FINE | {"options": {"a": nested(30)}}, "options.a.0"),
        (FINE | {"options": {"a": "x" * 30_000}}, "options.a"),
        (FINE | {"options": {"a": b"x"}}, "options.a"),
        (FINE | {"more": 1}, "more"),
        ({"share": 0.5}, "count"),
        ([FINE], "dict"),
        (None, "dict"),
    ],
)
def test_another_form_is_refused_by_place(values, place):
    with pytest.raises(ValueError, match=rf"{place}"):
        checked(values, Form)


def test_values_of_the_form_are_taken():
    values = FINE | {"names": ["a\nb"], "options": {"a": (1, [None, {"b": False}])}}
    kept = FINE | {"names": ["a\\nb"], "options": {"a": [1, [None, {"b": False}]]}}
    assert checked(values, Form) == kept
    assert checked(FINE | {"share": 1}, Form)["share"] == 1.0


def test_values_that_hold_each_other_again_and_again_end():
    bomb: Any = ["x"] * 10
    for _ in range(12):
        bomb = [bomb] * 10
    with pytest.raises(ValueError, match="more than"):
        bounded(bomb)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[1, Infinity]",
        "[" * 100_000,
        "1" * 5000,
        '"\\ud800"',
        b"\xff",
        "{} {}",
        "'a'",
    ],
    ids=lambda text: repr(text)[:12],
)
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the reason
        read_json(text)
