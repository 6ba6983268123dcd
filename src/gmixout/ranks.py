"""Processes that work on one run. A launcher (torchrun, `accelerate launch`) starts them.

Rank 0 leads: it owns the run's folder and says what is done. What all ranks compute together asks
`current()`, which is one rank out of one unless the work is shared (`together`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from gmixout.errors import FollowedError, GmixoutError

_T = TypeVar("_T")


class Ranks:
    """The ranks of one run, as one of them sees them.

    Values go through a process group on the CPU; they are exchanged between the processes of one
    job and never come from a file.

    Args:
        rank: This process, from 0.
        count: Number of processes.
        group: Their process group; of one process, None.
    """

    def __init__(self, rank: int = 0, count: int = 1, group: Any = None) -> None:
        self.rank, self.count, self._group = rank, count, group

    @property
    def leads(self) -> bool:
        """True on rank 0."""
        return self.rank == 0

    def part(self, size: int) -> range:
        """Return this rank's positions of `size`; sizes of parts differ by 1 at most."""
        less, more = divmod(size, self.count)
        start = self.rank * less + min(self.rank, more)
        return range(start, start + less + (self.rank < more))

    def every(self, make: Callable[[], _T]) -> list[_T]:
        """Return what `make` returns on each rank, in their order.

        Raises:
            GmixoutError: `make` did, on any rank. Rank 0 gets the error.
            FollowedError: The same on the other ranks.
        """
        if self.count == 1:
            return [make()]
        value, error = None, None
        try:
            value = make()
        except GmixoutError as own:
            error = own
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, (value, error), group=self._group)
        for rank, (_, theirs) in enumerate(found):
            if theirs is not None and not self.leads:
                raise FollowedError(str(theirs))
            if theirs is not None:
                raise theirs if rank == 0 else type(theirs)(f"process {rank}: {theirs}")
        return [each for each, _ in found]

    def each(self, make: Callable[[], _T]) -> _T:
        """Return what `make` returns here; raise as `every`."""
        own: list[_T] = []
        self.every(lambda: own.append(make()))
        return own[0]

    def from_leader(self, make: Callable[[], _T]) -> _T:
        """Return what `make` returns on rank 0, on all; the other ranks do not call it.

        Raises:
            GmixoutError: `make` did.
            FollowedError: The same on the other ranks.
        """
        nothing: Callable[[], Any] = lambda: None  # noqa: E731
        value: _T = self.every(make if self.leads else nothing)[0]
        return value

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set on any rank."""
        if self.count == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._group)
        return bool(found)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over ranks of each value."""
        if self.count == 1:
            return values
        total = values.to("cpu", torch.float64, copy=True)
        dist.all_reduce(total, group=self._group)
        return (total / self.count).to(values.dtype)

    def hand_on(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors by rank 0's."""
        if self.count == 1:
            return
        theirs = self.from_leader(lambda: [each.detach().cpu() for each in tensors])
        with torch.no_grad():
            for own, other in zip(tensors, theirs, strict=True):
                own.copy_(other)


ALONE = Ranks()
"""One process that works by itself."""
_current: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)


def current() -> Ranks:
    """Return the ranks that share the work at this place; `ALONE` outside of `together`."""
    return _current.get()


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Share the work in the context with other ranks, which do the same there."""
    token = _current.set(ranks)
    try:
        yield
    finally:
        _current.reset(token)
