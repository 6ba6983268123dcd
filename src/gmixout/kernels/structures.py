"""How a weight is cut into units, and what is done with the chosen ones.

A structure gathers chosen units, writes them back, and asks the layer product (`products.py`, which
explains the letters) for their gradient alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from gmixout.kernels.products import Index, LayerProduct, for_device, positions, size

STRIP_ENTRIES = {"cpu": 2**20, "gpu": 2**24}
"""Most entries of a dense gradient that `Elements` holds at a time (4 and 64 MiB in float32).

The dense gradient of a smaller weight is in memory as a whole while it is gathered from, one weight
at a time: smaller strips took up to half as long again.
"""

TILED = ("cpu",)
"""Devices where `Blocks` computes tile by tile, elsewhere strips of the dense gradient: on an H100
a step with tiles took 2.4 times full finetuning's, one with strips (`element`) 1.03."""


@dataclass(frozen=True, kw_only=True)
class Structure(ABC):
    """How a weight is cut into units; `index [K]` names the chosen ones, in ascending order.

    Attributes:
        group: So many neighbours are chosen together.
        parts: Of so many equal parts of a weight (the queries, keys and values of attention) the
            same groups are chosen.
        has_bands: Whether `index` may be a slice.
    """

    group: int = 1
    parts: int = 1
    has_bands: ClassVar[bool] = False

    @abstractmethod
    def units(self, shape: Sequence[int]) -> int:
        """Return how many units a weight of this shape has."""

    def choices(self, shape: Sequence[int]) -> int:
        """Return how many groups there are to choose from."""
        return self.units(shape) // (self.group * self.parts)

    def spread(self, chosen: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the units of the chosen groups, in every part: `index`."""
        if self.group > 1:
            own = torch.arange(self.group, device=chosen.device)
            chosen = (chosen[:, None] * self.group + own).flatten()
        if self.parts > 1:
            first = torch.arange(self.parts, device=chosen.device)
            first.mul_(self.units(shape) // self.parts)
            chosen = (first[:, None] + chosen).flatten()
        return chosen

    @abstractmethod
    def gather(self, weight: Tensor, index: Index) -> Tensor:
        """Copy the chosen units out of a weight or a dense gradient."""

    @abstractmethod
    def scatter_(self, weight: Tensor, index: Index, values: Tensor) -> None:
        """Write `gather`'s layout back, cast to the weight's dtype; the rest stays untouched."""

    def keep(self, product: LayerProduct, input: Tensor, index: Index) -> Tensor:
        """Return what has to be kept of a layer's input until backward: by default all of it."""
        del product, index
        return input

    @abstractmethod
    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Index, shape: Sequence[int]
    ) -> Tensor:
        """Return `dL/dW` of the chosen units alone, in `gather`'s layout."""


def _dims(shape: Sequence[int]) -> tuple[int, int]:
    """Return the two sides that structures cut: `O` and `I` of `[O, I, *k]`, 1 where missing."""
    return (shape[0] if len(shape) > 0 else 1, shape[1] if len(shape) > 1 else 1)


@dataclass(frozen=True)
class Elements(Structure):
    """Single entries, by their position in the flattened weight. Values are `[K, 1]`.

    A matrix, since whoever groups parameters takes vectors for biases and norms, without decay.
    """

    def units(self, shape: Sequence[int]) -> int:
        """See `Structure.units`."""
        return math.prod(shape)

    def gather(self, weight: Tensor, index: Index) -> Tensor:
        """See `Structure.gather`."""
        index = positions(index, weight.device)
        # `take` and `put_` find their way through any strides, at three times the time
        if weight.is_contiguous():
            return weight.view(-1, 1).index_select(0, index)
        return weight.take(index)[:, None]

    def scatter_(self, weight: Tensor, index: Index, values: Tensor) -> None:
        """See `Structure.scatter_`."""
        index = positions(index, weight.device)
        values = values.to(weight.dtype).view(-1)
        if weight.is_contiguous():
            weight.view(-1).scatter_(0, index, values)
        elif torch.are_deterministic_algorithms_enabled():  # which put_ is not, by torch's book
            weight.index_put_(torch.unravel_index(index, weight.shape), values)
        else:
            weight.put_(index, values)

    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Index, shape: Sequence[int]
    ) -> Tensor:
        """See `Structure.grad`: strips of rows of the dense gradient, each gathered at once."""
        index = positions(index, grad.device)
        strips = _Strips(product, grad, kept, shape)
        row = math.prod(shape[1:])
        return strips.gather(index, row, 1, lambda s, i: s.reshape(-1, 1).index_select(0, i))


@dataclass(frozen=True)
class Rows(Structure):
    """Whole output units: rows of a linear weight, filters of a convolution. `[K, I, *k]`."""

    has_bands: ClassVar[bool] = True

    def units(self, shape: Sequence[int]) -> int:
        """See `Structure.units`."""
        return _dims(shape)[0]

    def gather(self, weight: Tensor, index: Index) -> Tensor:
        """See `Structure.gather`."""
        return _gather(weight, 0, index)

    def scatter_(self, weight: Tensor, index: Index, values: Tensor) -> None:
        """See `Structure.scatter_`."""
        _scatter_(weight, 0, index, values)

    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Index, shape: Sequence[int]
    ) -> Tensor:
        """See `Structure.grad`: a product `K/O` the size of the dense one."""
        del shape
        return product.rows(grad, kept, index)

    def grad_with_bias(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Index
    ) -> tuple[Tensor, Tensor]:
        """Return `grad`'s result and `dL/db` of the same output units, from one gather."""
        outputs = product.outputs(grad, index)
        biases = product.biases(outputs)[: size(index)]
        return product.rows(grad, kept, index, outputs), biases


