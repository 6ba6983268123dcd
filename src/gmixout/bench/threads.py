"""How many CPU threads a model is worth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL_MODEL = 1_000_000
"""Parameters below which a model trains and evaluates on one CPU thread."""


def is_small(model: nn.Module) -> bool:
    """Whether a model gains nothing from a second thread."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL


@contextmanager
def few_threads(model: nn.Module) -> Iterator[None]:
    """Gives a model too small to gain from several CPU threads a single one meanwhile.

    The digits model is as fast on one thread as on two; and where another process wants a core,
    threads that wait for each other made it 7 to 40 times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if is_small(model) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
