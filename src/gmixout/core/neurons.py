"""Find hidden neurons and attention heads: the units of `structure="neuron"`.

A hidden neuron is its row in one linear layer and its column in the next one; a gated one has two
rows. An attention head is its rows in the queries', keys' and values' projections and its columns
in the output's. What layers have such units is found out by their behaviour, whatever they are
called: in a copy of a module whose linear layers return random numbers, outputs of one layer are
changed, and what reaches the others is compared. Layers share units if what one of them reads
comes from the others alone, goes nowhere else, and falls into parts that do not mix on the way:
elementwise functions keep every neuron apart, attention every head. A norm over all neurons mixes
them.
`nn.MultiheadAttention` is known by its type.
"""

import copy
import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gmixout.errors import AttachError
from gmixout.kernels.structures import Columns, Rows, Structure

Chosen = Mapping[str, Sequence[tuple[nn.Module, str]]]
"""Masked parameters by name, each with every module and attribute that holds it."""

TOKENS = 4
"""Of the input that a module is tried with: a grid of 2 x 2, where one is asked for."""
MOST_TOKENS = 1024
"""Of the input for a module with a table of its tokens' pairs."""
MOST_LAYERS = 8
"""Linear layers of a module in which neurons are looked for: those of a block, not of many."""
MOST_PARTS = 4
"""Parts that one layer may compute together: queries, keys, values; a gate and what it gates."""


@dataclass(frozen=True)
class Side:
    """A weight's side of its neurons: the rows that feed them, or the columns that read them.

    Attributes:
        neurons: What all weights of these neurons have in common, which draws them alike.
        structure: The weight's side, cut into neurons.
    """

    neurons: str
    structure: Structure


def find_neurons(model: nn.Module, chosen: Chosen) -> dict[str, Side]:
    """Return the sides of all weights that belong to hidden neurons or attention heads.

    A function of the modules alone: of no value, no device and no random state.

    Args:
        model: The plain model.
        chosen: What is masked. Neurons whose weights are not all masked are left out, and so is
            a weight that several modules share.

    Raises:
        AttachError: No such weight was found.
    """
    names = {places[0]: name for name, places in chosen.items() if len(places) == 1}
    found: dict[str, Side] = {}
    with torch.device("cpu"):
        all_cuts = [*_of_attention(model), *_of_linear_layers(model)]
    for cuts in all_cuts:
        if all(place in names for place in cuts) and not any(names[p] in found for p in cuts):
            together = " + ".join(names[place] for place in cuts)
            found |= {names[place]: Side(together, cut) for place, cut in cuts.items()}
    if not found:
        raise AttachError(
            f"structure='neuron' found no hidden neurons and no attention heads in this "
            f"{type(model).__name__}: no two masked linear layers where the second reads the "
            "outputs of the first alone, one by one or head by head, and no "
            "nn.MultiheadAttention. Use structure='longer_side', which cuts every weight by itself."
        )
    return found


Cuts = dict[tuple[nn.Module, str], Structure]
"""Weights that share neurons, by module and attribute, each with its cut."""


def _of_attention(model: nn.Module) -> list[Cuts]:
    found = []
    for module in model.modules():
        if not isinstance(module, nn.MultiheadAttention) or module.num_heads == 1:
            continue
        size = module.head_dim
        cuts: Cuts = {(module, "in_proj_weight"): Rows(group=size, parts=3)}
        if module.in_proj_weight is None:
            cuts = {(module, f"{part}_proj_weight"): Rows(group=size) for part in "qkv"}
        found.append(cuts | {(module.out_proj, "weight"): Columns(group=size)})
    return found


def _of_linear_layers(model: nn.Module) -> list[Cuts]:
    found: list[Cuts] = []
    done: set[nn.Module] = set()
    # The smallest module that holds a neuron's layers comes before those that hold the module.
    for module in reversed(list(model.modules())):
        layers = [each for each in _linear_layers(module) if each not in done]
        if 2 <= len(layers) <= MOST_LAYERS:
            for cuts in _try(module, layers):
                found.append({(layer, "weight"): cut for layer, cut in cuts.items()})
                done |= cuts.keys()
    return found