@dataclass(frozen=True)
class Columns(Structure):
    """Whole input units; a weight without a second side is cut along its first. `[O, K, *k]`."""

    has_bands: ClassVar[bool] = True

    def units(self, shape: Sequence[int]) -> int:
        """See `Structure.units`."""
        return shape[self._dim(shape)] if len(shape) else 1

    def gather(self, weight: Tensor, index: Index) -> Tensor:
        """See `Structure.gather`."""
        return _gather(weight, self._dim(weight.shape), index)

    def scatter_(self, weight: Tensor, index: Index, values: Tensor) -> None:
        """See `Structure.scatter_`."""
        _scatter_(weight, self._dim(weight.shape), index, values)

    def keep(self, product: LayerProduct, input: Tensor, index: Index) -> Tensor:
        """See `Structure.keep`: only the chosen columns of the input."""
        return product.narrow(input, index)

    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Index, shape: Sequence[int]
    ) -> Tensor:
        """See `Structure.grad`: a product `K/I` the size of the dense one."""
        del shape
        return product.dense(grad, kept)[:, : size(index)]

    @staticmethod
    def _dim(shape: Sequence[int]) -> int:
        return 1 if len(shape) > 1 else 0


@dataclass(frozen=True)
class Blocks(Structure):
    """Tiles of output by input units. Values are `[K, R, C, *k]`.

    A tile's sides are the largest divisors of the weight's sides not above `size`, so that every
    tile is whole and the count of trained entries constant.
    """

    size: int = 16

    def units(self, shape: Sequence[int]) -> int:
        """See `Structure.units`."""
        outputs, inputs = _dims(shape)
        rows, columns = self._sides(shape)
        return (outputs // rows) * (inputs // columns)

    def gather(self, weight: Tensor, index: Index) -> Tensor:
        """See `Structure.gather`."""
        index = positions(index, weight.device)
        return self._gather(weight, index, self._sides(weight.shape))

    def scatter_(self, weight: Tensor, index: Index, values: Tensor) -> None:
        """See `Structure.scatter_`."""
        index = positions(index, weight.device)
        tiles, row, column = self._tiles(weight, index, self._sides(weight.shape))
        tiles[row, :, column] = values.to(weight.dtype)

    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Index, shape: Sequence[int]
    ) -> Tensor:
        """See `Structure.grad`: one small product a tile, or strips of the dense gradient."""
        index = positions(index, grad.device)
        sides = self._sides(shape)
        across = _dims(shape)[1] // sides[1]
        if grad.device.type in TILED:
            return product.tiles(grad, kept, index // across, index % across, sides)
        strips = _Strips(product, grad, kept, shape)
        return strips.gather(index, across, sides[0], partial(self._gather, sides=sides))

    def _gather(self, weight: Tensor, index: Tensor, sides: tuple[int, int]) -> Tensor:
        tiles, row, column = self._tiles(weight, index, sides)
        return tiles[row, :, column]

    def _sides(self, shape: Sequence[int]) -> tuple[int, int]:
        outputs, inputs = _dims(shape)
        return _largest_divisor(outputs, self.size), _largest_divisor(inputs, self.size)

    @staticmethod
    def _tiles(
        weight: Tensor, index: Tensor, sides: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a view `[O/R, R, I/C, C, *k]` and the tile's place in it."""
        rows, columns = sides
        matrix = weight.reshape(weight.shape + (1,) * (2 - weight.dim()))
        tiles = matrix.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
        across = tiles.shape[2]
        return tiles, index // across, index % across


@dataclass(frozen=True)
class _Strips:
    """The dense gradient, never more than `STRIP_ENTRIES` of it at a time."""

    product: LayerProduct
    grad: Tensor
    kept: Tensor
    shape: Sequence[int]

    def gather(
        self,
        index: Tensor,
        units: int,
        rows: int,
        gather: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Gather units that are numbered along the rows, `units` of them in every `rows` rows."""
        most = for_device(STRIP_ENTRIES, self.grad) // max(1, rows * math.prod(self.shape[1:]))
        size, values = rows * max(1, most), None
        for start in range(0, self.shape[0], size):
            stop = min(start + size, self.shape[0])
            strip = self.product.rows(self.grad, self.kept, slice(start, stop))
            if stop - start == self.shape[0]:
                return gather(strip, index)
            # Every strip looks at all of `index`: that keeps the shapes free of the data.
            local, here = index - start // rows * units, (stop - start) // rows * units
            found = gather(strip, local.clamp(0, here - 1))
            mask = ((local >= 0) & (local < here)).view(-1, *[1] * (found.dim() - 1))
            values = found if values is None else torch.where(mask, found, values)
        assert values is not None  # a weight has at least one row
        return values


def _gather(weight: Tensor, dim: int, index: Index) -> Tensor:
    if isinstance(index, slice):
        return weight.narrow(dim, index.start, index.stop - index.start).clone()
    return weight.index_select(dim, index)


def _scatter_(weight: Tensor, dim: int, index: Index, values: Tensor) -> None:
    if isinstance(index, slice):
        weight.narrow(dim, index.start, index.stop - index.start).copy_(values)
    else:
        weight.index_copy_(dim, index, values.to(weight.dtype))


def has_more_rows(shape: Sequence[int]) -> bool:
    """Return whether a weight has more output units than input units."""
    outputs, inputs = _dims(shape)
    return outputs > inputs


def divisors(side: int) -> list[int]:
    """Return all divisors of a side, ascending."""
    small = [d for d in range(1, math.isqrt(side) + 1) if side % d == 0]
    return sorted({*small, *(side // d for d in small)})


def _largest_divisor(side: int, most: int) -> int:
    return next(d for d in range(min(side, most), 0, -1) if side % d == 0)
