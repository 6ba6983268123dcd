"""How many CPU threads a model is worth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gmixout.data import Benchmark

SMALL_MODEL = 1_000_000
"""Parameters below which a model trains and evaluates on one CPU thread."""


def is_small(benchmark: Benchmark) -> bool:
    """Whether the benchmark's model gains nothing from a second thread."""
    parameters = sum(parameter.numel() for parameter in benchmark.foundation().parameters())
    return parameters < SMALL_MODEL


@contextmanager
def few_threads(benchmark: Benchmark) -> Iterator[None]:
    """Gives a model too small to gain from several CPU threads a single one meanwhile.

    The digits model is as fast on one thread as on two; and where another process wants a core,
    threads that wait for each other made it 7 to 40 times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if is_small(benchmark) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
