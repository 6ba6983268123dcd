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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

STRIP_ENTRIES = {"cpu": 2**20, "gpu": 2**24}
"""Most entries of a dense gradient that `Elements` holds at a time (4 and 64 MiB in float32).

The dense gradient of a smaller weight is in memory as a whole while it is gathered from, one weight
at a time: smaller strips took up to half as long again.
"""

GATHER_ENTRIES = {"cpu": 2**20, "gpu": 2**27}
"""Most entries of inputs that `LinearProduct.tiles` gathers at a time (4 and 512 MiB in float32).

What fits a CPU's cache; a GPU wants few launches, and has few parts then.
"""

ALIGNMENT = {"cpu": 1, "gpu": 8}
"""Chosen rows and columns of a linear layer are made up to a multiple of this in its product: on a
GPU a matrix in half precision whose rows start at 16 bytes goes by much faster kernels."""

NARROW = 256
"""Columns of an input below which it is the first factor of a product: a quarter faster on CPUs,
where a wide one would be up to half as slow again."""


class LayerProduct(Protocol):
    """How a weight gradient arises: bilinear in the output's gradient and the layer's input."""

    def lay_out(self, grad: Tensor) -> Tensor:
        """Lay out the gradient as the layer's own backward wants it: one copy serves both."""

    def outputs(self, grad: Tensor, rows: Tensor | slice) -> Tensor:
        """Return the part of `grad` that belongs to `rows`; more may follow it."""

    def biases(self, outputs: Tensor) -> Tensor:
        """Return `dL/db` of what `outputs` returned, one number for each."""

    def rows(
        self, grad: Tensor, input: Tensor, rows: Tensor | slice, outputs: Tensor | None = None
    ) -> Tensor:
        """Return `dL/dW[rows]`, shape `[len(rows), I, *k]`; `outputs` is of them, if at hand."""

    def narrow(self, input: Tensor, columns: Tensor) -> Tensor:
        """Return the part of the input that the weight's `columns` touch, for `dense`.

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

    def outputs(self, grad: Tensor, rows: Tensor | slice) -> Tensor:
        """See `LayerProduct.outputs`; `grad [..., O]`."""
        grad = grad.reshape(-1, grad.shape[-1])  # a gather from a matrix is much the fastest
        return grad[:, rows] if isinstance(rows, slice) else grad.index_select(1, _aligned(rows))

    def biases(self, outputs: Tensor) -> Tensor:
        """See `LayerProduct.biases`."""
        return outputs.sum(0)

    def rows(
        self, grad: Tensor, input: Tensor, rows: Tensor | slice, outputs: Tensor | None = None
    ) -> Tensor:
        """See `LayerProduct.rows`; `grad [..., O]`, `input [..., I]`."""
        gradient = self.dense(self.outputs(grad, rows) if outputs is None else outputs, input)
        return gradient if isinstance(rows, slice) else gradient[: len(rows)]

    def narrow(self, input: Tensor, columns: Tensor) -> Tensor:
        """See `LayerProduct.narrow`; `[N, columns]`, as many as `ALIGNMENT` makes of them."""
        return input.reshape(-1, input.shape[-1]).index_select(1, _aligned(columns))

    def dense(self, grad: Tensor, input: Tensor) -> Tensor:
        """See `LayerProduct.dense`."""
        grad, input = grad.reshape(-1, grad.shape[-1]), input.reshape(-1, input.shape[-1])
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
        tiles_at_once = max(1, _most(GATHER_ENTRIES, grad) // entries_a_tile)
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

    def outputs(self, grad: Tensor, rows: Tensor | slice) -> Tensor:
        """See `LayerProduct.outputs`; `grad [N, O, *s']`, N may be missing."""
        grad = self._batched(grad)
        # a slice is a view in the memory format that it came in
        return grad[:, rows] if isinstance(rows, slice) else _channels(grad, rows)

    def biases(self, outputs: Tensor) -> Tensor:
        """See `LayerProduct.biases`."""
        return outputs.sum([dim for dim in range(outputs.dim()) if dim != 1])

    def rows(
        self, grad: Tensor, input: Tensor, rows: Tensor | slice, outputs: Tensor | None = None
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

    def narrow(self, input: Tensor, columns: Tensor) -> Tensor:
        """See `LayerProduct.narrow`: column `j` of the weight is channel `j` of every group."""
        input = self._batched(input)
        width = input.shape[1] // self.groups
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

    def outputs(self, grad: Tensor, rows: Tensor | slice) -> Tensor:
        """See `LayerProduct.outputs`; `grad [N, O, *s']`, as a matrix of pixels."""
        return LinearProduct().outputs(_pixels(grad), rows)

    def biases(self, outputs: Tensor) -> Tensor:
        """See `LayerProduct.biases`."""
        return LinearProduct().biases(outputs)

    def rows(
        self, grad: Tensor, input: Tensor, rows: Tensor | slice, outputs: Tensor | None = None
    ) -> Tensor:
        """See `LayerProduct.rows`; `grad [N, O, *s']`, `input [N, I, *s]`."""
        seen = self._seen(input)
        return self._kernels(LinearProduct().rows(_pixels(grad), seen, rows, outputs))

    def narrow(self, input: Tensor, columns: Tensor) -> Tensor:
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


class Structure(ABC):
    """How a weight is cut into units; `index [K]` names the chosen ones, in ascending order."""

    @abstractmethod
    def units(self, shape: Sequence[int]) -> int:
        """Return how many units a weight of this shape has."""

    @abstractmethod
    def gather(self, weight: Tensor, index: Tensor) -> Tensor:
        """Copy the chosen units out of a weight or a dense gradient."""

    @abstractmethod
    def scatter_(self, weight: Tensor, index: Tensor, values: Tensor) -> None:
        """Write `gather`'s layout back, cast to the weight's dtype; the rest stays untouched."""

    def keep(self, product: LayerProduct, input: Tensor, index: Tensor) -> Tensor:
        """Return what has to be kept of a layer's input until backward: by default all of it."""
        del product, index
        return input

    @abstractmethod
    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Tensor, shape: Sequence[int]
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

    def gather(self, weight: Tensor, index: Tensor) -> Tensor:
        """See `Structure.gather`."""
        # `take` and `put_` find their way through any strides, at three times the time
        if weight.is_contiguous():
            return weight.view(-1, 1).index_select(0, index)
        return weight.take(index)[:, None]

    def scatter_(self, weight: Tensor, index: Tensor, values: Tensor) -> None:
        """See `Structure.scatter_`."""
        values = values.to(weight.dtype).view(-1)
        if weight.is_contiguous():
            weight.view(-1).scatter_(0, index, values)
        elif torch.are_deterministic_algorithms_enabled():  # which put_ is not, by torch's book
            weight.index_put_(torch.unravel_index(index, weight.shape), values)
        else:
            weight.put_(index, values)

    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Tensor, shape: Sequence[int]
    ) -> Tensor:
        """See `Structure.grad`: strips of rows of the dense gradient, each gathered at once."""
        row = math.prod(shape[1:])
        rows_a_strip = max(1, _most(STRIP_ENTRIES, grad) // max(1, row))
        values = None
        for start in range(0, shape[0], rows_a_strip):
            stop = min(start + rows_a_strip, shape[0])
            strip = product.rows(grad, kept, slice(start, stop)).reshape(-1, 1)
            if stop - start == shape[0]:
                return strip.index_select(0, index)
            # Every strip looks at all of `index`: that keeps the shapes free of the data.
            local = index - start * row
            here = ((local >= 0) & (local < strip.numel()))[:, None]
            found = strip.index_select(0, local.clamp(0, strip.numel() - 1))
            values = found if values is None else torch.where(here, found, values)
        assert values is not None  # a weight has at least one row
        return values


@dataclass(frozen=True)
class Rows(Structure):
    """Whole output units: rows of a linear weight, filters of a convolution. `[K, I, *k]`."""

    def units(self, shape: Sequence[int]) -> int:
        """See `Structure.units`."""
        return _dims(shape)[0]

    def gather(self, weight: Tensor, index: Tensor) -> Tensor:
        """See `Structure.gather`."""
        return weight.index_select(0, index)

    def scatter_(self, weight: Tensor, index: Tensor, values: Tensor) -> None:
        """See `Structure.scatter_`."""
        weight.index_copy_(0, index, values.to(weight.dtype))

    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Tensor, shape: Sequence[int]
    ) -> Tensor:
        """See `Structure.grad`: a product `K/O` the size of the dense one."""
        del shape
        return product.rows(grad, kept, index)

    def grad_with_bias(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return `grad`'s result and `dL/db` of the same output units, from one gather."""
        outputs = product.outputs(grad, index)
        biases = product.biases(outputs)[: len(index)]
        return product.rows(grad, kept, index, outputs), biases


@dataclass(frozen=True)
class Columns(Structure):
    """Whole input units; a weight without a second side is cut along its first. `[O, K, *k]`."""

    def units(self, shape: Sequence[int]) -> int:
        """See `Structure.units`."""
        return shape[self._dim(shape)] if len(shape) else 1

    def gather(self, weight: Tensor, index: Tensor) -> Tensor:
        """See `Structure.gather`."""
        return weight.index_select(self._dim(weight.shape), index)

    def scatter_(self, weight: Tensor, index: Tensor, values: Tensor) -> None:
        """See `Structure.scatter_`."""
        weight.index_copy_(self._dim(weight.shape), index, values.to(weight.dtype))

    def keep(self, product: LayerProduct, input: Tensor, index: Tensor) -> Tensor:
        """See `Structure.keep`: only the chosen columns of the input."""
        return product.narrow(input, index)

    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Tensor, shape: Sequence[int]
    ) -> Tensor:
        """See `Structure.grad`: a product `K/I` the size of the dense one."""
        del shape
        return product.dense(grad, kept)[:, : len(index)]

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

    def gather(self, weight: Tensor, index: Tensor) -> Tensor:
        """See `Structure.gather`."""
        tiles, row, column = self._tiles(weight, index)
        return tiles[row, :, column]

    def scatter_(self, weight: Tensor, index: Tensor, values: Tensor) -> None:
        """See `Structure.scatter_`."""
        tiles, row, column = self._tiles(weight, index)
        tiles[row, :, column] = values.to(weight.dtype)

    def grad(
        self, product: LayerProduct, grad: Tensor, kept: Tensor, index: Tensor, shape: Sequence[int]
    ) -> Tensor:
        """See `Structure.grad`: one small product a tile."""
        sides = self._sides(shape)
        across = _dims(shape)[1] // sides[1]
        return product.tiles(grad, kept, index // across, index % across, sides)

    def _sides(self, shape: Sequence[int]) -> tuple[int, int]:
        outputs, inputs = _dims(shape)
        return _largest_divisor(outputs, self.size), _largest_divisor(inputs, self.size)

    def _tiles(self, weight: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a view `[O/R, R, I/C, C, *k]` and the tile's place in it."""
        rows, columns = self._sides(weight.shape)
        matrix = weight.reshape(weight.shape + (1,) * (2 - weight.dim()))
        tiles = matrix.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
        across = tiles.shape[2]
        return tiles, index // across, index % across


def _aligned(index: Tensor) -> Tensor:
    """Return the chosen units, and unit 0 behind them up to a multiple of `ALIGNMENT`."""
    return F.pad(index, (0, -len(index) % _most(ALIGNMENT, index)))


def _largest_divisor(side: int, most: int) -> int:
    return next(d for d in range(min(side, most), 0, -1) if side % d == 0)


def _most(entries: Mapping[str, int], tensor: Tensor) -> int:
    return entries["cpu" if tensor.device.type == "cpu" else "gpu"]
