"""Benchmarks: a file each, and one table of them."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import cast

from gmixout.data.base import Benchmark, LabelledImages
from gmixout.data.digits import digits
from gmixout.errors import ConfigError

__all__ = ["BENCHMARKS", "Benchmark", "LabelledImages", "load_benchmark"]

BENCHMARKS: dict[str, Callable[[], Benchmark]] = {"digits": digits}


def load_benchmark(name: str) -> Benchmark:
    """Load a benchmark.

    Args:
        name: Its name in `BENCHMARKS`, or `module:function` of your own that returns one.

    Raises:
        ConfigError: there is no benchmark of that name.
        DataError: the benchmark's data or a package it needs is missing.
    """
    load = BENCHMARKS.get(name) or _own(name)
    if load is None:
        known = ", ".join(sorted(BENCHMARKS))
        raise ConfigError(
            f"benchmark must be one of: {known}; or module:function of your own; got {name!r}."
        )
    return load()


def _own(name: str) -> Callable[[], Benchmark] | None:
    if ":" not in name:
        return None
    try:
        return cast(Callable[[], Benchmark], resolve_name(name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"benchmark={name!r} cannot be imported: {error}") from error
