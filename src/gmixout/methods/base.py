"""The interface of a finetuning method: a small object without a loop.

There are two kinds: a `Method` is trained, a `Derived` one makes models from finished runs.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from torch import nn
from torch.optim import Optimizer

from gmixout.core.selection import dense_groups
from gmixout.errors import ConfigError
from gmixout.methods.style import Style
from gmixout.models.pretrained import Pretrained
from gmixout.named import Named, changed, from_spec
from gmixout.regularizers import Regularizer
from gmixout.settings import check_settings, require
from gmixout.weightspace import State

MethodT = TypeVar("MethodT", bound="Method")

TRAINED = "a method that is trained itself, for example full, lora or gmixout"
"""Methods that others may build on, for errors."""


@dataclass(frozen=True)
class Runs:
    """Finished runs of one method from one pretrained start."""

    states: Sequence[State]
    """Final weights of each run; one or more."""
    score: Callable[[State], float]
    """Returns the official metric of weights on in-domain validation data; higher is better."""


class Variant(NamedTuple):
    """A model that a method makes."""

    options: dict[str, Any]
    """Identifies it among the method's models in the records."""
    state: State
    members: tuple[int, ...]
    """Positions of the runs that its weights come from."""


class Finetuning(Protocol):
    """One model being finetuned, as the training loop sees it."""

    @property
    def skips_layers(self) -> bool:
        """True if, in some steps, some trained values get no gradient."""

    def param_groups(self, lr: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """Return the groups for a torch optimizer; `head_lr=None` means the head has `lr`."""

    def bind(self, optimizer: Optimizer) -> Optimizer:
        """Let the method follow the optimizer's steps."""

    def write(self) -> None:
        """Let the model see values that were changed outside of the optimizer's steps."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs besides the model's and the optimizer's state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""

    def snapshot(self) -> State:
        """Return the weights that `detach` would leave now, without ending the finetuning.

        The keys are the plain model's. Tensors may share memory with the model: copy what is to
        outlive the next step.
        """

    def detach(self) -> nn.Module:
        """End finetuning and return the plain model."""


class DenseFinetuning:
    """Train parameters densely, the classifier head at its own learning rate.

    Args:
        pretrained: Names the head; the model's parameters with `requires_grad` are trained.
        select: `select(name)` says which of them; the others are frozen until `detach`. By default
            all are trained.
    """

    skips_layers = False

    def __init__(self, pretrained: Pretrained, select: Callable[[str], bool] | None = None) -> None:
        self.model, self.heads = pretrained.model, pretrained.heads
        self.frozen = [
            parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and not (select is None or select(name))
        ]
        for parameter in self.frozen:
            parameter.requires_grad_(False)

    def param_groups(self, lr: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """Return two groups, "dense" at `lr` and "head" at `head_lr`; empty ones are left out."""
        return dense_groups(self.model, self.heads, lr, head_lr)

    def bind(self, optimizer: Optimizer) -> Optimizer:
        """Return the optimizer unchanged."""
        return optimizer

    def write(self) -> None:
        """Do nothing: the model's own parameters are trained."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the model's own state is all there is."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""
        del state

    def snapshot(self) -> State:
        """Return the model's own state."""
        return self.model.state_dict()

    def detach(self) -> nn.Module:
        """Return the model, with frozen parameters trainable again."""
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        return self.model


class Method(Named, ABC):
    """A finetuning method and its options.

    Subclasses are frozen dataclasses; their fields are the options. A class is named the way a user
    types it (`--method wise_ft`), so that the command line, YAML files, records and the table of
    methods share one name. A method of your own is such a class in your own module, and on the
    command line `--method my.module.MyMethod`. Options are checked against their annotations; your
    own `__post_init__`, for ranges, calls `super().__post_init__()` first.

    Example:
        >>> from dataclasses import dataclass
        >>> from gmixout.methods import DenseFinetuning, Method
        >>> @dataclass(frozen=True)
        ... class norms_only(Method):
        ...     bias: bool = True
        ...
        ...     def start(self, pretrained, seed):
        ...         kinds = ("norm.weight", "norm.bias") if self.bias else ("norm.weight",)
        ...         return DenseFinetuning(pretrained, lambda name: name.endswith(kinds))
        >>> print(norms_only(bias=False))
        norms_only(bias=False)
    """

    style: ClassVar[Style | None] = None
    """How reports name and draw it; subclasses do not inherit it, and need none."""
    hidden: ClassVar[frozenset[str]] = frozenset(
        {"beside"}
    )  # reached by `a+b`, not by its own name
    lr_multiplier: ClassVar[float] = 1.0
    """Learning rate of a first run, relative to the one for full finetuning that recipes hold."""
    several_runs: ClassVar[bool] = False
    """True if its models are made from all runs of a seed together, not from each run."""

    def __post_init__(self) -> None:
        """Check the options against their annotations; subclasses add their ranges."""
        check_settings(self)

    def __init_subclass__(cls) -> None:
        """Reserve `alpha`, which records use for the position on an interpolation path."""
        super().__init_subclass__()
        cls.style = vars(cls).get("style")
        if "alpha" in cls.__annotations__:
            raise ConfigError(f"method {cls.__name__}: an option cannot be called alpha")

    @classmethod
    def plus(cls, first: Any, others: Sequence[Mapping[str, Any]]) -> Any:
        """Return a method with regularizers beside it, see `beside.with_beside`."""
        from gmixout.methods.beside import with_beside

        return with_beside(first, tuple(from_spec(each, Regularizer) for each in others))

    @classmethod
    def elsewhere(cls, name: str) -> str:
        """Return a hint for the name of a regularizer."""
        is_one = name in Regularizer._table
        return f"{name} is a regularizer, written METHOD+{name}; " if is_one else ""

    @property
    def regularizers(self) -> tuple[Regularizer, ...]:
        """Regularizers that act beside the method in its training runs."""
        return ()

    @property
    def trained(self) -> "Method | None":
        """The method whose training run this one builds on: itself, another, or none."""
        return self

    @abstractmethod
    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Put the method on a pretrained model.

        Args:
            pretrained: Its `model` is on the training device, and is changed in place; its `heads`
                are the names of the layers that score the classes.
            seed: Seed of whatever the method draws.
        """

    def check_steps(self, steps: int) -> None:
        """Check that this method can run for `steps` steps.

        Args:
            steps: Optimizer steps of the run.

        Raises:
            ConfigError: It would not.
        """
        for value in vars(self).values():
            if isinstance(value, Method):
                value.check_steps(steps)

    def worst_case(self) -> "Method":
        """Return the method as it trains most of the model, to measure its most expensive step."""
        parts = {n: part.worst_case() for n, part in vars(self).items() if isinstance(part, Method)}
        return replace(self, **parts)  # type: ignore[type-var]

    def models(self, pretrained: State, runs: Runs) -> Iterator[Variant]:
        """Yield the models to evaluate, one by one; for a trained method, its run.

        Args:
            pretrained: The weights that the runs started from.
            runs: Runs of `trained`: one, or all of a seed if the method takes `several_runs`.
        """
        del pretrained
        yield Variant(self.options, runs.states[0], (0,))


class Derived(Method):
    """A method that trains nothing: it makes models from finished runs of another one, its `of`.

    The runs are shared with that method: they are trained once.

    Example:
        >>> from dataclasses import dataclass, field
        >>> from gmixout.methods import Derived, Method, Variant, get_method
        >>> @dataclass(frozen=True)
        ... class halfway(Derived):
        ...     of: Method = field(default_factory=lambda: get_method("full"))
        ...
        ...     def models(self, pretrained, runs):
        ...         (run,) = runs.states
        ...         state = {key: (pretrained[key] + run[key]) / 2 for key in run}
        ...         yield Variant(self.of_option, state, members=(0,))
    """

    def __post_init__(self) -> None:
        """Check the options; `of` must have runs of its own."""
        super().__post_init__()
        require(self, "of", not isinstance(self.trained, Derived), TRAINED)

    @property
    def trained(self) -> Method | None:
        """The method whose runs are used."""
        of: Method = vars(self)["of"]
        return of

    @property
    def of_option(self) -> dict[str, str]:
        """The underlying method, for records; empty if it is the default."""
        return {"of": str(self.trained)} if "of" in changed(self) else {}

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Refuse: there is nothing to train.

        Raises:
            ConfigError: Always.
        """
        del pretrained, seed
        raise ConfigError(
            f"method {self.name} trains nothing itself; evaluate the models that it makes from "
            f"{f'runs of {self.trained}' if self.trained else 'the pretrained weights'}"
        )

    @abstractmethod
    def models(self, pretrained: State, runs: Runs) -> Iterator[Variant]:
        """See `Method.models`."""


def preset(
    kind: type[MethodT], name: str, summary: str, style: Style | None = None, **defaults: Any
) -> type[MethodT]:
    """Return a method that is another one with different defaults and no code of its own.

    It is a class, because runs and records identify a method by its class's name and its
    non-default options.

    Args:
        kind: The method.
        name: The name of the preset, which is to be bound in the module of `kind`.
        summary: One line for the help.
        style: How reports name and draw it.
        **defaults: Its defaults; the other options keep theirs.
    """

    def option(name: str, value: Any) -> Any:
        # a method is made anew for each, as the command line shows the others with their values
        return field(default_factory=lambda: value) if isinstance(value, Named) else value

    texts = inspect.getdoc(kind) or ""
    options = [
        (each.name, each.type, option(each.name, defaults[each.name]))
        for each in fields(kind)  # type: ignore[arg-type]
        if each.name in defaults
    ]
    return make_dataclass(
        name,
        options,
        bases=(kind,),
        frozen=True,
        namespace={
            "__doc__": f"{summary}\n\n{texts[texts.index('Args:') :]}",
            "__module__": kind.__module__,
            "style": style,
        },
    )
