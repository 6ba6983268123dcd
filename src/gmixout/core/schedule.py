"""Layer schedules: which layers a period trains. `RandomStart` implements `mean_start_depth`.

Where nothing below some layer is trained, autograd builds no graph there: no gradients are
computed and no activations saved. So a period whose lowest layer is number l of n costs its forward
pass and the backward pass of the n - l layers at and above it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from gmixout.core.masks import uniform
from gmixout.core.selection import within
from gmixout.errors import ConfigError


class Schedule(Protocol):
    """Choose which layers each period trains; `attach(..., schedule=)` takes any such object.

    A layer that is skipped learns nothing: its W = A + D stays the same while its masks are still
    redrawn. Its biases are skipped with it, norms and embeddings with the next layer; everything
    after the last layer, and the heads, are trained in every period.

    Example:
        Each layer in turn, after a period that trains all:

        >>> class RoundRobin:
        ...     def active(self, period, layers, seed):
        ...         return layers if period == 0 else [layers[period % len(layers)]]
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> from gmixout import GMixout, attach
        >>> masked = attach(model, GMixout(mask_rate=0.5), schedule=RoundRobin())
    """

    def active(self, period: int, layers: Sequence[str], seed: int) -> Collection[str]:
        """Return the names of the layers that a period trains.

        A function of its arguments alone, so that a resumed run and every rank get the same answer;
        it is called whenever the process needs to know.

        Args:
            period: Index of the masking period, from 0. DistributedDataParallel exchanges only what
                it finds trainable when it is made: train all layers in period 0 then, and pass
                `find_unused_parameters=True` to it.
            layers: Names of the modules with masked weights, in the order in which the model
                registers them.
            seed: The seed of the process.
        """


@dataclass(frozen=True)
class RandomStart:
    """Train, in each period but the first, the layers at and above a newly drawn start.

    The start is `floor(n * u**(1/mean - 1))` of n layers, with u uniform in [0, 1): `mean * n` on
    average (before rounding), uniform for a mean of 1/2. The first period trains all layers (but
    those that `min_start_depth` holds), for DistributedDataParallel.

    Args:
        mean: The mean start as a share of the layers, in (0, 1).
    """

    mean: float

    def active(self, period: int, layers: Sequence[str], seed: int) -> Sequence[str]:
        """See `Schedule.active`."""
        return layers[self.start(period, len(layers), seed) :]

    def start(self, period: int, layers: int, seed: int) -> int:
        """Return the lowest layer that a period trains, from 0."""
        if period == 0:
            return 0
        u = uniform((1,), seed=seed, name="\0depth", period=period, device="cpu").item()
        start = int(layers * u ** (1 / self.mean - 1))
        return min(start, layers - 1)  # a mean next to 1 rounds the power up to 1


def layers_of(masked: Collection[str]) -> tuple[str, ...]:
    """Return the names of the modules with masked weights, each once, in the weights' order."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in masked))


def count_layers_below(
    model: nn.Module, masked: Collection[str], heads: Collection[str]
) -> dict[str, int]:
    """Return the number of masked layers below each parameter, in order of registration.

    A layer's bias is where its weight is, and what is in no masked layer (norms, embeddings) with
    the next one, or above them all; so are the heads. An order other than that of the forward pass
    costs time (backward has farther to go) and nothing else.

    Args:
        model: The plain model.
        masked: Names of the masked weights.
        heads: Names of the heads' modules.
    """
    names = [name for name, _ in model.named_parameters()]
    layers = {layer: i for i, layer in enumerate(layers_of([n for n in names if n in masked]))}
    below, reached = {}, 0
    for name in names:
        layer = layers.get(name.rpartition(".")[0])
        if layer is not None:
            reached = layer + 1
        below[name] = len(layers) if within(name, heads) else reached if layer is None else layer
    return below


def below_start(
    model: nn.Module, masked: Collection[str], heads: Collection[str], start: float
) -> dict[str, nn.Parameter]:
    """Return the parameters below a share of the masked layers, in [0, 1), by name.

    Args:
        model: The plain model.
        masked: Names of the masked weights.
        heads: Names of the heads' modules.
        start: The share of the layers that are below.
    """
    lowest = int(start * len(layers_of(masked)))
    below = count_layers_below(model, masked, heads)
    return {name: p for name, p in model.named_parameters() if below[name] < lowest}


class ActiveLayers:
    """Let gradients flow to the layers that a schedule names.

    Args:
        schedule: Names them; None: all are trained in every period.
        layers: Names of the layers in order.
        parameters: All that is trained, with the number of layers below it.
        seed: Of the process.
    """

    def __init__(
        self,
        schedule: Schedule | None,
        layers: tuple[str, ...],
        parameters: Mapping[nn.Parameter, int],
        seed: int,
    ) -> None:
        self.schedule, self.layers, self.seed = schedule, layers, seed
        self.parameters = parameters
        self.resting: set[nn.Parameter] = set()
        """Parameters that this object has frozen; others may have frozen more."""

    def names(self, period: int) -> list[str] | None:
        """Return the layers that a period trains, in order; None: there is no schedule.

        Raises:
            ConfigError: The schedule names something else.
        """
        if self.schedule is None:
            return None
        active = self.schedule.active(period, self.layers, self.seed)
        known = isinstance(active, Collection) and not isinstance(active, str)
        if not known or any(each not in self.layers for each in active):
            raise ConfigError(
                f"schedule.active(period={period}) returned {active!r:.200}. It must return some "
                f"of the layers with masked weights, {', '.join(self.layers):.400}."
            )
        return [layer for layer in self.layers if layer in active]

    def begin(self, period: int) -> None:
        """Let gradients flow to the layers of a period only."""
        if (active := self.names(period)) is None:
            return
        self.end()
        rest = {number for number, name in enumerate(self.layers) if name not in active}
        for parameter, below in self.parameters.items():
            if below in rest and parameter.requires_grad:
                parameter.requires_grad_(False)
                parameter.grad = None  # no optimizer moves a parameter without one
                self.resting.add(parameter)

    def end(self) -> None:
        """Let gradients flow again wherever it stopped them."""
        for parameter in self.resting:
            parameter.requires_grad_(True)
        self.resting.clear()
