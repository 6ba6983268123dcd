"""The masking process as METHOD.md defines it, written slowly: dense, in float64, one loop.

Shares with the library the mask indices alone (they have tests of their own). Everything else,
the optimizers too, is written out here, entry by entry.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gmixout import GMixout
from gmixout.core.masks import STRUCTURES, count_units, draw, in_groups
from gmixout.kernels.structures import Rows

Rule = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]
Loss = Callable[[Tensor], Tensor]


HEADS = 4
ATTENTION = ("attention.in_proj_weight", "attention.out_proj.weight")
"""Of `TinyNet`: the only weights there that share units."""


def mask_of(config: GMixout, name: str, shape: torch.Size, period: int) -> Tensor:
    """The mask as booleans in the weight's shape."""
    if config.structure == "neuron" and name in ATTENTION:
        # One draw of whole heads for both: rows of q, k and v, columns of the projection.
        heads = Rows()
        count = count_units(heads, (HEADS,), config.mask_rate)
        key = {"seed": config.seed, "name": " + ".join(ATTENTION), "period": period}
        size = shape[1] // HEADS
        mask = torch.zeros(shape, dtype=torch.bool)
        by_head = (
            mask.view(-1, HEADS, size, shape[1])
            if name == ATTENTION[0]
            else mask.T.view(1, HEADS, size, -1)
        )
        by_head[:, draw(heads, (HEADS,), count, **key)] = True
        return mask
    structure = STRUCTURES[config.structure](shape, config.block_size)
    structure = in_groups(structure, shape, config.mask_rate, config.group_size)
    count = count_units(structure, shape, config.mask_rate)
    index = draw(structure, shape, count, seed=config.seed, name=name, period=period)
    return expand(config.structure, config.block_size, shape, index)


def expand(structure: str, block_size: int, shape: torch.Size, index: Tensor) -> Tensor:
    """Unit indices `[K]` to booleans in the weight's shape."""
    mask = torch.zeros(shape, dtype=torch.bool)
    if structure in ("longer_side", "neuron"):
        structure = "row" if shape[0] > (shape[1] if len(shape) > 1 else 1) else "column"
    if structure == "element":
        mask.view(-1)[index] = True
    elif structure == "row":
        mask[index] = True
    elif structure == "column":
        mask.movedim(min(1, len(shape) - 1), 0)[index] = True
    else:
        outputs, inputs = shape[0], shape[1] if len(shape) > 1 else 1
        rows = max(d for d in range(1, min(outputs, block_size) + 1) if outputs % d == 0)
        columns = max(d for d in range(1, min(inputs, block_size) + 1) if inputs % d == 0)
        matrix = mask.view(outputs, inputs, -1)
        for tile in index.tolist():
            row, column = divmod(tile, inputs // columns)
            matrix[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = True
    return mask


def sgd(lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> Rule:
    def rule(weight: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
        grad = grad + weight_decay * weight
        if "buffer" not in state:
            state["buffer"] = torch.zeros_like(weight)
        state["buffer"] = momentum * state["buffer"] + grad
        return weight - lr * state["buffer"]

    return rule


def adamw(lr: float, weight_decay: float = 0.0, eps: float = 1e-8) -> Rule:
    def rule(weight: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
        if not state:
            state |= {"t": torch.zeros(()), "m": torch.zeros_like(weight)}
            state["v"] = torch.zeros_like(weight)
        state["t"] = state["t"] + 1
        state["m"] = 0.9 * state["m"] + 0.1 * grad
        state["v"] = 0.999 * state["v"] + 0.001 * grad**2
        m = state["m"] / (1 - 0.9 ** float(state["t"]))
        v = state["v"] / (1 - 0.999 ** float(state["t"]))
        return weight * (1 - lr * weight_decay) - lr * m / (v.sqrt() + eps)

    return rule


class DenseProcess:
    """METHOD.md, "Symbols", on a plain model; the weights outside `names` are trained as usual."""

    def __init__(self, model: nn.Module, names: list[str], config: GMixout, rule: Rule) -> None:
        self.model, self.names, self.config, self.rule = model, names, config, rule
        self.steps = 0
        self.anchor = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.residual = {n: torch.zeros_like(a) for n, a in self.anchor.items()}
        if config.anchor == "zero":
            for name in names:
                self.residual[name] = self.anchor[name]
                self.anchor[name] = torch.zeros_like(self.anchor[name])
        self.state: dict[str, dict[str, Tensor]] = {n: {} for n in self.anchor}
        self._draw()

    def _draw(self) -> None:
        every = self.config.resample_every
        period = 0 if every is None else self.steps // every
        self.mask = {
            n: mask_of(self.config, n, a.shape, period)
            if n in self.names
            else torch.ones_like(a, dtype=torch.bool)
            for n, a in self.anchor.items()
        }

    def scale(self, name: str) -> float:
        """c."""
        return 1 / self.share(name) if self.config.rescale else 1.0

    def share(self, name: str) -> float:
        """Of the entries that are trained, 1-p but for rounding; all outside the masks."""
        return float(self.mask[name].double().mean())

    def phi(self) -> dict[str, Tensor]:
        return {
            n: a + self.scale(n) * self.residual[n] * self.mask[n] for n, a in self.anchor.items()
        }

    def plain(self) -> dict[str, Tensor]:
        """The final model."""
        if self.config.residual == "reset":
            return self.phi()
        return {
            n: a + (1.0 if self.config.rescale else self.share(n)) * self.residual[n]
            for n, a in self.anchor.items()
        }

    def step(self, loss: Callable[[Callable[..., Tensor]], Tensor]) -> None:
        phi = {n: value.detach().requires_grad_() for n, value in self.phi().items()}
        value = loss(lambda *inputs: functional_call(self.model, phi, inputs))
        grads = torch.autograd.grad(value, list(phi.values()))
        for (name, anchor), grad in zip(self.anchor.items(), grads, strict=True):
            whole = anchor + self.residual[name]
            moved = self.rule(whole, self.scale(name) * grad * self.mask[name], self.state[name])
            self.residual[name] = torch.where(self.mask[name], moved - anchor, self.residual[name])
        self.steps += 1
        every = self.config.resample_every
        if every is not None and self.steps % every == 0:
            self._end()
            self._draw()

    def _end(self) -> None:
        decay = self.config.anchor_decay
        for name in self.names:
            anchor, residual = self.anchor[name], self.residual[name]
            if self.config.residual == "reset":
                change = self.scale(name) * residual * self.mask[name]
                self.anchor[name] = anchor + (1 - decay) * change
                self.residual[name] = torch.zeros_like(residual)
            else:
                whole = anchor + residual
                self.anchor[name] = decay * anchor + (1 - decay) * whole
                self.residual[name] = whole - self.anchor[name]
            self.state[name] = {}
