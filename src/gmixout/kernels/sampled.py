"""The chosen entries of a linear layer's weight gradient in one Triton kernel.

Each program computes a tile of the dense gradient in registers and writes the entries of it that
were chosen: the gradient itself is never in memory. `Elements.grad` is the reference, strips of the
dense gradient that are gathered at once, and is what training uses: which of the two is faster on
which GPU is for `benchmarks/kernels.py` to measure.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS, TOKENS = 128, 64, 32
"""Sides of a tile of the gradient, and the stretch of tokens that is multiplied at a time."""
PROGRAMS_A_PROCESSOR = 2
"""Where a gradient has fewer tiles than that, the sum over tokens is split among programs."""


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    grad,
    input,
    index,
    first,
    values,
    rows,
    columns,
    tokens,
    share,
    chosen,
    grad_token,
    grad_row,
    input_token,
    input_column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    across = tl.cdiv(columns, COLUMNS)
    down, right = tl.program_id(0) // across, tl.program_id(0) % across
    part = tl.program_id(1)
    # addresses in int64: tokens times features pass 2**31
    row = down.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, COLUMNS)
    column = right.to(tl.int64) * COLUMNS + place
    end = tl.minimum(tokens, (part + 1) * share)
    total = tl.zeros((ROWS, COLUMNS), SUM)
    for start in range(part * share, end, TOKENS):
        token = tl.arange(0, TOKENS).to(tl.int64) + start
        left = tl.load(
            grad + row[:, None] * grad_row + token[None, :] * grad_token,
            mask=(row < rows)[:, None] & (token < end)[None, :],
            other=0.0,
        )
        above = tl.load(
            input + token[:, None] * input_token + column[None, :] * input_column,
            mask=(token < end)[:, None] & (column < columns)[None, :],
            other=0.0,
        )
        if WIDEN:
            left, above = left.to(tl.float32), above.to(tl.float32)
        total = tl.dot(left, above, total, input_precision=PRECISION, out_dtype=SUM)
    # index[begin:stop] are the chosen entries of a row of the tile
    bound = first + row * (across + 1) + right
    begin = tl.load(bound, mask=row < rows, other=0)
    stop = tl.load(bound + 1, mask=row < rows, other=0)
    for turn in range(0, tl.max(stop - begin, axis=0)):
        slot = begin + turn
        position = tl.load(index + slot, mask=slot < stop, other=0)
        own = position - row * columns - right.to(tl.int64) * COLUMNS
        found = tl.sum(tl.where(own[:, None] == place[None, :], total, 0.0), axis=1)
        tl.store(values + part.to(tl.int64) * chosen + slot, found, mask=slot < stop)


@torch.library.custom_op("gmixout::sampled_product", mutates_args=())
def sampled_product(grad: Tensor, input: Tensor, index: Tensor) -> Tensor:
    """Compute `(grad.T @ input).flatten()[index]`, of every chosen entry and no other.

    Args:
        grad: `dL/dy`, `[N, O]`, of any strides.
        input: `x`, `[N, I]`, of the same dtype.
        index: Positions in the flattened `[O, I]`, int64 `[K]`, ascending.

    Returns:
        `[K]`, float32 (float64 for float64), as it was summed up.
    """
    (tokens, rows), columns = grad.shape, input.shape[1]
    across, down = triton.cdiv(columns, COLUMNS), triton.cdiv(rows, ROWS)
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    if not len(index):
        return grad.new_empty(0, dtype=wide)
    edges = torch.arange(across + 1, device=index.device).mul_(COLUMNS).clamp_(max=columns)
    starts = torch.arange(rows, device=index.device).mul_(columns)
    first = torch.searchsorted(index, starts[:, None] + edges)
    parts = _parts(grad.device, across * down, tokens)
    share = triton.cdiv(triton.cdiv(tokens, parts), TOKENS) * TOKENS
    values = torch.empty((parts, len(index)), dtype=wide, device=grad.device)
    tf32 = grad.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    _kernel[(across * down, parts)](
        grad,
        input,
        index,
        first,
        values,
        rows,
        columns,
        tokens,
        share,
        len(index),
        *grad.stride(),
        *input.stride(),
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        TOKENS=TOKENS,
        SUM=tl.float64 if wide == torch.float64 else tl.float32,
        PRECISION="tf32" if tf32 else "ieee",
        # the interpreter multiplies bfloat16 as if its bits were integers
        WIDEN=not isinstance(_kernel, triton.JITFunction) and grad.dtype == torch.bfloat16,
    )
    return values.sum(0)


def _parts(device: torch.device, tiles: int, tokens: int) -> int:
    """Return how many programs share a tile's sum over tokens."""
    processors = 1
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    programs = PROGRAMS_A_PROCESSOR * processors
    return max(1, min(programs // tiles, triton.cdiv(tokens, TOKENS)))


@sampled_product.register_fake
def _(grad: Tensor, input: Tensor, index: Tensor) -> Tensor:
    del input
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    return grad.new_empty(index.shape, dtype=wide)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    """Differentiate a bilinear map: each factor's gradient is the other times the scattered one."""
    grad, input, index = ctx.saved_tensors
    weight = torch.zeros(grad.shape[1], input.shape[1], dtype=grad.dtype, device=grad.device)
    weight.put_(index, gradient.to(grad.dtype))
    return input @ weight.T, grad @ weight, None


sampled_product.register_autograd(_backward, setup_context=_keep)
