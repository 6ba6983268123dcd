"""What is masked in a period: a pure function of (seed, parameter name, period), never stored.

The draws are counter-based (a bijective hash of key and counter, computed in int64 tensor
arithmetic): the same on every device, rank and torch version, in any order of parameters, and
without touching the generators of torch, numpy or python.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmixout.kernels.structures import (
    Blocks,
    Columns,
    Elements,
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


BATCH_ENTRIES = {"cpu": 2**17, "gpu": 2**23}
"""Most random numbers that are drawn at a time, for weights of one size together: what fits a CPU's
cache (1 MiB); a GPU wants few launches (64 MiB)."""


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
    return draw_each([(structure, shape, count, name)], seed=seed, period=period, device=device)[0]


def draw_each(
    weights: Sequence[tuple[Structure, Sequence[int], int, str]],
    *,
    seed: int,
    period: int,
    device: torch.device | str,
) -> list[Tensor]:
    """Draw for several weights, each as `draw` would; those of one size in one go.

    Args:
        weights: Structure, shape, count and name of each, see `draw`.
        seed: The run's seed.
        period: Index of the masking period.
        device: Where the results are computed.

    Returns:
        The units of each; weights of one size and name may share memory.
    """
    sizes: dict[tuple[bool, int, int], dict[str, list[int]]] = {}
    for place, (structure, shape, count, name) in enumerate(weights):
        size = isinstance(structure, Elements), structure.choices(shape), count
        sizes.setdefault(size, {}).setdefault(name, []).append(place)
    drawn: dict[int, Tensor] = {}
    for (elements, choices, count), places in sizes.items():
        for names in in_batches(list(places), choices if not elements else count, device):
            if count == choices:
                rows = torch.arange(choices, device=device).expand(len(names), -1)
            elif elements:
                rows = _stratified(choices, count, *_keys(seed, names, period, choices, device))
            else:
                keys, _ = _keys(seed, names, period, 1, device)
                order = _random_bits(keys, choices).argsort(dim=1, stable=True)
                rows = order[:, :count].sort(dim=1).values
            for name, row in zip(names, rows.unbind(), strict=True):
                for place in places[name]:
                    structure, shape, *_ = weights[place]
                    drawn[place] = structure.spread(row, shape)
    return [drawn[place] for place in range(len(weights))]


def uniform(shape: Sequence[int], *, seed: int, name: str, period: int, device: Any) -> Tensor:
    """Return float32 numbers in [0, 1), as reproducible as the masks and independent of them."""
    return uniform_each([name], shape, seed=seed, period=period, device=device)[0]


def uniform_each(
    names: Sequence[str], shape: Sequence[int], *, seed: int, period: int, device: Any
) -> Tensor:
    """Return what `uniform` does for each name, `[len(names), *shape]`."""
    keys, _ = _keys(seed, [f"{name}\0uniform" for name in names], period, 1, device)
    # 24 bits: as many as float32 holds exactly.
    bits = _random_bits(keys, math.prod(shape)) >> 8
    return (bits.float() / 2**24).reshape(len(names), *shape)


def in_batches(names: list[str], entries: int, device: Any) -> Iterator[list[str]]:
    """Split names into batches of at most `BATCH_ENTRIES` random numbers, `entries` a name."""
    kind = "cpu" if torch.device(device).type == "cpu" else "gpu"
    size = max(1, BATCH_ENTRIES[kind] // max(1, entries))
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _stratified(units: int, count: int, keys: Tensor, offsets: Tensor) -> Tensor:
    """Draw one entry per stratum `[floor(i n/K), floor((i+1) n/K))`, rotated by an offset mod n.

    Without the rotation entries of strata of unequal size would have unequal chances. `keys` and
    `offsets` are `[W]`, the result `[W, count]`.
    """
    # In whole numbers: a GPU's float64 division differs from a CPU's in the last place.
    bounds = torch.arange(count + 1, device=keys.device).mul_(units)
    bounds = bounds.div_(count, rounding_mode="floor")
    start, width = bounds[:-1], bounds.diff()
    # Multiply-shift maps 32 random bits to [0, width) with a bias below width / 2^32.
    entry = _random_bits(keys, count).mul_(width).bitwise_right_shift_(32).add_(start)
    entry.add_(offsets[:, None])
    wrapped = entry >= units
    entry = torch.where(wrapped, entry - units, entry)
    # Ascending order without a sort: the wrapped entries, last so far, come first.
    order = torch.arange(count, device=keys.device) + (count - wrapped.sum(1, keepdim=True))
    order = torch.where(order >= count, order - count, order)
    return entry.gather(1, order)


def _keys(
    seed: int, names: Sequence[str], period: int, units: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return two independent integers for each name, int64 `[W]`: a hash key, an offset mod n."""
    pairs = []
    for name in names:
        text = f"{seed}\0{period}\0{name}".encode()
        digest = hashlib.blake2b(text, digest_size=16).digest()
        key = int.from_bytes(digest[:8], "little", signed=True)
        pairs.append((key, int.from_bytes(digest[8:], "little") % units))
    # A device that is busy with the step before is not waited for.
    keys, offsets = torch.tensor(pairs, device="cpu").to(device, non_blocking=True).unbind(1)
    return keys, offsets


def _random_bits(keys: Tensor, count: int) -> Tensor:
    """Return 32 random bits per key and counter, int64 `[W, count]`: the upper half of SplitMix64.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, the
    64-bit mixing function of figure 16 with Stafford's constants. Products wrap modulo 2^64.
    """
    bits = torch.arange(1, count + 1, device=keys.device)
    bits = bits.mul_(_signed(0x9E3779B97F4A7C15)) + keys[:, None]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits.bitwise_xor_(_shift_right(bits, shift)).mul_(_signed(factor))
    bits.bitwise_xor_(_shift_right(bits, 31))
    return _shift_right(bits, 32)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Return the logical shift; torch's own keeps the sign."""
    return (bits >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
