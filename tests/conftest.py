"""Fixtures for every room."""

import gc
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module

import numpy as np
import pytest
import torch

# Tiny tensors gain nothing from a second thread, and lose a hundredfold where cores are shared.
torch.set_num_threads(1)

# A shell that starts the tests in the background has them ignore Ctrl-C, which many are about.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _equal(a: object, b: object) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(np.array_equal(a, b))  # type: ignore[arg-type]


@contextmanager
def _untouched() -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    assert random.getstate() == python, "python's global generator was used"
    assert _equal(np.random.get_state(), numpy), "numpy's global generator was used"  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), cpu), "torch's global generator was used"


@pytest.fixture
def rng_untouched() -> Callable[[], AbstractContextManager[None]]:
    """`with rng_untouched():` fails if its body moves a global generator."""
    return _untouched


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages take longer to draw than toy models to train."""
    monkeypatch.setattr(
        import_module("gmixout.bench.commands.report"), "write_report", lambda *_, **__: []
    )


@pytest.fixture(autouse=True)
def _small_collections() -> Iterator[None]:
    """Every training ends with a collection: it need not go through all that was ever imported.

    What a test makes is collected as ever.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Layers draw their weights from torch's global generator: each test starts it anew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