def _linear_layers(module: nn.Module) -> list[nn.Linear]:
    """Return linear layers, but for those whose weight `nn.MultiheadAttention` uses itself."""
    of_attention = {
        child
        for each in module.modules()
        if isinstance(each, nn.MultiheadAttention)
        for child in each.children()
    }
    return [
        each
        for each in module.modules()
        if isinstance(each, nn.Linear)
        and type(each).forward is nn.Linear.forward
        and each not in of_attention
    ]


def _try(module: nn.Module, layers: list[nn.Linear]) -> list[dict[nn.Linear, Structure]]:
    """Return the layers that share neurons, the one that reads them last, each with its cut."""
    for tokens in _lengths(module):
        # whatever a module says to an input that it was not made for
        with suppress(Exception):
            trial = _Trial(module, layers, tokens)
            return [cuts for reader in layers if (cuts := trial.cuts_of(reader))]
    return []


def _lengths(module: nn.Module) -> list[int]:
    """Return how many tokens a module may take: any number, or that of a table of pairs of them."""
    tables = {math.isqrt(buffer.numel()) for buffer in module.buffers()}
    return [TOKENS, *sorted(size for size in tables if 1 < size <= MOST_TOKENS)]


class _Given(TorchFunctionMode):
    """Let linear layers return random numbers, whoever computes with their weights.

    Attributes:
        changed: Outputs of layers, by weight, that are to be others than usual, `[out_features]`.
        read: What each layer was given, by weight.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.seeds = {weight: seed for seed, weight in enumerate(weights)}
        self.answers: dict[Tensor, Tensor] = {}
        self.changed: Mapping[Tensor, Tensor] = {}
        self.read: dict[Tensor, list[Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer `F.linear` with one of the weights, and call all else."""
        given = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
        weight = given.get("weight") if func is F.linear else None
        if weight not in self.seeds:
            return func(*args, **(kwargs or {}))
        self.read[weight].append(given["input"].detach())
        shape = (2, *given["input"].shape[:-1], len(weight))
        if weight not in self.answers or self.answers[weight].shape != shape:
            self.answers[weight] = _random(shape, self.seeds[weight])
        usual, other = self.answers[weight]
        changed = self.changed.get(weight)
        return usual if changed is None else torch.where(changed, other, usual)


