"""CPU threads for small models."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL_MODEL = 1_000_000
"""Number of parameters below which a model trains and evaluates on one CPU thread."""


def is_small(model: nn.Module) -> bool:
    """Return whether a model gains nothing from a second thread."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL


@contextmanager
def few_threads(model: nn.Module) -> Iterator[None]:
    """Use a single CPU thread in the context, if the model is too small to gain from more.

    The digits model is as fast on one thread as on two. When another process used a core, threads
    that wait for each other made it 7 to 40 times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if is_small(model) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
