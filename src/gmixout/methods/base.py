"""What a finetuning method is to the rest of the package: a small object without a loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from torch import nn
from torch.optim import Optimizer

from gmixout.core.selection import dense_groups, find_head
from gmixout.errors import ConfigError
from gmixout.methods.style import Style
from gmixout.named import Named
from gmixout.settings import check_settings
from gmixout.weightspace import State


class Finetuning(Protocol):
    """One model being finetuned, as the training loop sees it."""

    def param_groups(self, lr: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """Returns the groups for a torch optimizer; `head_lr=None` means the head has `lr`."""

    def bind(self, optimizer: Optimizer) -> Optimizer:
        """Lets the method follow the optimizer's steps."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what, beside the model's and the optimizer's state, is needed to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` returned."""

    def snapshot(self) -> State:
        """Returns the weights that `detach` would leave now, and goes on.

        The keys are the plain model's. Tensors may share memory with the model: copy what is to
        outlive the next step.
        """

    def detach(self) -> nn.Module:
        """Ends finetuning and returns the plain model."""


class DenseFinetuning:
    """Trains parameters as they are, the classifier head at a learning rate of its own.

    Args:
        model: The model; its parameters with `requires_grad` are trained.
        select: `select(name)` says which of them; the others are frozen until `detach`. By default
            all are trained.
    """

    def __init__(self, model: nn.Module, select: Callable[[str], bool] | None = None) -> None:
        self.model = model
        self.heads = find_head(model, needed=False)  # all is trained, the head perhaps faster
        self.frozen = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and not (select is None or select(name))
        ]
        for parameter in self.frozen:
            parameter.requires_grad_(False)

    def param_groups(self, lr: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """Returns two groups, "dense" at `lr` and "head" at `head_lr`; empty ones are left out."""
        return dense_groups(self.model, self.heads, lr, head_lr)

    def bind(self, optimizer: Optimizer) -> Optimizer:
        """Returns the optimizer as it is."""
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: the model's own state is all there is."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes nothing."""
        del state

    def snapshot(self) -> State:
        """Returns the model's own state."""
        return self.model.state_dict()

    def detach(self) -> nn.Module:
        """Returns the model, what was frozen trainable again."""
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        return self.model


class Method(Named, ABC):
    """A finetuning method and its options.

    Subclasses are frozen dataclasses; their fields are the options. A class is named the way a user
    types it (`--method wise_ft`), so that the command line, YAML files, records and the table of
    methods share one name. A method of your own is such a class in a module of your own, and on the
    command line `--method my.module.MyMethod`. Options are checked against their annotations; a
    `__post_init__` of your own, for ranges, calls `super().__post_init__()` first.

    Example:
        >>> from dataclasses import dataclass
        >>> from gmixout.methods import DenseFinetuning, Method
        >>> @dataclass(frozen=True)
        ... class norms_only(Method):
        ...     bias: bool = True
        ...
        ...     def start(self, model, seed):
        ...         kinds = ("norm.weight", "norm.bias") if self.bias else ("norm.weight",)
        ...         return DenseFinetuning(model, select=lambda name: name.endswith(kinds))
        >>> print(norms_only(bias=False))
        norms_only(bias=False)
    """

    style: ClassVar[Style | None] = None
    """How reports name and draw it; subclasses do not inherit it, and need none."""
    pools: ClassVar[bool] = False
    """Whether the method makes one model of several finished runs; see `pool`."""

    def __post_init__(self) -> None:
        """Check the options against their annotations; subclasses add their ranges."""
        check_settings(self)

    def __init_subclass__(cls) -> None:
        """Keeps `alpha` for the place on an interpolation path, which records know it as."""
        super().__init_subclass__()
        cls.style = vars(cls).get("style")
        if "alpha" in cls.__annotations__:
            raise ConfigError(f"method {cls.__name__}: an option cannot be called alpha")

    @property
    def trained(self) -> "Method | None":
        """The method whose training run this one builds on: itself, another, or none."""
        return self

    @abstractmethod
    def start(self, model: nn.Module, seed: int) -> Finetuning:
        """Puts the method on a pretrained model.

        Args:
            model: The model on its training device; changed in place.
            seed: Seed of whatever the method draws.
        """

    def check_steps(self, steps: int) -> None:
        """Finds out before training whether a run of so many steps would be this method.

        Args:
            steps: Optimizer steps of the run.

        Raises:
            ConfigError: It would not.
        """
        for value in vars(self).values():
            if isinstance(value, Method):
                value.check_steps(steps)

    def costliest(self) -> "Method":
        """The method as it trains most of the model, to measure a step of it."""
        parts = {n: part.costliest() for n, part in vars(self).items() if isinstance(part, Method)}
        return replace(self, **parts)  # type: ignore[type-var]

    def variants(
        self, pretrained: State, finetuned: State
    ) -> Iterator[tuple[dict[str, Any], State]]:
        """Yields the models to evaluate, each with the options that tell it from the others."""
        del pretrained
        yield self.options, finetuned

    def pool(self, states: Sequence[State], score: Callable[[State], float]) -> list[int]:
        """Chooses of the finished runs of `trained` those whose mean is this method's model.

        Args:
            states: The final weights of one or more runs that share their pretrained start.
            score: Accuracy on in-domain validation data.

        Returns:
            Positions in `states`.

        Raises:
            ConfigError: The method does not pool.
        """
        del states, score
        raise ConfigError(f"method {self.name} makes no model of several runs; soups do")