class _Trial:
    """A module in which the outputs of every linear layer are given.

    Args:
        module: The module, of which a copy is tried.
        layers: Those of its linear layers that may have neurons.
        tokens: Of the input that it is tried with.
    """

    def __init__(self, module: nn.Module, layers: Sequence[nn.Linear], tokens: int) -> None:
        # Without values: a layer that is used in any other way ends the trial.
        stubs = {
            layer: nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            for layer in _linear_layers(module)
        }
        self.weights = {layer: stub.weight for layer, stub in stubs.items()}
        self.given = _Given(self.weights.values())
        memo: dict[int, Any] = {id(layer): stub for layer, stub in stubs.items()}
        self.module = copy.deepcopy(module, memo).eval()
        _fill(self.module, set(stubs.values()))
        self.shape = (1, tokens, layers[0].in_features)
        self.before = self.run({})
        # A layer that is called twice, or not at all, has no neurons of its own.
        usual = ((layer, self.before[0][layer]) for layer in layers)
        self.usual = {layer: read[0] for layer, read in usual if len(read) == 1}
        self.from_input = self._changes({}, other_input=True)
        self.from_layer = {layer: self._changes({layer: _all(layer)}) for layer in self.weights}

    def run(
        self, changed: Mapping[nn.Linear, Tensor], other_input: bool = False
    ) -> tuple[dict[nn.Linear, list[Tensor]], list[Tensor]]:
        """Return what every layer reads and what the module returns."""
        given = self.given
        given.read = {weight: [] for weight in given.seeds}
        given.changed = {self.weights[layer]: outputs for layer, outputs in changed.items()}
        input = _random(self.shape, -1 - other_input)
        with given, torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = self.module(input)
        reads = {layer: given.read[weight] for layer, weight in self.weights.items()}
        return reads, _tensors(output)

    def _changes(
        self, changed: Mapping[nn.Linear, Tensor], other_input: bool = False
    ) -> set[nn.Linear | None]:
        """Return the layers that read something else, and None if the module returns it."""
        usual, before = self.before
        reads, after = self.run(changed, other_input)
        differing = {
            layer for layer in usual if not all(map(torch.equal, usual[layer], reads[layer]))
        }
        return differing | (set() if all(map(torch.equal, before, after)) else {None})

    def cuts_of(self, reader: nn.Linear) -> dict[nn.Linear, Structure] | None:
        """Return the cuts of the layers whose outputs a layer reads, and its own."""
        sources = [layer for layer, reached in self.from_layer.items() if reader in reached]
        alone = all(self.from_layer[source] == {reader} for source in sources)
        once = {reader, *sources} <= self.usual.keys()
        if not sources or not alone or not once or reader in self.from_input:
            return None
        size = max(self._reach(source, reader) for source in sources)
        if not 0 < size < reader.in_features or reader.in_features % size:
            return None
        cuts: dict[nn.Linear, Structure] = {}
        for source in sources:
            parts = self._parts(source, reader, reader.in_features // size)
            if parts is None:
                return None
            cuts[source] = parts
        return cuts | {reader: Columns(group=size)}

    def _reached(self, source: nn.Linear, reader: nn.Linear, outputs: Tensor) -> Tensor:
        """Return which of a reader's inputs some outputs of a source reach, `[in_features]`."""
        reads, _ = self.run({source: outputs})
        return (reads[reader][0] != self.usual[reader]).flatten(0, -2).any(0)

    def _reach(self, source: nn.Linear, reader: nn.Linear) -> int:
        """Return how many inputs one output reaches: the most of those of different parts."""
        count = source.out_features
        places = {0, *(count * i // n for n in range(2, MOST_PARTS + 1) for i in range(1, n))}
        return max(
            int(self._reached(source, reader, torch.arange(count) == place).sum())
            for place in places
        )

    def _parts(self, source: nn.Linear, reader: nn.Linear, neurons: int) -> Structure | None:
        """Return how a source's rows are cut into neurons; None: the neurons mix."""
        count = source.out_features
        for parts in range(1, MOST_PARTS + 1):
            if count % (parts * neurons) == 0:
                cut = Rows(group=count // (parts * neurons), parts=parts)
                if self._keeps_apart(source, reader, cut, neurons):
                    return cut
        return None

    def _keeps_apart(
        self, source: nn.Linear, reader: nn.Linear, cut: Structure, neurons: int
    ) -> bool:
        """Check that each neuron's outputs reach its own inputs alone.

        Any two neurons differ in a bit of their numbers: those with the bit and those without are
        changed apart.
        """
        shape = (source.out_features,)
        size = self.usual[reader].shape[-1] // neurons
        for bit in range((neurons - 1).bit_length()):
            ones = (torch.arange(neurons) >> bit) & 1 == 1
            for some in (ones, ~ones):
                outputs = torch.zeros(shape, dtype=torch.bool)
                outputs[cut.spread(some.nonzero()[:, 0], shape)] = True
                own = some.repeat_interleave(size)
                reached = self._reached(source, reader, outputs)
                if bool((reached & ~own).any()) or not bool(reached.any()):
                    return False
        return True


def _all(layer: nn.Linear) -> Tensor:
    return torch.ones(layer.out_features, dtype=torch.bool)


def _fill(module: nn.Module, stubs: Collection[nn.Module]) -> None:
    """Give all but the stubs positive random values: what is zero would hide what depends on it."""
    for each in module.modules():
        if each in stubs:
            continue
        for tensors in (each._parameters, each._buffers):
            for seed, (name, tensor) in enumerate(tensors.items()):
                if tensor is not None:
                    value = torch.zeros(tensor.shape, dtype=tensor.dtype)
                    if tensor.is_floating_point():
                        value = _random(tuple(tensor.shape), seed).abs() + 0.1
                    elif not tensor.is_meta:
                        value = tensor.cpu()
                    as_parameter = isinstance(tensor, nn.Parameter) and value.is_floating_point()
                    tensors[name] = nn.Parameter(value) if as_parameter else value  # type: ignore[assignment]


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed % 2**63)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _tensors(output: Any) -> list[Tensor]:
    """Return the tensors of a module's output, tuples and mappings looked into."""
    if isinstance(output, Tensor):
        return [output.detach()]
    if isinstance(output, Mapping):
        output = list(output.values())
    parts = output if isinstance(output, (tuple, list)) else []
    return [tensor for part in parts for tensor in _tensors(part)]
