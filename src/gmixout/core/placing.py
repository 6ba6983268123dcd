"""Where a masking process is put on a model: which parameters it masks, and which it holds."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from gmixout.core.config import GMixout
from gmixout.core.masks import in_groups
from gmixout.core.neurons import Side, find_neurons
from gmixout.core.process import MaskedWeight
from gmixout.core.residuals import RESIDUALS
from gmixout.core.schedule import below_start, count_layers_below, layers_of
from gmixout.core.selection import Places, biases_of, unmasked
from gmixout.kernels.structures import Rows


@dataclass(frozen=True)
class Placed:
    """A process on every parameter that is masked."""

    weights: dict[str, MaskedWeight]
    """By the parameters' names in the model."""
    homes: Places
    """All modules that own each of them, and their names of it."""
    held: list[nn.Parameter]
    """Parameters that are not trained while the process is on the model."""
    layers: tuple[str, ...]
    """Layers that a schedule chooses from, lowest first."""
    depths: dict[nn.Parameter, int]
    """Of everything that is trained: how many layers lie below it."""

    def by_module(self) -> dict[nn.Module, dict[str, MaskedWeight]]:
        """Return the masked parameters of each module, by its own names of them."""
        found: dict[nn.Module, dict[str, MaskedWeight]] = {}
        for name, homes in self.homes.items():
            for module, attribute in homes:
                found.setdefault(module, {})[attribute] = self.weights[name]
        return found


def place(model: nn.Module, config: GMixout, chosen: Places, heads: tuple[str, ...]) -> Placed:
    """Make a process of each chosen weight and, as the config says, of biases.

    Masked parameters and those that are held no longer require a gradient.
    """
    held: list[nn.Parameter] = []
    if config.min_start_depth > 0:
        low = below_start(model, chosen, heads, config.min_start_depth)
        chosen = {name: homes for name, homes in chosen.items() if name not in low}
        held += _hold(low.values())
    biases = biases_of(model, chosen, heads) if config.biases == "masked" else {}
    homes = {**chosen, **{name: at for name, (at, _) in biases.items()}}
    if config.biases != "dense":
        held += _hold(unmasked(model, homes, heads))
    below = count_layers_below(model, chosen, heads)
    depths = {
        parameter: below[name]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in homes
    }
    sides = find_neurons(model, chosen) if config.structure == "neuron" else {}
    weights: dict[str, MaskedWeight] = {}
    for name, at in homes.items():
        if name in biases:
            owner = weights.get(biases[name][1] or "")
            weights[name] = _mask_bias(name, at[0], config, owner)
        else:
            weights[name] = _mask(name, at[0], config, sides.get(name))
        depths[weights[name].values] = below[name]
        for module, attribute in at:
            # With a leftover gradient, weight decay would move anchor values.
            module._parameters[attribute].grad = None  # type: ignore[union-attr]
            module._parameters[attribute].requires_grad_(False)  # type: ignore[union-attr]
    return Placed(weights, homes, held, layers_of(chosen), depths)


def _hold(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Keep parameters from being trained; return those that were to be."""
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
        parameter.grad = None
    return held


def _mask(
    name: str, home: tuple[nn.Module, str], config: GMixout, side: Side | None
) -> MaskedWeight:
    """Return the process on a weight, which may share its masks with others."""
    residual = RESIDUALS[config.residual](config)
    if side is None:
        return MaskedWeight(name, *home, config, residual)
    shape = home[0]._parameters[home[1]].shape  # type: ignore[union-attr]
    structure = in_groups(side.structure, shape, config.mask_rate, config.group_size)
    return MaskedWeight(name, *home, config, residual, structure, side.neurons)


def _mask_bias(
    name: str, home: tuple[nn.Module, str], config: GMixout, owner: MaskedWeight | None
) -> MaskedWeight:
    """Return the process on a bias, which moves with the output units of its weight, `owner`."""
    residual = RESIDUALS[config.residual](config)
    if owner is not None and isinstance(owner.structure, Rows):
        return MaskedWeight(name, *home, config, residual, owner.structure, owner.drawn_as)
    # single entries, and a vector, which optimizers' groups know as a bias
    return MaskedWeight(name, *home, config, residual, Rows())
