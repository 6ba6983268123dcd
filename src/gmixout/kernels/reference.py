"""The definition of every kernel, in plain torch.

Two families meet here. A *layer product* knows how a layer's weight gradient arises from its input
and the gradient of its output, and can compute any part of it. A *structure* knows how a weight is
cut into units, and asks the layer product for the chosen units alone.

Letters: a weight is `[O, I, *k]` (`k` the kernel of a convolution, empty for a linear layer), `N`
tokens or images, `G` groups of a convolution, `K` chosen units. No function has a shape that
depends on data and none waits for the device, so all of them compile and run on any device.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

STRIP_ENTRIES = {"cpu": 2**20, "gpu": 2**24}
"""Most entries of a dense gradient that `Elements` holds at a time (4 and 64 MiB in float32).

The dense gradient of a smaller weight is in memory as a whole while it is gathered from, one weight
at a time: smaller strips took up to half as long again.
"""

TILED = ("cpu",)
"""Devices where `Blocks` computes tile by tile, elsewhere strips of the dense gradient: on an H100
a step with tiles took 2.4 times full finetuning's, one with strips (`element`) 1.03."""

GATHER_ENTRIES = 2**20
"""Most entries of inputs that `LinearProduct.tiles` gathers at a time (4 MiB in float32): what fits
a CPU's cache."""

ALIGNMENT = {"cpu": 1, "gpu": 8}
"""Chosen rows and columns of a linear layer are made up to a multiple of this in its product: on a
GPU a matrix in half precision whose rows start at 16 bytes goes by much faster kernels."""

SPLIT = {"cpu": 1, "gpu": 16}
"""Parts into which the tokens of a small linear product are cut; their products are one batch, and
are summed up. 25,000 tokens onto 80 by 768 entries are six tiles of work for a GPU's 132
multiprocessors. No GPU has measured it yet: `benchmarks/kernels.py --device cuda` has both."""

SMALL_PRODUCT = 32
"""Tiles of 128 x 128 up to which a product is small."""

NARROW = 256
"""Columns of an input below which it is the first factor of a product: a quarter faster on CPUs,
where a wide one would be up to half as slow again."""


Index = Tensor | slice
"""Chosen units: ascending positions, or a band of neighbours, which is a view of a weight."""


def positions(index: Index, device: torch.device | str) -> Tensor:
    """Return chosen units one by one, int64 `[K]`."""
    if isinstance(index, slice):
        return torch.arange(index.start, index.stop, device=device)
    return index


def size(index: Index) -> int:
    """Return how many units are chosen."""
    return index.stop - index.start if isinstance(index, slice) else len(index)


class LayerProduct(Protocol):
    """How a weight gradient arises: bilinear in the output's gradient and the layer's input."""

    def lay_out(self, grad: Tensor) -> Tensor:
        """Lay out the gradient as the layer's own backward wants it: one copy serves both."""

    def outputs(self, grad: Tensor, rows: Index) -> Tensor:
        """Return the part of `grad` that belongs to `rows`; more may follow it."""

    def biases(self, outputs: Tensor) -> Tensor:
        """Return `dL/db` of what `outputs` returned, one number for each."""

    def rows(
        self, grad: Tensor, input: Tensor, rows: Index, outputs: Tensor | None = None
    ) -> Tensor:
        """Return `dL/dW[rows]`, shape `[len(rows), I, *k]`; `outputs` is of them, if at hand."""

    def narrow(self, input: Tensor, columns: Index) -> Tensor:
        """Return a copy of the input's part that the weight's `columns` touch, for `dense`.

        More columns may follow the chosen ones.
        """

    def dense(self, grad: Tensor, input: Tensor) -> Tensor:
        """Return `dL/dW` of all rows and a narrowed input's columns, `[O, len(columns), *k]`."""

    def tiles(
        self, grad: Tensor, input: Tensor, row: Tensor, column: Tensor, sides: tuple[int, int]
    ) -> Tensor:
        """Return `dL/dW` of tiles of R x C = `sides`, the t-th at tile `row[t], column[t]`."""


