"""Benchmarks: a file each, and a table of those that come with their data, one of the others."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import cast

from gmixout.data.base import Benchmark, LabelledImages
from gmixout.data.cifar import cifar10, cifar100
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

__all__ = [
    "BENCHMARKS",
    "SOURCES",
    "Benchmark",
    "Inventory",
    "LabelledImages",
    "Source",
    "Splits",
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
        huggingface,
    )
}
"""Benchmarks whose data lies in a folder of the user's, for any model."""


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
    benchmark = load()
    if not isinstance(benchmark, Benchmark):
        raise ConfigError(f"benchmark={name!r} gives a {type(benchmark).__name__}, no Benchmark")
    return benchmark


def _own(name: str) -> Callable[[], Benchmark] | None:
    if ":" not in name:
        return None
    try:
        return cast(Callable[[], Benchmark], resolve_name(name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"benchmark={name!r} cannot be imported: {error}") from error
