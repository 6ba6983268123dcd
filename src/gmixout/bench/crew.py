"""A job that several processes share: rank 0 does it, and the others follow."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from gmixout.errors import ConfigError, FollowedError
from gmixout.ranks import Ranks, together

_T = TypeVar("_T")


class Shared:
    """Base of a job whose methods may be called on all ranks.

    Rank 0 has the only flow of control. Where work is shared, it sends the name of a method and its
    arguments; the other ranks call the same method, and wait for the next one.
    """

    ranks: Ranks

    def lead(self, do: Callable[..., _T], *arguments: Any) -> _T:
        """Do something on rank 0, whose value is what `follow` returns on the other ranks.

        A `GmixoutError` in it ends the others, too.
        """
        return self.ranks.from_leader(lambda: (None, do(*arguments)))[1]

    def follow(self, *_: Any) -> Any:
        """Call what rank 0 says, until its `lead` ends; return its value."""
        while True:
            method, value = self.ranks.from_leader(_nothing)
            if method is None:
                return value
            with together(self.ranks):
                getattr(self, method)(*value)

    def on_all(self, method: str, *arguments: Any, **own: Any) -> Any:
        """Call a method of this job on all ranks, which `follow`; return this rank's value.

        Args:
            method: Its name.
            *arguments: Sent to the other ranks; tensors in dictionaries go by the CPU.
            **own: For rank 0 alone.
        """
        if self.ranks.count > 1:
            self.ranks.from_leader(lambda: (method, tuple(map(_on_cpu, arguments))))
        with together(self.ranks):
            return getattr(self, method)(*arguments, **own)


def check_same(ranks: Ranks, run: str) -> None:
    """Check that all ranks are about to do the same run.

    Args:
        ranks: The ranks.
        run: Hash of this rank's run.

    Raises:
        ConfigError: They see other data, weights or options.
    """
    runs = ranks.every(lambda: run)
    if others := [rank for rank, other in enumerate(runs) if other != runs[0]]:
        if not ranks.leads:
            raise FollowedError("other runs")
        raise ConfigError(
            f"process {others[0]} has another run than process 0: start all with the same options, "
            "data and weights"
        )


def _nothing() -> Any:
    raise AssertionError("rank 0 alone makes what it sends")


def _on_cpu(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: each.cpu() if isinstance(each, Tensor) else each for name, each in value.items()}
