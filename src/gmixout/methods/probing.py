"""Linear probing, alone and before full finetuning."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gmixout.core.selection import dense_groups, within
from gmixout.errors import ConfigError
from gmixout.methods.base import DenseFinetuning, Finetuning, Method
from gmixout.methods.style import BLUE, GREY, Style
from gmixout.models.pretrained import Pretrained
from gmixout.settings import require


class _Probing(DenseFinetuning):
    """Train the head on the features that the pretrained backbone has at inference.

    The backbone is in eval mode meanwhile: no dropout between features and head, and fixed running
    statistics of normalization layers. Its previous mode is restored at the end.
    """

    def __init__(self, pretrained: Pretrained, method: Method) -> None:
        model, heads = pretrained.model, pretrained.heads
        head = [p for name, p in model.named_parameters() if within(name, heads)]
        if not any(parameter.requires_grad for parameter in head):
            raise ConfigError(
                f"method {method.name} trains the classifier head, and model {pretrained.name} has "
                f"none that can be trained (head={pretrained.head!r}): name it, unfreeze it, or "
                "choose another method"
            )
        super().__init__(pretrained, select=lambda name: within(name, heads))
        self._modes = {module: module.training for module in model.modules()}
        model.eval()

    def restore(self) -> None:
        """End probing: unfreeze parameters and restore the mode of every module."""
        super().detach()
        for module, mode in self._modes.items():
            module.training = mode

    def detach(self) -> nn.Module:
        """Return the model."""
        self.restore()
        return self.model


class _LinearProbing(_Probing):
    def param_groups(self, lr: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """Return the group "head", at `lr`."""
        del head_lr
        return super().param_groups(lr, lr)


@dataclass(frozen=True)
class linear_probe(Method):
    """Linear probe: only the classifier head is trained.

    Its learning rate is `lr`, which a comparison varies for every method: with `head_lr`, which is
    fixed there, all points of the curve would be the same.
    """

    style = Style("linear probe", GREY, "X", "dot")
    lr_multiplier = 100.0  # of the CLIP configs of this package

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Freeze all but the head.

        Raises:
            ConfigError: The model has no head that can be trained.
        """
        del seed
        return _LinearProbing(pretrained, self)


class _ProbingFirst(_Probing):
    """Probe for a number of steps, then train everything."""

    def __init__(self, pretrained: Pretrained, method: "lp_ft") -> None:
        super().__init__(pretrained, method)
        self._probe_steps = method.probe_steps
        self._steps = 0
        self._hook: Any = None
        self._go_on()

    def param_groups(self, lr: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """Return two groups, "dense" at `lr`, without gradients at first, and "head"."""
        body = {"params": self.frozen, "lr": lr, "name": "dense"}
        trained = [parameter for parameter in self.frozen if parameter.requires_grad]
        head = dense_groups(self.model, self.heads, lr, head_lr, leave_out=trained)
        return [body, *head]

    def bind(self, optimizer: Optimizer) -> Optimizer:
        """Count the optimizer's steps."""
        self._hook = optimizer.register_step_post_hook(self._after_step)
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the phase that the number of steps implies."""
        self._steps = state["steps"]
        self._go_on()

    def detach(self) -> nn.Module:
        """Return the model."""
        if self._hook is not None:
            self._hook.remove()
        return super().detach()

    def _after_step(self, *_: Any) -> None:
        self._steps += 1
        self._go_on()

    def _go_on(self) -> None:
        probing = any(not parameter.requires_grad for parameter in self.frozen)
        if probing and self._steps >= self._probe_steps:
            self.restore()


@dataclass(frozen=True)
class lp_ft(Method):
    """LP-FT (Kumar et al., ICLR 2022, arXiv 2202.10054): linear probing, then full finetuning.

    Both phases share one budget and one schedule of the learning rate. While the head is probed
    (at `head_lr`) the backbone has no gradients, so weight decay does not change it either.

    Args:
        probe_steps: Steps in which only the head is trained.
    """

    style = Style("LP-FT", BLUE, "X", "dashdot")

    probe_steps: int = 100

    def __post_init__(self) -> None:
        """Refuse negative numbers."""
        super().__post_init__()
        require(self, "probe_steps", self.probe_steps >= 0, "0 or more")

    def check_steps(self, steps: int) -> None:
        """Refuse a run that would only probe.

        Raises:
            ConfigError: The backbone would never be trained.
        """
        if self.probe_steps >= steps:
            raise ConfigError(
                f"lp_ft(probe_steps={self.probe_steps}) in a run of {steps} steps would never "
                f"train the backbone: set probe_steps below {steps}, for example to "
                f"{steps // 3}, or use linear_probe"
            )

    def worst_case(self) -> Method:
        """Return full finetuning from the first step on."""
        return replace(self, probe_steps=0)

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Freeze all but the head for a while.

        Raises:
            ConfigError: The model has no head that can be trained.
        """
        del seed
        return _ProbingFirst(pretrained, self)
