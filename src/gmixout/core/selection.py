"""Which parameters of a model are masked, which trained densely, and which are the head's."""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from torch import nn

from gmixout.errors import AttachError, ConfigError

Select = Callable[[str, nn.Parameter], bool]

MASKED_KINDS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layer kinds whose weight is masked by default; packed and split attention projections, too."""

ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

HEAD_NAMES = ("head", "heads", "head_dist", "fc", "classifier")
"""Where models of timm, torchvision and transformers keep their classifier, at the top level."""


def find_head(model: nn.Module, head: str | Iterable[str] | None = None) -> tuple[str, ...]:
    """Names of the classifier's modules; empty where a model has none.

    Raises:
        ConfigError: `head` names no module of the model.
    """
    names = {module: name for name, module in model.named_modules()}
    if head is not None:
        if isinstance(head, nn.Module) or not isinstance(head, Iterable):
            raise ConfigError(
                f"head={type(head).__name__} must be a module's name, as in "
                "model.named_modules(), or several."
            )
        wanted = (head,) if isinstance(head, str) else tuple(head)
        for name in wanted:
            if name not in names.values():
                raise ConfigError(
                    f"head={name!r} is no module of this model. Its top-level modules: "
                    f"{', '.join(child for child, _ in model.named_children())}."
                )
        return wanted
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier):
        found = get_classifier()
        candidates = list(found) if isinstance(found, (tuple, list)) else [found]
    else:
        children = dict(model.named_children())
        candidates = [children[name] for name in HEAD_NAMES if name in children]
    heads = []
    for candidate in candidates:
        if isinstance(candidate, nn.Module) and candidate in names:
            # A classifier may be a stack; what scores the classes is its last layer.
            layers = [m for m in candidate.modules() if isinstance(m, MASKED_KINDS)]
            heads += [names[layers[-1]]] if layers else []
    return tuple(heads)


def choose(
    model: nn.Module, select: Select | None, heads: tuple[str, ...]
) -> dict[str, list[tuple[nn.Module, str]]]:
    """The masked parameters' names, each with every module and attribute that holds it."""
    if select is not None and not callable(select):
        raise ConfigError(
            f"select={select!r} must be a function of a parameter's name and the parameter, "
            "lambda name, parameter: ... say, that answers with True or False."
        )
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(parameter, []).append((module, attribute))
    chosen = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not parameter.is_floating_point():
            continue
        if select is not None:
            wanted = select(name, parameter)
        else:
            wanted = not within(name, heads) and any(
                (isinstance(module, MASKED_KINDS) and attribute == "weight")
                or (isinstance(module, nn.MultiheadAttention) and attribute in ATTENTION_WEIGHTS)
                for module, attribute in places[parameter]
            )
        if wanted:
            if isinstance(parameter, nn.parameter.UninitializedParameter) or not parameter.numel():
                raise AttachError(
                    f"{name!r} has no entries yet, so no mask can be drawn. Run one batch through "
                    "a lazy model first, or leave the parameter out with select=."
                )
            chosen[name] = places[parameter]
    return chosen


def within(name: str, modules: Iterable[str]) -> bool:
    """Whether a parameter belongs to one of the named modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def dense_groups(
    model: nn.Module,
    heads: Iterable[str],
    lr: float,
    head_lr: float | None = None,
    leave_out: Iterable[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Parameter groups "dense" and "head" of what is trained as it is; empty ones are left out.

    Args:
        model: The model.
        heads: Names of the classifier's modules.
        lr: Learning rate of "dense".
        head_lr: Learning rate of "head"; None: `lr`.
        leave_out: Trainable parameters that belong to neither.

    Raises:
        ConfigError: A rate is negative or no number.
    """
    head_lr = lr if head_lr is None else head_lr
    for name, rate in (("lr", lr), ("head_lr", head_lr)):
        if not (isinstance(rate, Real) and math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"param_groups({name}={rate!r}) must be a finite number >= 0.")
    dense: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    others = {id(parameter) for parameter in leave_out}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in others:
            (head if within(name, heads) else dense).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": dense, "lr": lr, "name": "dense"},
        {"params": head, "lr": head_lr, "name": "head"},
    ]
    return [group for group in groups if group["params"]]
