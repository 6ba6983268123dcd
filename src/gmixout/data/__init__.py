"""Benchmarks: a file each, and a table of those that come with their data, one of the others."""

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_type_hints

from gmixout.data.base import Benchmark, LabelledImages
from gmixout.data.cifar import cifar10, cifar100
from gmixout.data.csv_file import csv
from gmixout.data.digits import digits
from gmixout.data.domainnet import domainnet
from gmixout.data.domains import officehome, pacs, terra_incognita, vlcs
from gmixout.data.huggingface import huggingface
from gmixout.data.imagefolder import imagefolder
from gmixout.data.imagenet import imagenet
from gmixout.data.imagenet_c import imagenet_c
from gmixout.data.imagenet_lt import imagenet_lt
from gmixout.data.iwildcam import iwildcam
from gmixout.data.source import Inventory, Source, Splits
from gmixout.errors import ConfigError
from gmixout.named import allowed_object, is_named, own_object

__all__ = [
    "BENCHMARKS",
    "SOURCES",
    "Benchmark",
    "Inventory",
    "LabelledImages",
    "Source",
    "Splits",
    "check_benchmark_name",
    "load_benchmark",
]

BENCHMARKS: dict[str, Callable[[], Benchmark]] = {"digits": digits}
"""Benchmarks that come with data and model."""

SOURCES: dict[str, type[Source]] = {
    source.__name__: source
    for source in (
        imagenet,
        imagenet_c,
        imagenet_lt,
        domainnet,
        iwildcam,
        cifar10,
        cifar100,
        pacs,
        vlcs,
        officehome,
        terra_incognita,
        imagefolder,
        csv,
        huggingface,
    )
}
"""Benchmarks whose data lies in a folder of the user's, for any model."""

Source._table = SOURCES


def load_benchmark(name: str) -> Benchmark:
    """Load a benchmark.

    Args:
        name: Its name in `BENCHMARKS`, or `module:function` of your own that returns one.

    Raises:
        ConfigError: there is no benchmark of that name.
        DataError: the benchmark's data or a package it needs is missing.
    """
    load: Any = BENCHMARKS.get(name)
    if load is None and ":" in name:
        load = own_object(name)
    if not callable(load):
        raise _unknown(name)
    try:
        benchmark = load()
    except ImportError as error:
        raise ConfigError(
            f"benchmark={name!r}: {error}; what lies in the working directory is imported at the "
            "top of the function's module, or with PYTHONPATH"
        ) from error
    if not isinstance(benchmark, Benchmark):
        raise ConfigError(f"benchmark={name!r} gives a {type(benchmark).__name__}, no Benchmark")
    return benchmark


def check_benchmark_name(name: str) -> None:
    """Check the name of a benchmark that a file gives, before anything of it is called.

    Raises:
        NotAllowedError: It is `module:function` of the user's own, and the module is not allowed.
        ConfigError: There is no benchmark of that name, or it is not a function that gives one.
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
    gives: Any = Benchmark
    with suppress(Exception):  # of annotations that cannot be looked up
        gives = get_type_hints(found).get("return", Benchmark)
    if not (isinstance(gives, type) and issubclass(gives, Benchmark)):
        raise ConfigError(f"benchmark={name!r} says that it gives {gives}, not a Benchmark")


def _unknown(name: str) -> ConfigError:
    known = ", ".join(sorted(BENCHMARKS))
    return ConfigError(
        f"benchmark must be one of: {known}; or module:function of your own; got {name!r:.80}."
    )
