"""L2-SP: full finetuning with a pull towards the pretrained weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gmixout.core.selection import within
from gmixout.methods.base import DenseFinetuning, Finetuning, Method
from gmixout.methods.style import BLUE, Style
from gmixout.models.pretrained import Pretrained
from gmixout.settings import require


class _Pulled(DenseFinetuning):
    def __init__(self, pretrained: Pretrained, method: "l2_sp") -> None:
        super().__init__(pretrained)
        self._hook: Any = None
        self._head: list[Tensor] = []
        self._body: list[Tensor] = []
        for name, parameter in self.model.named_parameters():
            (self._head if within(name, self.heads) else self._body).append(parameter)
        self._pull, self._decay = method.pull, method.head_decay
        self._start = [parameter.detach().clone() for parameter in self._body]

    def bind(self, optimizer: Optimizer) -> Optimizer:
        """Adds the penalty's gradient before each step."""
        self._hook = optimizer.register_step_pre_hook(self._before_step)
        return optimizer

    def detach(self) -> nn.Module:
        """Returns the model."""
        if self._hook is not None:
            self._hook.remove()
        return super().detach()

    @torch.no_grad()
    def _before_step(self, *_: Any) -> None:
        for parameter, start in zip(self._body, self._start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._pull)
        for parameter in self._head:
            if parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=self._decay)


@dataclass(frozen=True)
class l2_sp(Method):
    """L2-SP (Li et al., ICML 2018, arXiv 1802.01483): a pull towards the pretrained weights.

    Minimises `loss + pull/2 ||w - w0||^2 + head_decay/2 ||v||^2` over the body's weights `w`, with
    `w0` the pretrained ones, and the head's `v` (equation 4 of the paper). The penalty's gradient
    is added right before each optimizer step: after a GradScaler has divided its scale out and
    after the gradient's norm was cut (`max_grad_norm`), so neither changes the pull. Adam divides
    it by the gradient's own size, as all of it. Costs a copy of the pretrained weights.

    Args:
        pull: Weight of the body's distance to the pretrained weights, the paper's alpha.
        head_decay: Weight of the head's size, the paper's beta.
    """

    style = Style("L2-SP", BLUE, "h", "dot")

    pull: float = 0.1
    head_decay: float = 0.01

    def __post_init__(self) -> None:
        """Refuses weights that are negative or not finite."""
        super().__post_init__()
        for name, value in vars(self).items():
            require(self, name, value >= 0, "0 or more")

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Remembers the pretrained weights."""
        del seed
        return _Pulled(pretrained, self)
