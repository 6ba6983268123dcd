"""The order of training examples."""

import itertools
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from gmixout.draws import seed_of
from gmixout.errors import ConfigError, DataError
from gmixout.ranks import current

Order: TypeAlias = Literal["shuffled", "even_domains", "even_classes", "one_domain", "weighted"]


class Batches(Sampler[list[tuple[int, int]]]):
    """Batches of (position in the run, index).

    A pure function of the seed: processes that share a run (`ranks.current`) take consecutive
    parts of each batch, and an even batch cycles through its domains or classes, so that parts are
    even, too.

    - `shuffled`: one permutation of all examples after another; a batch at the end of a permutation
      is filled up from the next one, so every batch is full and holds no example twice.
    - `even_domains`, `even_classes`: of each domain (class) as many as of any other, or one more
      in turn where the batch cannot be divided. Each goes through its own permutations, so
      examples of small ones are repeated more often.
    - `one_domain`: each batch is of one domain; they take turns, in a new order each time.
    - `weighted`: drawn with replacement, each example with a probability in proportion to its
      weight.

    Args:
        dataset: The training set. It has `groups` `[N]` (domains) for orders by domain, `labels`
            `[N]` for orders by class, `weights` `[N]` for `weighted`.
        batch_size: Indices per batch.
        steps: Number of batches of the whole run.
        seed: Seed of the order.
        start: First batch to return; earlier ones are drawn and dropped.
        order: Composition of batches.

    Raises:
        ConfigError: A batch would hold an example twice, or the data set lacks what the
            order needs.
        DataError: There are no examples.
    """

    drop_last = False  # accelerate asks

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        steps: int,
        seed: int,
        start: int = 0,
        order: Order = "shuffled",
    ) -> None:
        self.check(dataset, batch_size, order)
        self.batch_size = batch_size
        self._examples: int = len(dataset)  # type: ignore[arg-type]
        self._steps, self._seed, self._start, self._order = steps, seed, start, order
        self._keys = _keys_of(dataset, order)

    @staticmethod
    def check(dataset: Dataset[Any], batch_size: int, order: Order = "shuffled") -> None:
        """Check before training that batches can be made; raise as the class does."""
        examples: int = len(dataset)  # type: ignore[arg-type]
        if examples == 0:
            raise DataError("the training set is empty: there is nothing to learn from")
        if batch_size < (count := current().count):
            raise ConfigError(
                f"batch_size={batch_size} is less than one image for each of {count} processes, "
                f"which share a batch: choose {count} or more"
            )
        if order == "shuffled" and batch_size > examples:
            raise ConfigError(
                f"batch_size={batch_size} is larger than the training set of {examples} images; "
                f"choose {examples} or less"
            )
        keys = _keys_of(dataset, order)
        if order.startswith("even") and keys is not None:
            kinds = len(torch.unique(keys))
            what = order.removeprefix("even_")
            if batch_size < kinds:
                raise ConfigError(
                    f"batch_size={batch_size} is smaller than the {kinds} {what} of the training "
                    f"set, all of which each batch must hold: choose {kinds} or more"
                )

    def __len__(self) -> int:
        return self._steps - self._start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        indices, own = self._indices(), current().part(self.batch_size)
        for step in range(self._steps):
            batch = list(itertools.islice(indices, self.batch_size))
            if step >= self._start:
                yield [(step * self.batch_size + place, batch[place]) for place in own]

    def _indices(self) -> Iterator[int]:
        """Return the indices of all batches, one batch after another."""
        if self._keys is None:
            return _permuted(torch.arange(self._examples), self._seed)
        if self._order == "weighted":
            return self._drawn(self._keys)
        return self._by_key(self._keys)

    def _by_key(self, keys: Tensor) -> Iterator[int]:
        """Yield examples of the keys in turn: one of each, or a whole batch of each."""
        kinds = torch.unique(keys)
        own = [
            _permuted((keys == kind).nonzero().flatten(), seed_of(self._seed, "key", int(kind)))
            for kind in kinds
        ]
        turns = _permuted(torch.arange(len(kinds)), self._seed)
        if self._order == "one_domain":
            for turn in turns:
                yield from itertools.islice(own[turn], self.batch_size)
        rounds, rest = divmod(self.batch_size, len(kinds))
        # of one permutation: a batch never gives a key two turns at the one more
        turns = itertools.cycle(list(itertools.islice(turns, len(kinds))))
        while True:
            some = list(itertools.islice(turns, rest))
            for _ in range(rounds):
                for each in own:
                    yield next(each)
            for turn in some:
                yield next(own[turn])

    def _drawn(self, weights: Tensor) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            size = self.batch_size
            yield from torch.multinomial(weights, size, True, generator=generator).tolist()


def _permuted(indices: Tensor, seed: int) -> Iterator[int]:
    """Yield one permutation after another."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from indices[torch.randperm(len(indices), generator=generator)].tolist()


def _keys_of(dataset: Dataset[Any], order: Order) -> Tensor | None:
    """Return the keys of an order, `[N]`.

    Raises:
        ConfigError: The data set lacks them, or some of them.
    """
    if order == "shuffled":
        return None
    by_class = order == "even_classes"
    name = "weights" if order == "weighted" else "labels" if by_class else "groups"
    keys = getattr(dataset, name, None)
    if not isinstance(keys, Tensor) or len(keys) != len(dataset):  # type: ignore[arg-type]
        raise ConfigError(
            f"batches={order} needs a training set that says its examples' {name}, as a tensor "
            f"[N]" + (": one of several domains" if name == "groups" else "")
        )
    if keys.dim() > 1 and by_class:
        raise ConfigError(
            f"batches={order} needs one class for each image, and this data has several labels or "
            "numbers: use shuffled"
        )
    if order == "weighted":
        keys = keys.double()
        if not (keys.isfinite().all() and keys.min() >= 0 and keys.sum() > 0):
            raise ConfigError("batches=weighted: weights must be finite, 0 or more, and not all 0")
    return keys
