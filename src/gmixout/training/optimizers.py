"""Optimizers by name or class path: any class like those of `torch.optim`, with its options."""

import inspect
from collections.abc import Iterable
from dataclasses import make_dataclass
from functools import cache
from typing import Any, ClassVar

import torch

from gmixout.errors import ConfigError
from gmixout.named import Named, own_object, restore
from gmixout.settings import check_settings

_OURS = {
    # settings of the run
    "params", "lr", "weight_decay",
    # how it is computed
    "foreach", "fused", "capturable", "differentiable", "maximize",
}  # fmt: skip
"""Constructor parameters of optimizers that are not options."""


class Optimizer(Named):
    """An optimizer and its options, beside learning rate and weight decay.

    Subclasses are made of optimizer classes, by `adopted`; their fields are the options.

    Example:
        >>> Optimizer.adopted(torch.optim.NAdam)(betas=(0.9, 0.95)).options["betas"]
        [0.9, 0.95]
    """

    kind: ClassVar[type[torch.optim.Optimizer]]
    """The class."""

    def __post_init__(self) -> None:
        """Check the options against their types."""
        check_settings(self)

    @classmethod
    def adopted(cls, found: Any) -> Any:
        """Return the wrapper of an optimizer class; anything else unchanged."""
        if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
            kind: Any = found
            return _adopted(kind)
        return found

    def make(
        self, groups: Iterable[Any], lr: float, weight_decay: float, fused: bool | None = None
    ) -> torch.optim.Optimizer:
        """Make the optimizer.

        Args:
            groups: Parameters, or groups of them.
            lr: Learning rate of groups without their own.
            weight_decay: Weight decay; 0 is right for every optimizer.
            fused: Use the fused implementation, several times as fast, if available.

        Raises:
            ConfigError: The optimizer cannot be made with these options, or has no weight decay.
        """
        takes = inspect.signature(self.kind).parameters
        options = dict(vars(self))
        if weight_decay and "weight_decay" not in takes:
            raise ConfigError(f"optimizer {self} has no weight decay: --weight-decay 0")
        options |= {"weight_decay": weight_decay} if "weight_decay" in takes else {}
        options |= {"fused": fused} if "fused" in takes else {}
        try:
            return self.kind(groups, **{"lr": lr, **options})
        except Exception as error:  # whatever a constructor does with the options
            raise ConfigError(f"optimizer {self} cannot be made: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the path of the optimizer's class, as a worker process imports it."""
        kind = self.kind
        path = f"{kind.__module__}:{kind.__qualname__}"
        if type(self) in OPTIMIZERS.values():
            path = type(self).__name__
        return _restored, (path, dict(vars(self)))


@cache
def _adopted(kind: Any, name: str = "", **usual: Any) -> type[Optimizer]:
    """Make the class of an optimizer's options; `usual` overrides its defaults."""
    options: list[Any] = []
    for parameter in inspect.signature(kind).parameters.values():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.name in _OURS or variadic:
            continue
        default = usual.get(parameter.name, parameter.default)
        if default is parameter.empty:
            options.append((parameter.name, Any))
        else:
            options.append((parameter.name, _kind_of(default), default))
    namespace = {
        "__doc__": (inspect.getdoc(kind) or "").partition("\n\n")[0],
        "__module__": __name__ if name else kind.__module__,
        "kind": kind,
    }
    made = make_dataclass(
        name or kind.__name__, options, bases=(Optimizer,), frozen=True, namespace=namespace,
        kw_only=True,
    )  # fmt: skip
    if not name:
        made.__qualname__ = kind.__qualname__
    return made


def _kind_of(default: Any) -> Any:
    """Return the type of an option, by its default."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return int | float
    if isinstance(default, tuple):
        return tuple[float | None, ...]
    return str if isinstance(default, str) else Any


def _restored(path: str, options: dict[str, Any]) -> Any:
    """Return the inverse of `Optimizer.__reduce__`."""
    return restore(OPTIMIZERS.get(path) or Optimizer.adopted(own_object(path)), options)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw": _adopted(torch.optim.AdamW, "adamw"),
    "sgd": _adopted(torch.optim.SGD, "sgd", momentum=0.9),
}
"""Optimizers by the names that users type."""

Optimizer._table = OPTIMIZERS
