"""How the weight gradient of a layer arises, and how any part of it is computed alone.

A layer product knows the layer's input and the gradient of its output. `structures.py` asks it for
the chosen units of a weight.

Letters: a weight is `[O, I, *k]` (`k` the kernel of a convolution, empty for a linear layer), `N`
tokens or images, `G` groups of a convolution, `K` chosen units. No function has a shape that
depends on data and none waits for the device, so all of them compile and run on any device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

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
        parts = for_device(SPLIT, grad)
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


def _tiles(matrix: Tensor) -> int:
    """Return how many tiles of 128 a matrix has side by side."""
    return -(-matrix.shape[1] // 128)


def _aligned(index: Tensor) -> Tensor:
    """Return the chosen units, and unit 0 behind them up to a multiple of `ALIGNMENT`."""
    return F.pad(index, (0, -len(index) % for_device(ALIGNMENT, index)))


def for_device(entries: Mapping[str, int], tensor: Tensor) -> int:
    """Return the value for the kind of device that a tensor is on."""
    return entries["cpu" if tensor.device.type == "cpu" else "gpu"]
