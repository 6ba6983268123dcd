"""How deep a period trains: backward stops at a layer that is drawn with the mask.

Where nothing below some layer is trained, autograd builds no graph there: no gradients are
computed and no activations saved. So a period that starts at layer l of n costs its forward pass
and the backward pass of the n - l layers at and above it.
"""

from collections.abc import Collection, Mapping

from torch import nn

from gmixout.core.config import GMixout
from gmixout.core.masks import uniform
from gmixout.core.selection import within


def count_layers_below(
    model: nn.Module, masked: Collection[str], heads: Collection[str]
) -> dict[str, int]:
    """How many masked layers lie below each parameter, in the order in which they are registered.

    A layer's bias is where its weight is, and what is in no masked layer (norms, embeddings) with
    the next one, or above them all; so are the heads. An order other than that of the forward pass
    costs time (backward has farther to go) and nothing else.

    Args:
        model: The plain model.
        masked: Names of the masked weights.
        heads: Names of the heads' modules.
    """
    layers: dict[str, int] = {}
    for name, _ in model.named_parameters():
        if name in masked:
            layers.setdefault(name.rpartition(".")[0], len(layers))
    below, reached = {}, 0
    for name, _ in model.named_parameters():
        layer = layers.get(name.rpartition(".")[0])
        if layer is not None:
            reached = layer + 1
        below[name] = len(layers) if within(name, heads) else reached if layer is None else layer
    return below


class Depth:
    """Trains, in each period but the first, the layers at and above a start that is drawn anew.

    The start is `floor(n * u**(1/m - 1))` of n layers, with u uniform in [0, 1) and m =
    `config.mean_start_depth`: m n in the mean (before rounding), uniform for m = 1/2. The first
    period trains all layers: DistributedDataParallel, which is to be told
    `find_unused_parameters=True`, only ever serves what it finds trainable when it is made.

    Args:
        config: The process; its seed and the period are all that a start depends on.
        layers: n, the number of masked layers.
        parameters: All that is trained, with the number of layers below it.
    """

    def __init__(
        self, config: GMixout, layers: int, parameters: Mapping[nn.Parameter, int]
    ) -> None:
        self.config = config
        self.layers = layers
        self.parameters = parameters
        self._frozen: set[nn.Parameter] = set()  # by this object; others may freeze more

    def start(self, period: int) -> int:
        """The lowest layer that a period trains, from 0."""
        config = self.config
        if config.mean_start_depth == 0 or period == 0:
            return 0
        u = uniform((1,), seed=config.seed, name="\0depth", period=period, device="cpu").item()
        start = int(self.layers * u ** (1 / config.mean_start_depth - 1))
        return min(start, self.layers - 1)  # a mean next to 1 rounds the power up to 1

    def begin(self, period: int) -> None:
        """Lets gradients flow to the layers of a period, and to no other."""
        if self.config.mean_start_depth == 0:
            return
        start = self.start(period)
        self.end()
        for parameter, below in self.parameters.items():
            if below < start and parameter.requires_grad:
                parameter.requires_grad_(False)
                parameter.grad = None  # no optimizer moves a parameter without one
                self._frozen.add(parameter)

    def end(self) -> None:
        """Lets gradients flow again wherever it stopped them."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen.clear()
