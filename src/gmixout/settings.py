"""Settings from Python: checked against their annotations and stored as plain values."""

import math
import os
import reprlib
from dataclasses import fields
from decimal import Decimal
from functools import cache
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from gmixout.errors import ConfigError


def check_settings(settings: Any) -> None:
    """Check every field of a frozen dataclass against its annotation.

    Known annotations are bool, int, float, str, Path, None, `Literal`, `tuple[X, ...]` and unions
    of these; of any other class the value must be an instance. Scalars and arrays of numpy and
    torch become Python's numbers and tuples, lists become tuples, and text becomes a Path: stored
    values can be hashed and written to any file. A whole number stays one where a float is wanted,
    because it identifies the same run.

    Raises:
        ConfigError: A value has another type: a boolean is not a number and text is not a list;
            numbers are finite, and whole ones below 2**63 in size.
    """
    owner: Any = type(settings)
    for name, kind in _annotations(owner).items():
        try:
            value = _fit(getattr(settings, name), kind)
        except (_UnfitError, RecursionError):
            refuse(settings, name, described(kind))
        object.__setattr__(settings, name, value)


def require(settings: Any, name: str, fine: bool, allowed: str) -> None:
    """Raise a `ConfigError` that names a setting and its allowed values, unless `fine`."""
    if not fine:
        refuse(settings, name, allowed)


def refuse(settings: Any, name: str, allowed: str) -> NoReturn:
    """Raise a `ConfigError` that names a setting, its value and its allowed values."""
    kind, value = type(settings).__name__, shown(getattr(settings, name))
    raise ConfigError(f"{kind}({name}={value}) must be {allowed}")


def shown(value: Any) -> str:
    """Return a value's `repr` for an error, shortened if it is long."""
    try:
        return _REPR.repr(value)
    except Exception:  # classes of others, and whole numbers of more than 4,300 digits
        return f"<{type(value).__name__}>"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 200
_REPR.maxlist = _REPR.maxtuple = 20


class _UnfitError(Exception):
    """A value does not match its annotation."""


@cache
def _annotations(kind: Any) -> dict[str, Any]:
    try:
        hints = get_type_hints(kind)
    except NameError:  # a class of the user's own names types that only a type checker knows
        return {}
    return {field.name: hints[field.name] for field in fields(kind)}


def _fit(value: Any, kind: Any) -> Any:
    """Return the value as a plain one of a type; raise `_UnfitError` if it does not fit."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        for each in arguments:
            try:
                return _fit(value, each)
            except _UnfitError:
                continue
        raise _UnfitError
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        value = _listed(value)
    if origin is tuple and arguments[-1] is Ellipsis:
        return _tuple(value, arguments[0])
    if origin is Literal:
        return _one_of(value, arguments)
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    if isinstance(origin or kind, type) and not isinstance(value, origin or kind):
        raise _UnfitError
    return value


def _listed(value: Any) -> Any:
    try:
        return value.tolist()
    except (RuntimeError, TypeError, ValueError):  # a tensor without values, or sparse
        raise _UnfitError from None


def _tuple(value: Any, kind: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple, range)):
        raise _UnfitError
    return tuple(_fit(each, kind) for each in value)


def _one_of(value: Any, known: tuple[Any, ...]) -> Any:
    for each in known:
        # True == 1, and comparing may be anything in a class of others
        if type(value) is type(each) and value == each:
            return each
    raise _UnfitError


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _UnfitError


def _whole(value: Any) -> int:
    number = _number(value)
    if number == int(number) and abs(number) < 2**63:
        return int(number)
    raise _UnfitError


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        raise _UnfitError
    try:
        number = float(value)
    except (OverflowError, ValueError):
        raise _UnfitError from None
    if not math.isfinite(number):
        raise _UnfitError
    # + 0.0: the two zeros are one setting
    return int(value) if isinstance(value, int) else number + 0.0


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    raise _UnfitError


def _path(value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise _UnfitError
    path = os.fspath(value)
    try:
        if not isinstance(path, str) or b"\0" in os.fsencode(path):
            raise _UnfitError
    except UnicodeEncodeError:
        raise _UnfitError from None
    return Path(path)


def _none(value: Any) -> None:
    if value is not None:
        raise _UnfitError


_PLAIN: dict[Any, Any] = {
    bool: _boolean,
    int: _whole,
    float: _number,
    str: _text,
    Path: _path,
    NoneType: _none,
}
_CALLED = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    Path: "a path",
    NoneType: "None",
}


def described(kind: Any) -> str:
    """Return the description of an annotated type, for errors."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(described(each) for each in arguments)
    if origin is Literal:
        return f"one of: {', '.join(map(str, arguments))}"
    if origin in (tuple, list):
        return f"a list, each entry {described(arguments[0])}"
    return _CALLED.get(kind) or f"a {getattr(kind, '__name__', kind)}"
