"""Random draws that depend only on a run's seed and a position in it."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator within the context; restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed: that seeds GPUs, too
        torch.default_generator.manual_seed(seed)
        yield


def draws_of(seed: int, kind: str, place: int) -> AbstractContextManager[None]:
    """Seed torch's CPU generator by these within the context; restore its state afterwards."""
    return seeded(seed_of(seed, kind, place))


def seed_of(seed: int, kind: str, place: int) -> int:
    """Return a seed below 2**56 that differs if any of these differs."""
    digest = hashlib.blake2b(f"{seed}\0{kind}\0{place}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")
