"""Batches, from the data set to the loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import default_collate

from gmixout.errors import ConfigError


@dataclass(frozen=True)
class Batch:
    """Images with labels and what else regularizers request. Fields not requested are None.

    `to` and `pin_memory` are what loaders and Accelerate call.
    """

    images: Tensor
    """`[B, C, H, W]`, float."""
    labels: Tensor
    """`[B]`, int64: the class of each image before any mixing; or `[B, outputs]`, float: its labels
    of 0 and 1, or its numbers."""
    shares: Tensor | None = None
    """`[B, N]`: the share of each of N labels in each image's target; rows sum to 1. None: nothing
    is mixed."""
    mixed_labels: Tensor | None = None
    """`[N]`, int64, or `[N, outputs]`: the labels that `shares` refers to. None: `labels`."""
    domains: Tensor | None = None
    """`[B]`, int64: position of each image's domain among the training set's `group_names`."""
    places: Tensor | None = None
    """`[B]`, int64: position of each image in the training set."""
    views: Tensor | None = None
    """`[B, C, H, W]`: the same images, augmented a second time."""

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self, classes: int) -> Tensor:
        """Return the target of each image, `[B, classes]`: for classes their distribution."""
        labels = self.labels if self.mixed_labels is None else self.mixed_labels
        own = functional.one_hot(labels, classes) if labels.dim() == 1 else labels
        if self.shares is None:
            return own.to(self.images.dtype)
        return self.shares @ own.to(self.shares.dtype)

    def part(self, where: Tensor) -> "Batch":
        """Return some of the examples.

        Args:
            where: Positions, or a mask `[B]`.

        Raises:
            ConfigError: The batch was mixed: its images belong together.
        """
        if self.shares is not None:
            raise ConfigError("a batch whose images were mixed cannot be taken apart")
        return self._each(lambda tensor: tensor[where])

    def split(self, parts: int) -> list["Batch"]:
        """Return the batch in consecutive parts, whose sizes differ by 1 at most.

        Images that were mixed keep their targets.

        Args:
            parts: Number of parts; of a smaller batch, one for each example.
        """
        parts = min(parts, len(self))
        if parts <= 1:
            return [self]
        pool = None
        if self.shares is not None:
            pool = self.labels if self.mixed_labels is None else self.mixed_labels
        whole = replace(self, mixed_labels=None)
        sizes = [len(places) for places in torch.arange(len(self)).tensor_split(parts)]
        starts = [sum(sizes[:number]) for number in range(parts)]
        return [
            replace(whole._each(partial(_narrowed, start, size)), mixed_labels=pool)
            for start, size in zip(starts, sizes, strict=True)
        ]

    def to(self, *where: Any, **how: Any) -> "Batch":
        """Move or cast every tensor with its `to`."""
        return self._each(lambda tensor: tensor.to(*where, **how))

    def pin_memory(self) -> "Batch":
        """Move the batch to pinned memory, which a GPU copies from while it computes."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        present = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{n: change(t) for n, t in present.items() if t is not None})


def _narrowed(start: int, size: int, tensor: Tensor) -> Tensor:
    return tensor.narrow(0, start, size)


def collate(examples: Sequence[dict[str, Any]]) -> Batch:
    """Make a batch of examples, dicts of `Batch`'s fields in the singular (without the s)."""
    columns = default_collate(list(examples))
    return Batch(**{f"{name}s": column for name, column in columns.items()})
