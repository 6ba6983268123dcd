"""Optimizers by name or class path: any class like those of `torch.optim`, with its options."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

import torch

from gmixout.errors import ConfigError, needs
from gmixout.training.adopted import Adopted, adopt

_OURS = {
    # settings of the run
    "params", "lr", "weight_decay",
    # how it is computed
    "foreach", "fused", "capturable", "differentiable", "maximize", "verbose",
}  # fmt: skip
"""Constructor parameters of optimizers that are not options."""
_TIMM = "timm."
"""Prefix of the optimizers that timm knows by name."""
_ELEMENTWISE = ("head", "regularizers")
"""Names of groups whose matrices are not for Muon, see `Optimizer.make`."""


class Optimizer(Adopted):
    """An optimizer and its options, beside learning rate and weight decay.

    Subclasses are made of optimizer classes, by `adopted`; their fields are the options.

    Example:
        >>> Optimizer.adopted(torch.optim.NAdam)(betas=(0.9, 0.95)).options["betas"]
        [0.9, 0.95]
    """

    kind: ClassVar[type[torch.optim.Optimizer]]

    @classmethod
    def adopted(cls, found: Any) -> Any:
        """Return the wrapper of an optimizer class; anything else unchanged."""
        if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
            return adopt(cls.family, found, _OURS)
        return found

    def make(
        self, groups: Iterable[Any], lr: float, weight_decay: float, fused: bool | None = None
    ) -> torch.optim.Optimizer:
        """Make the optimizer.

        Muon of timm steps matrices; it has AdamW for all else, and here for the head, too: Muon is
        for hidden layers (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon).

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
        if "fallback_lr_scale" in takes:
            groups = [_with_fallback(group) for group in groups]
        try:
            return self.kind(groups, **{"lr": lr, **options})
        except Exception as error:  # whatever a constructor does with the options
            raise ConfigError(f"optimizer {self} cannot be made: {error}") from error


Optimizer.family = Optimizer


def _with_fallback(group: Any) -> Any:
    """Return a group of Muon's, with AdamW for what is not of hidden layers."""
    if isinstance(group, dict) and group.get("name") in _ELEMENTWISE:
        return {**group, "use_fallback": True}
    return group


def _of_timm(name: str) -> type[Optimizer]:
    """Return an optimizer that timm knows by name, with the defaults of its factory.

    Raises:
        ConfigError: timm has none of that name, or it lacks the library that it takes it from.
    """
    with needs("timm", "vision", f"optimizer {_TIMM}{name}"):
        import timm.optim
    of_timm: Any = timm.optim  # which does not say that it exports these
    try:
        about = of_timm.get_optimizer_info(name)
        usual = dict(about.defaults or {})
        kind: Any = of_timm.get_optimizer_class(name, bind_defaults=False)
    except (ValueError, ImportError, AttributeError) as error:
        close = get_close_matches(name, map(str, of_timm.list_optimizers()), 3)
        meant = f"; did you mean {' or '.join(_TIMM + each for each in close)}?" if close else ""
        raise ConfigError(f"optimizer {_TIMM}{name} is not available: {error}{meant}") from error
    if about.second_order:
        raise ConfigError(
            f"optimizer {_TIMM}{name} needs second derivatives, which a step does not compute: "
            "use another one"
        )
    momentum = inspect.signature(kind).parameters.get("momentum")
    if momentum is not None and momentum.default == 0:
        usual["momentum"] = 0.9  # as timm's factory does
    title = name if name in _FROM_TIMM else _TIMM + name
    made: type[Optimizer] = adopt(Optimizer, kind, _OURS, title, **usual)
    return made


class _Optimizers(Mapping[str, type[Optimizer]]):
    """Optimizers by the names that users type: `adamw`, and all of timm's as `timm.NAME`.

    Only the short names are listed. timm is imported when one of its own is looked up.
    """

    def __getitem__(self, name: str) -> type[Optimizer]:
        if name in _FROM_TORCH:
            return _FROM_TORCH[name]
        if name in _FROM_TIMM:
            return _of_timm(name)
        own = name.removeprefix(_TIMM) if isinstance(name, str) else ""
        if own == name or not own.isidentifier():
            raise KeyError(name)  # timm.optim.Lion is a path
        return _of_timm(own)

    def __iter__(self) -> Iterator[str]:
        return iter((*_FROM_TORCH, *_FROM_TIMM))

    def __len__(self) -> int:
        return len(_FROM_TORCH) + len(_FROM_TIMM)


_FROM_TORCH: dict[str, type[Optimizer]] = {
    "adamw": adopt(Optimizer, torch.optim.AdamW, _OURS, "adamw"),
    "sgd": adopt(Optimizer, torch.optim.SGD, _OURS, "sgd", momentum=0.9),
    "adafactor": adopt(Optimizer, torch.optim.Adafactor, _OURS, "adafactor"),
}
_FROM_TIMM = ("lion", "muon")
"""Optimizers of timm with a short name."""

OPTIMIZERS = _Optimizers()
"""Optimizers by the names that users type."""

Optimizer._table = OPTIMIZERS
