"""What is masked in a period: a pure function of (seed, parameter name, period), never stored.

The draws are counter-based (a bijective hash of key and counter, computed in int64 tensor
arithmetic): the same on every device, rank and torch version, in any order of parameters, and
without touching the generators of torch, numpy or python.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmixout.kernels.reference import (
    Blocks,
    Columns,
    Elements,
    Index,
    Rows,
    Structure,
    divisors,
    has_more_rows,
)


def _longer_side(shape: Sequence[int], block_size: int) -> Structure:
    return Rows() if has_more_rows(shape) else Columns()


STRUCTURES: dict[str, Callable[[Sequence[int], int], Structure]] = {
    "element": lambda shape, block_size: Elements(),
    "row": lambda shape, block_size: Rows(),
    "column": lambda shape, block_size: Columns(),
    "block": lambda shape, block_size: Blocks(size=block_size),
    "longer_side": _longer_side,
    "neuron": _longer_side,  # of weights that belong to no neuron; `neurons.py` finds the others
}
"""How a weight of a shape is cut, by the name of a `GMixout.structure` and its `block_size`."""


def in_groups(
    structure: Structure, shape: Sequence[int], mask_rate: float, group_size: int | None
) -> Structure:
    """Return the structure with neighbours drawn together, `group_size` of them at most.

    The size of a group divides the weight's units, so that groups are whole, alike and aligned,
    none wraps around, and every unit has the same chance. It is at most the count to be trained,
    and leaves something at the anchor where single units do. None asks for one band: the size is
    the one nearest to the count of which one group is trained, if there is any.
    """
    units, density = structure.choices(shape), 1 - mask_rate
    counts = {size: max(1, round(density * (units // size))) for size in divisors(units)}
    sizes = [size for size, count in counts.items() if size == 1 or count < units // size]
    most = min(counts[1], group_size or counts[1])
    size = max(each for each in sizes if each <= most)
    if group_size is None:
        bands = [each for each in sizes if counts[each] == 1]
        size = min(bands, key=lambda each: abs(each - density * units), default=size)
    return replace(structure, group=structure.group * size)


def count_units(structure: Structure, shape: Sequence[int], mask_rate: float) -> int:
    """Return how many choices of a weight are trained: `round(density * choices)`, at least one."""
    return max(1, round((1 - mask_rate) * structure.choices(shape)))


def draw(
    structure: Structure,
    shape: Sequence[int],
    count: int,
    *,
    seed: int,
    name: str,
    period: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw the units of one weight that are trained in one period.

    Every choice, a unit or a group of them, has the same probability `count / choices`. Elements
    are stratified: one from each of `count` equal strata of the flat weight, so that a draw costs
    O(count), with no sort. Larger units are the first `count` of a random permutation.

    Args:
        structure: How the weight is cut into units, and which of them are drawn together.
        shape: The weight's shape.
        count: Choices to draw, from 1 to all of them.
        seed: The run's seed.
        name: The parameter's name in the model, or what weights that are drawn alike have in
            common; it alone tells weights of one shape apart.
        period: Index of the masking period, from 0.
        device: Where the result is computed.

    Returns:
        Ascending unit indices, int64, `[count]`.
    """
    key = keys_of(seed, name, period)
    return positions(draw_index(structure, shape, count, key, device), device)


def draw_index(
    structure: Structure,
    shape: Sequence[int],
    count: int,
    key: tuple[int, int],
    device: torch.device | str,
) -> Index:
    """Draw as `draw` does, by the key of a period; a band, whole or of one group, is a slice."""
    choices, units = structure.choices(shape), structure.units(shape)
    if count == choices:
        return slice(0, units)
    band = count == 1 and structure.parts == 1
    if band:
        device = "cpu"  # nobody waits for it
    bits, offset = key
    if isinstance(structure, Elements):
        chosen = _stratified(choices, count, bits, offset % choices, device)
    else:
        chosen = _random_bits(bits, choices, device).argsort(stable=True)[:count].sort().values
    if not band:
        return structure.spread(chosen, shape)
    start = structure.group * int(chosen)
    return slice(start, start + structure.group)


def positions(index: Index, device: torch.device | str) -> Tensor:
    """Return chosen units one by one, int64 `[K]`."""
    if isinstance(index, slice):
        return torch.arange(index.start, index.stop, device=device)
    return index


def uniform(shape: Sequence[int], *, seed: int, name: str, period: int, device: Any) -> Tensor:
    """Return float32 numbers in [0, 1), as reproducible as the masks and independent of them."""
    key, _ = keys_of(seed, f"{name}\0uniform", period)
    # 24 bits: as many as float32 holds exactly.
    bits = _random_bits(key, math.prod(shape), device) >> 8
    return (bits.float() / 2**24).reshape(tuple(shape))


def _stratified(
    units: int, count: int, key: int, offset: int, device: torch.device | str
) -> Tensor:
    """Draw one entry per stratum `[floor(i n/K), floor((i+1) n/K))`, rotated by `offset` mod n.

    Without the rotation entries of strata of unequal size would have unequal chances.
    """
    # In whole numbers: a GPU's float64 division differs from a CPU's in the last place.
    bounds = torch.arange(count + 1, device=device).mul_(units)
    bounds = bounds.div_(count, rounding_mode="floor")
    start, width = bounds[:-1], bounds.diff()
    # Multiply-shift maps 32 random bits to [0, width) with a bias below width / 2^32.
    entry = _random_bits(key, count, device).mul_(width).bitwise_right_shift_(32).add_(start)
    entry.add_(offset)
    wrapped = entry >= units
    entry = torch.where(wrapped, entry - units, entry)
    # Ascending order without a sort: the wrapped entries, last so far, come first.
    order = torch.arange(count, device=device).add_(count - wrapped.sum())
    order = torch.where(order >= count, order - count, order)
    return entry.index_select(0, order)


def keys_of(seed: int, name: str, period: int) -> tuple[int, int]:
    """Return a period's key: two independent integers of 64 bits, one signed, one unsigned."""
    digest = hashlib.blake2b(f"{seed}\0{period}\0{name}".encode(), digest_size=16).digest()
    return (
        int.from_bytes(digest[:8], "little", signed=True),
        int.from_bytes(digest[8:], "little"),
    )


def _random_bits(key: int, count: int, device: torch.device | str) -> Tensor:
    """Return 32 random bits per counter, int64 `[count]`: the upper half of SplitMix64.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, the
    64-bit mixing function of figure 16 with Stafford's constants. Products wrap modulo 2^64.
    """
    bits = torch.arange(1, count + 1, device=device)
    bits.mul_(_signed(0x9E3779B97F4A7C15)).add_(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits.bitwise_xor_(_shift_right(bits, shift)).mul_(_signed(factor))
    bits.bitwise_xor_(_shift_right(bits, 31))
    return _shift_right(bits, 32)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Return the logical shift; torch's own keeps the sign."""
    return (bits >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
