"""Benchmarks with a model: a table of ours, and functions of the user's own."""

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from gmixout.allowed import allowed_object, is_named, own_object
from gmixout.data import Benchmark, digits
from gmixout.errors import ConfigError
from gmixout.models import Pretrained, digits_vit

Start: TypeAlias = tuple[Benchmark, Pretrained]
"""A benchmark and its pretrained model."""

BENCHMARKS: dict[str, Callable[[], Start]] = {"digits": lambda: (digits(), digits_vit())}
"""Benchmarks in the package, with data and model."""


def load_benchmark(name: str) -> Start:
    """Load a benchmark and its model.

    Args:
        name: Its name in `BENCHMARKS`, or `module:function` of your own that returns both.

    Raises:
        ConfigError: There is no benchmark of that name, or the function returns something else.
        DataError: The benchmark's data or a package it needs is missing.
    """
    load: Any = BENCHMARKS.get(name)
    if load is None and ":" in name:
        load = own_object(name)
    if not callable(load):
        raise _unknown(name)
    try:
        found = load()
    except ImportError as error:
        raise ConfigError(
            f"benchmark={name!r}: {error}; what lies in the working directory is imported at the "
            "top of the function's module, or with PYTHONPATH"
        ) from error
    parts = found if isinstance(found, tuple) else (found,)
    if not _are_a_start([type(part) for part in parts]):
        gives = " and a ".join(type(part).__name__ for part in parts) or "empty tuple"
        raise _other(name, f"gives a {gives}")
    return parts[0], parts[1]


def check_benchmark_name(name: str) -> None:
    """Check the name of a benchmark from a file, before calling anything.

    Raises:
        NotAllowedError: It is the user's own `module:function`, and the module is not allowed.
        ConfigError: There is no benchmark of that name, or it is not a function that returns one.
    """
    if name in BENCHMARKS:
        return
    if not re.fullmatch(r"[\w.]+:[\w.]+", name):
        raise _unknown(name)
    found = allowed_object(name, "benchmark")
    if is_named(name):
        return
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"benchmark={name!r} is not a function without arguments") from error
    gives: Any = Start
    with suppress(Exception):  # of annotations that cannot be looked up
        gives = get_type_hints(found).get("return", Start)
    if not (get_origin(gives) is tuple and _are_a_start(get_args(gives))):
        raise _other(name, f"is annotated to return {gives}")


def _are_a_start(kinds: Any) -> bool:
    wanted = get_args(Start)
    plain = [get_origin(kind) or kind for kind in kinds]
    return len(plain) == len(wanted) and all(
        isinstance(kind, type) and issubclass(kind, get_origin(asked) or asked)
        for kind, asked in zip(plain, wanted, strict=True)
    )


def _other(name: str, gives: str) -> ConfigError:
    return ConfigError(
        f"benchmark={name!r} {gives}, not a Benchmark and a Pretrained: end the function with "
        "`return benchmark, gmixout.models.Pretrained(model, head='NAME OF ITS LAYER', "
        "classes=benchmark.classes)`"
    )


def _unknown(name: str) -> ConfigError:
    known = ", ".join(sorted(BENCHMARKS))
    return ConfigError(
        f"benchmark must be one of: {known}; or module:function of your own; got {name!r:.80}."
    )
