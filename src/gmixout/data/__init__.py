"""Benchmarks: a file each, and one table of them."""

from collections.abc import Callable

from gmixout.data.base import Benchmark, LabelledImages
from gmixout.data.digits import digits
from gmixout.errors import ConfigError

__all__ = ["BENCHMARKS", "Benchmark", "LabelledImages", "load_benchmark"]

BENCHMARKS: dict[str, Callable[[], Benchmark]] = {"digits": digits}


def load_benchmark(name: str) -> Benchmark:
    """Load a benchmark by its name in `BENCHMARKS`.

    Raises:
        ConfigError: there is no benchmark of that name.
        DataError: the benchmark's data or a package it needs is missing.
    """
    if name not in BENCHMARKS:
        known = ", ".join(sorted(BENCHMARKS))
        raise ConfigError(f"benchmark must be one of: {known}; got {name!r}.")
    return BENCHMARKS[name]()
