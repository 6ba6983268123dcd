"""The traffic and arithmetic of one operation, from the tensors it takes and returns.

Every rule is about a kind of operation, none about a method or a model. Bytes are those that move
between a GPU's memory and its processor when nothing stays in a cache between two operations.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

SECTOR = 32
"""Bytes that a GPU reads or writes together: NVIDIA's sectors."""


class WorkKind(str, Enum):
    """What an operation's time depends on."""

    PRODUCT = "matrix products"
    ATTENTION = "attention"
    CONVOLUTION = "convolutions"
    NORM = "norms"
    REDUCTION = "sums"
    GATHER = "gathers and scatters"
    STRIDED = "copies between layouts"
    STREAM = "elementwise, casts and the optimizer"


@dataclass(frozen=True)
class Operation:
    """One call of an operation of torch."""

    name: str
    kind: WorkKind
    dtype: torch.dtype
    """Of the largest input."""
    read: int
    """Bytes read."""
    written: int
    """Bytes written."""
    flops: int = 0
    """Floating-point operations by torch's formulas (`torch.utils.flop_counter`); 0 without one."""
    sides: tuple[int, int, int, int] | None = None
    """Of a matrix product `[m, k] @ [k, n]`: how many at once, m, n, k."""
    launches: int = 1
    """Kernels that run."""

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read + self.written


_FREE = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view",
    "_local_scalar_dense", "is_same_size", "resize_", "set_", "lift_fresh", "record_stream",
}  # fmt: skip
"""Operations that are not views and move nothing."""

_GATHERS = {"index_select", "gather", "take", "embedding", "index", "_unsafe_index"}
_SCATTERS = {
    "index_copy", "index_copy_", "index_add", "index_add_", "index_put", "index_put_",
    "_index_put_impl_", "scatter", "scatter_", "scatter_add", "scatter_add_", "put_",
    "index_fill_", "masked_scatter_",
}  # fmt: skip
_ONLY_WRITTEN = {"copy_", "fill_", "zero_", "bernoulli_", "normal_", "uniform_", "random_"}
"""In-place operations that do not read what they overwrite."""
_PADS = {"constant_pad_nd", "select_backward", "slice_backward", "as_strided_scatter"}
"""Operations that fill a tensor and then write the input into it."""
_SORTS = {"sort", "argsort", "topk", "msort"}
_SORT_PASSES = 8
"""A radix sort of 64-bit keys passes over them once a byte."""


