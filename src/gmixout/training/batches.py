"""The order in which training sees its examples."""

import itertools
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from gmixout.errors import ConfigError, DataError


class Batches(Sampler[list[tuple[int, int]]]):
    """Batches of (position in the run, index), from one permutation of the indices after another.

    A pure function of the seed.

    A batch at the end of a permutation is filled up from the next one, so every batch is full.

    Args:
        examples: Number of examples in the data set.
        batch_size: Indices a batch.
        steps: Number of batches of the whole run.
        seed: Seed of the permutations.
        start: First batch to give out; those before it are drawn and dropped.

    Raises:
        ConfigError: A batch would hold an example twice.
        DataError: There are no examples.
    """

    drop_last = False  # accelerate asks

    def __init__(self, examples: int, batch_size: int, steps: int, seed: int, start: int) -> None:
        self.check(examples, batch_size)
        self.batch_size = batch_size
        self._examples, self._steps, self._seed, self._start = examples, steps, seed, start

    @staticmethod
    def check(examples: int, batch_size: int) -> None:
        """Raises a `DataError` without examples, a `ConfigError` if a batch would be short."""
        if examples == 0:
            raise DataError("the training set is empty: there is nothing to learn from")
        if batch_size > examples:
            raise ConfigError(
                f"batch_size={batch_size} is larger than the training set of {examples} images; "
                f"choose {examples} or less"
            )

    def __len__(self) -> int:
        return self._steps - self._start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = enumerate(self._order())
        for step in range(self._steps):
            batch = list(itertools.islice(order, self.batch_size))
            if step >= self._start:
                yield batch

    def _order(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            yield from torch.randperm(self._examples, generator=generator).tolist()