class LinearProduct:
    """`y = x W^T + b`, so `dL/dW = (dL/dy)^T x` summed over all leading dimensions."""

    def lay_out(self, grad: Tensor) -> Tensor:
        """See `LayerProduct.lay_out`: a matrix in one piece."""
        return grad.contiguous()

    def outputs(self, grad: Tensor, rows: Index) -> Tensor:
        """See `LayerProduct.outputs`; `grad [..., O]`."""
        grad = grad.reshape(-1, grad.shape[-1])  # a gather from a matrix is much the fastest
        return grad[:, rows] if isinstance(rows, slice) else grad.index_select(1, _aligned(rows))

    def biases(self, outputs: Tensor) -> Tensor:
        """See `LayerProduct.biases`."""
        return outputs.sum(0)

    def rows(
        self, grad: Tensor, input: Tensor, rows: Index, outputs: Tensor | None = None
    ) -> Tensor:
        """See `LayerProduct.rows`; `grad [..., O]`, `input [..., I]`."""
        gradient = self.dense(self.outputs(grad, rows) if outputs is None else outputs, input)
        return gradient[: size(rows)]

    def narrow(self, input: Tensor, columns: Index) -> Tensor:
        """See `LayerProduct.narrow`; `[N, columns]`, as many as `ALIGNMENT` makes of them."""
        input = input.reshape(-1, input.shape[-1])
        if isinstance(columns, slice):
            return input[:, columns].contiguous()
        return input.index_select(1, _aligned(columns))

    def dense(self, grad: Tensor, input: Tensor) -> Tensor:
        """See `LayerProduct.dense`."""
        grad, input = grad.reshape(-1, grad.shape[-1]), input.reshape(-1, input.shape[-1])
        parts = _most(SPLIT, grad)
        if parts > 1 and len(grad) % parts == 0 and _tiles(grad) * _tiles(input) <= SMALL_PRODUCT:
            grad, input = (x.unflatten(0, (parts, len(x) // parts)) for x in (grad, input))
            wide = torch.promote_types(grad.dtype, torch.float32)
            return torch.bmm(grad.transpose(1, 2), input).sum(0, dtype=wide)
        if input.shape[1] < min(NARROW, grad.shape[1]):
            return (input.T @ grad).T.contiguous()
        return grad.T @ input

    def tiles(
        self, grad: Tensor, input: Tensor, row: Tensor, column: Tensor, sides: tuple[int, int]
    ) -> Tensor:
        """See `LayerProduct.tiles`; gathers at most `GATHER_ENTRIES` of grad and input at once."""
        # Tile by tile in memory, a chosen tile's part of grad or input is one stretch of it.
        left = grad.reshape(-1, grad.shape[-1] // sides[0], sides[0]).transpose(0, 1).contiguous()
        right = (
            input.reshape(-1, input.shape[-1] // sides[1], sides[1]).transpose(0, 1).contiguous()
        )
        entries_a_tile = max(1, left.shape[1] * sum(sides))
        tiles_at_once = max(1, GATHER_ENTRIES // entries_a_tile)
        return torch.cat(
            [
                torch.bmm(left.index_select(0, r).transpose(1, 2), right.index_select(0, c))
                for r, c in zip(row.split(tiles_at_once), column.split(tiles_at_once), strict=True)
            ]
        )


@dataclass(frozen=True)
class ConvProduct:
    """A convolution whose padding is symmetric and zero (the layer pads the input otherwise)."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def lay_out(self, grad: Tensor) -> Tensor:
        """See `LayerProduct.lay_out`: in the memory format it came in."""
        return grad

    def outputs(self, grad: Tensor, rows: Index) -> Tensor:
        """See `LayerProduct.outputs`; `grad [N, O, *s']`, N may be missing."""
        grad = self._batched(grad)
        # a slice is a view in the memory format that it came in
        return grad[:, rows] if isinstance(rows, slice) else _channels(grad, rows)

    def biases(self, outputs: Tensor) -> Tensor:
        """See `LayerProduct.biases`."""
        return outputs.sum([dim for dim in range(outputs.dim()) if dim != 1])

    def rows(
        self, grad: Tensor, input: Tensor, rows: Index, outputs: Tensor | None = None
    ) -> Tensor:
        """See `LayerProduct.rows`; `grad [N, O, *s']`, `input [N, I*G, *s]`, N may be missing."""
        grad, input = self._batched(grad), self._batched(input)
        channels = grad.shape[1]
        chosen = self.outputs(grad, rows) if outputs is None else outputs
        if self.groups == 1:
            return self._product(chosen, input, groups=1)
        if isinstance(rows, slice):
            rows = torch.arange(channels, device=grad.device)[rows]
        # A chosen filter reads the channels of its own group: make each filter a group of its own.
        width = input.shape[1] // self.groups
        group = rows // (channels // self.groups)
        own = group[:, None] * width + torch.arange(width, device=grad.device)
        return self._product(chosen, _channels(input, own.flatten()), groups=len(rows))

    def narrow(self, input: Tensor, columns: Index) -> Tensor:
        """See `LayerProduct.narrow`: column `j` of the weight is channel `j` of every group."""
        input = self._batched(input)
        width = input.shape[1] // self.groups
        if isinstance(columns, slice):
            columns = torch.arange(width, device=input.device)[columns]
        first = torch.arange(self.groups, device=input.device) * width
        return _channels(input, (first[:, None] + columns).flatten())

    def dense(self, grad: Tensor, input: Tensor) -> Tensor:
        """See `LayerProduct.dense`."""
        return self._product(self._batched(grad), self._batched(input), self.groups)

    def tiles(
        self, grad: Tensor, input: Tensor, row: Tensor, column: Tensor, sides: tuple[int, int]
    ) -> Tensor:
        """See `LayerProduct.tiles`: each tile becomes a group of one grouped convolution."""
        grad, input = self._batched(grad), self._batched(input)
        if self._of_pixels:
            # A convolution of thousands of groups took up to twenty times as long.
            return PixelProduct(self.stride).tiles(grad, input, row, column, sides)
        rows = row[:, None] * sides[0] + torch.arange(sides[0], device=row.device)
        own = column[:, None] * sides[1] + torch.arange(sides[1], device=row.device)
        left = rows
        if self.groups > 1:
            # The rows of one tile may lie in several groups: each row becomes a tile.
            left, own = rows.reshape(-1, 1), own.repeat_interleave(sides[0], 0)
            own = own + left // (grad.shape[1] // self.groups) * (input.shape[1] // self.groups)
        gradient = self._product(
            _channels(grad, left.flatten()),
            _channels(input, own.flatten()),
            groups=len(left),
        )
        return gradient.unflatten(0, rows.shape)

    def of(self, input: Tensor) -> LayerProduct:
        """Return the fastest equal product for inputs that lie in memory as this one."""
        batched = input.dim() == len(self.kernel_size) + 2
        channels_last = batched and _pixels(input).is_contiguous()
        return PixelProduct(self.stride) if self._of_pixels and channels_last else self

    @property
    def _of_pixels(self) -> bool:
        """True for a 1x1 convolution: one matrix applied to every pixel."""
        return self.groups == 1 and set(self.kernel_size) == {1} and set(self.padding) == {0}

    def _batched(self, images: Tensor) -> Tensor:
        return images if images.dim() == len(self.kernel_size) + 2 else images.unsqueeze(0)

    def _product(self, grad: Tensor, input: Tensor, groups: int) -> Tensor:
        product = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}[len(self.kernel_size)]
        size = (grad.shape[1], input.shape[1] // groups, *self.kernel_size)
        return product(input, size, grad, self.stride, self.padding, self.dilation, groups)


@dataclass(frozen=True)
class PixelProduct:
    """A convolution of single pixels: each goes through the same linear layer.

    Images are batched; where their channels lie last in memory, pixels are a matrix as they are.
    """

    stride: tuple[int, ...]

    def lay_out(self, grad: Tensor) -> Tensor:
        """See `LayerProduct.lay_out`: in the memory format it came in."""
        return grad

    def outputs(self, grad: Tensor, rows: Index) -> Tensor:
        """See `LayerProduct.outputs`; `grad [N, O, *s']`, as a matrix of pixels."""
        return LinearProduct().outputs(_pixels(grad), rows)

    def biases(self, outputs: Tensor) -> Tensor:
        """See `LayerProduct.biases`."""
        return LinearProduct().biases(outputs)

    def rows(
        self, grad: Tensor, input: Tensor, rows: Index, outputs: Tensor | None = None
    ) -> Tensor:
        """See `LayerProduct.rows`; `grad [N, O, *s']`, `input [N, I, *s]`."""
        seen = self._seen(input)
        return self._kernels(LinearProduct().rows(_pixels(grad), seen, rows, outputs))

    def narrow(self, input: Tensor, columns: Index) -> Tensor:
        """See `LayerProduct.narrow`: a matrix of the pixels that the convolution looks at."""
        return LinearProduct().narrow(self._seen(input), columns)

    def dense(self, grad: Tensor, input: Tensor) -> Tensor:
        """See `LayerProduct.dense`; `input` as `narrow` gives it."""
        return self._kernels(LinearProduct().dense(_pixels(grad), input))

    def tiles(
        self, grad: Tensor, input: Tensor, row: Tensor, column: Tensor, sides: tuple[int, int]
    ) -> Tensor:
        """See `LayerProduct.tiles`."""
        seen = self._seen(input)
        return self._kernels(LinearProduct().tiles(_pixels(grad), seen, row, column, sides))

    def _seen(self, input: Tensor) -> Tensor:
        for dim, stride in enumerate(self.stride, start=2):
            input = input[(slice(None),) * dim + (slice(None, None, stride),)]
        return _pixels(input)

    def _kernels(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(*gradient.shape, *[1] * len(self.stride))


def _channels(images: Tensor, index: Tensor) -> Tensor:
    """Return the chosen channels, which lie last in memory if all of them do."""
    if _pixels(images).is_contiguous():
        return _pixels(images).index_select(-1, index).movedim(-1, 1)
    return images.index_select(1, index)


def _pixels(images: Tensor) -> Tensor:
    """Permute images `[N, C, *s]` to `[N, *s, C]`."""
    return images.movedim(1, -1)


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


def round_randomly(tensor: Tensor, dtype: torch.dtype, uniform: Tensor) -> Tensor:
    """Round float32 to a narrower dtype, up or down at random, so that the mean is kept.

    Args:
        tensor: What to round, of any shape.
        dtype: float16 or bfloat16.
        uniform: Random numbers in [0, 1), of the tensor's shape.
    """
    digits = 1 - round(math.log2(torch.finfo(dtype).eps))
    step = torch.ldexp(torch.ones_like(tensor), torch.frexp(tensor).exponent - digits)
    return ((tensor / step + uniform).floor() * step).to(dtype)


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
        most = _most(STRIP_ENTRIES, self.grad) // max(1, rows * math.prod(self.shape[1:]))
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


def _tiles(matrix: Tensor) -> int:
    """Return how many tiles of 128 a matrix has side by side."""
    return -(-matrix.shape[1] // 128)


def has_more_rows(shape: Sequence[int]) -> bool:
    """Return whether a weight has more output units than input units."""
    outputs, inputs = _dims(shape)
    return outputs > inputs


def _aligned(index: Tensor) -> Tensor:
    """Return the chosen units, and unit 0 behind them up to a multiple of `ALIGNMENT`."""
    return F.pad(index, (0, -len(index) % _most(ALIGNMENT, index)))


def divisors(side: int) -> list[int]:
    """Return all divisors of a side, ascending."""
    small = [d for d in range(1, math.isqrt(side) + 1) if side % d == 0]
    return sorted({*small, *(side // d for d in small)})


def _largest_divisor(side: int, most: int) -> int:
    return next(d for d in range(min(side, most), 0, -1) if side % d == 0)


def _most(entries: Mapping[str, int], tensor: Tensor) -> int:
    return entries["cpu" if tensor.device.type == "cpu" else "gpu"]