def describe(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Operation | None:
    """Return what an operation costs, None if nothing (a view, an allocation).

    Args:
        func: The operation, as `TorchDispatchMode` gives it.
        args: Its arguments.
        kwargs: Its keyword arguments.
        out: What it returned.
    """
    name = func._schema.name.partition("::")[2]
    ins, outs = list(_tensors((args, kwargs))), list(_tensors(out))
    if name in _FREE or func.namespace != "aten" or not (ins or outs) or _is_view(func):
        return None
    dtype = max(ins or outs, key=lambda tensor: tensor.numel()).dtype
    if name in _GATHERS:
        read, written = _gathered(name, args, outs)
        return Operation(name, WorkKind.GATHER, dtype, read, written)
    if name in _SCATTERS:
        read, written = _scattered(name, args)
        return Operation(name, WorkKind.GATHER, dtype, read, written)
    overwritten = list(_overwritten(func, args, kwargs))
    targets = {id(tensor) for tensor in overwritten}
    sources = [t for t in ins if name not in _ONLY_WRITTEN or id(t) not in targets]
    read = sum(map(_size, sources))
    written = sum(map(_size, overwritten or outs))
    flops, sides = _arithmetic(func, args, kwargs, out)
    kind = _kind(name, flops, sources, overwritten or outs)
    if name in _PADS:
        written += read
    if name in _SORTS:
        read, written = read * _SORT_PASSES, written * _SORT_PASSES
    launches = _SORT_PASSES if name in _SORTS else 1
    if kind is WorkKind.NORM and "backward" in name and len(outs) > 1:
        # a pass of its own sums the gradients of scale and shift over all tokens
        read, launches = read + _size(args[0]) + _size(args[1]), 2
    return Operation(name, kind, dtype, read, written, flops, sides, launches)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor, each place in memory once: expanded sides have none."""
    if tensor.layout is not torch.strided:
        return int(tensor._nnz()) * (tensor.itemsize + 8 * tensor.sparse_dim())
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sides if stride or not size) * tensor.itemsize


def _is_view(func: Any) -> bool:
    alias = [each.alias_info for each in func._schema.returns]
    return any(each is not None and not each.is_write for each in alias)


def _overwritten(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that an operation writes into."""
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    for argument in func._schema.arguments:
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        # torch's fused optimizers may write unscaled gradients, and do not without a scaler
        if argument.name == "grads" and given.get("grad_scale") is None:
            continue
        yield from _tensors(given.get(argument.name))


def _arithmetic(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any
) -> tuple[int, tuple[int, int, int, int] | None]:
    """Return the floating-point operations and, of a matrix product, its sides."""
    from torch.utils.flop_counter import flop_registry  # heavy: it loads Triton

    formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
    name = func._schema.name
    if formula is None and "scaled_dot_product" in name:
        # of a backend that torch has no formula for; all compute the same
        backward = "backward" in name
        like = torch.ops.aten._scaled_dot_product_flash_attention
        if backward:
            like = torch.ops.aten._scaled_dot_product_flash_attention_backward
        formula = flop_registry[like]
    if formula is None:
        return 0, None
    flops = int(formula(*args, **kwargs, out_val=out))
    matrices = [t for t in _tensors(args) if t.dim() in (2, 3)][-2:]
    if "convolution" in name or "attention" in name or len(matrices) < 2:
        return flops, None
    left, right = matrices
    count = left.shape[0] if left.dim() == 3 else 1
    return flops, (count, left.shape[-2], right.shape[-1], left.shape[-1])


def _kind(name: str, flops: int, sources: Sequence[Tensor], outs: Sequence[Tensor]) -> WorkKind:
    if "attention" in name:
        return WorkKind.ATTENTION
    if "convolution" in name:
        return WorkKind.CONVOLUTION
    if flops:
        return WorkKind.PRODUCT
    if "norm" in name and ("native" in name or "batch_norm" in name or "rms_norm" in name):
        return WorkKind.NORM
    most = max((tensor.numel() for tensor in sources), default=0)
    if len(outs) == 1 and 2 * outs[0].numel() <= most:
        return WorkKind.REDUCTION
    if _changes_layout(sources, outs):
        return WorkKind.STRIDED
    return WorkKind.STREAM


def _changes_layout(sources: Sequence[Tensor], outs: Sequence[Tensor]) -> bool:
    """Return whether the largest source lies in memory in another order than what is written."""
    if len(outs) != 1 or not sources or not outs[0].numel():
        return False
    source = max(sources, key=lambda tensor: tensor.numel())
    if source.layout is not torch.strided or _size(source) < source.numel() * source.itemsize:
        return False  # one that is expanded has no order of its own
    if source.dim() == outs[0].dim() - 1:  # of a stack
        source, out = source, outs[0].select(_stacked(source, outs[0]), 0)
    else:
        out = outs[0]
    return source.dim() == out.dim() and _order(source) != _order(out)


def _stacked(source: Tensor, out: Tensor) -> int:
    """Return the side of `out` that `source` lacks."""
    sizes = list(out.shape)
    for side in range(out.dim()):
        if sizes[:side] + sizes[side + 1 :] == list(source.shape):
            return side
    return 0


def _order(tensor: Tensor) -> list[int]:
    """Return the sides longer than 1 from the outermost in memory to the innermost."""
    sides = [side for side in range(tensor.dim()) if tensor.shape[side] > 1]
    strides = tensor.stride()
    return sorted(sides, key=lambda side: (-strides[side], side))


def _touched(tensor: Tensor, side: int, chosen: int) -> int:
    """Return the bytes that chosen positions along a side touch, in whole sectors.

    Chosen positions are taken to lie anywhere: what is drawn is not known to a trace. Of positions
    narrower than a sector nearly all sectors are touched, even if few are chosen.
    """
    whole, size = _size(tensor), tensor.shape[side]
    share = min(1.0, chosen / max(1, size))
    run = max(1, tensor.stride(side)) * tensor.itemsize
    if run < SECTOR:
        share = 1 - (1 - share) ** (SECTOR / run)
    return round(whole * share)


def _gathered(name: str, args: Sequence[Any], outs: Sequence[Tensor]) -> tuple[int, int]:
    """Return bytes read and written by an operation that reads chosen positions."""
    source, written = args[0], sum(map(_size, outs))
    if name == "index_select" and source.dim():
        return _touched(source, args[1], args[2].numel()) + _size(args[2]), written
    index = list(_tensors(args[1:]))
    return _anywhere(source, outs[0], name) + sum(map(_size, index)), written


def _scattered(name: str, args: Sequence[Any]) -> tuple[int, int]:
    """Return bytes read and written by an operation that writes chosen positions."""
    target, tensors = args[0], list(_tensors(args[1:]))
    read = sum(map(_size, tensors))
    if name.startswith("index_") and isinstance(args[1], int) and target.dim():
        written = _touched(target, args[1], args[2].numel())
        run = max(1, target.stride(args[1])) * target.itemsize
    else:
        values = max(tensors, key=lambda tensor: tensor.numel())
        written, run = _anywhere(target, values, name), target.itemsize
    # a sector of which a part is written is read first
    return read + (written if run < SECTOR or "add" in name else 0), written


def _anywhere(memory: Tensor, entries: Tensor, name: str) -> int:
    """Return the bytes touched by entries that lie anywhere, at most all of `memory`.

    Of an index on the first sides, the sides behind it are read in one run.
    """
    run = memory.itemsize
    if name.startswith(("index", "_unsafe_index", "embedding", "_index")) and memory.dim() > 1:
        run *= memory.shape[-1]
    return min(_size(memory), round(_size(entries) * max(1.0, SECTOR / run)))
