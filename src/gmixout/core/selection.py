"""Which parameters of a model are masked, which trained densely, and which are the head's."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import nn

from gmixout.errors import AttachError, ConfigError

Select = Callable[[str, nn.Parameter], bool]

Places = dict[str, list[tuple[nn.Module, str]]]
"""Parameters by name, each with every module and attribute that holds it."""

MASKED_KINDS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layer kinds whose weight is masked by default; packed and split attention projections, too."""

ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

HEAD_NAMES = re.compile(
    r"(.*_)?(heads?|classifiers?)(_dist|_?\d+)?|head_.*"
    r"|(.*_)?(fc|logits?|scores?|predictions?|predictor)|last_linear|linear|out|output",
    re.IGNORECASE,
)
"""What models call the module that scores the classes; `fc1` is a hidden layer's name."""


def find_head(
    model: nn.Module, head: str | Iterable[str] | None = None, needed: bool = True
) -> tuple[str, ...]:
    """Return the names of the layers that score the classes.

    Without `head`, they are looked for at any depth: what timm's `get_classifier()` returns, a
    module with a classifier's name, the end of an `nn.Sequential`, the same inside of a module that
    wraps one. Of a container they are its last layer and what is as wide; so are layers of that
    width elsewhere outside of repeated blocks (auxiliary classifiers, a second head).

    Args:
        model: The model.
        head: Name(s) of the classifier's modules, which are not looked into; `()`: there is none.
        needed: Raise where no head is found or what is found cannot be all of it; else return what
            is found.

    Raises:
        ConfigError: `head` names no module of the model.
        AttachError: `needed`, and it takes the user to say which layers score the classes.
    """
    if head is not None:
        return _named_head(model, head)
    layers = {module: name for name, module in model.named_modules() if _may_score(module)}
    found = _scoring_layers(model)
    if found is None:  # the model says that it has none
        return ()
    heads = {layer for layer in found if layer in layers}
    for layer in layers.keys() - _in_containers(model):
        if any(_is_as_wide(layer, h) or _reads_the_same(layer, h, layers) for h in tuple(heads)):
            heads.add(layer)
    names = tuple(name for layer, name in layers.items() if layer in heads)
    if needed and layers and model not in layers:
        _check_found(model, names, [*layers.values()][-1])
    return names


def _check_found(model: nn.Module, heads: Sequence[str], last: str) -> None:
    """Raise unless the last layer is among the heads: it may be the classifier."""
    kind = type(model).__name__
    if not heads:
        raise AttachError(
            f"No classifier was found in this {kind}: no get_classifier(), and no module called "
            f"head, fc or classifier. Its last layer is {last!r}: name the layers that score the "
            f"classes, head={last!r} for example, or say that there are none, head=()."
        )
    if last not in heads and not callable(getattr(model, "get_classifier", None)):
        found = ", ".join(map(repr, heads))
        raise AttachError(
            f"{found} has a classifier's name, but {last!r} comes after it in this {kind}. Say "
            f"which layers score the classes: head={heads[0]!r}, head={last!r} or "
            f"head=({found}, {last!r})."
        )


def _named_head(model: nn.Module, head: str | Iterable[str]) -> tuple[str, ...]:
    if isinstance(head, nn.Module) or not isinstance(head, Iterable):
        raise ConfigError(
            f"head={type(head).__name__} must be a module's name, as in "
            "model.named_modules(), or several."
        )
    wanted = (head,) if isinstance(head, str) else tuple(head)
    names = {name for name, _ in model.named_modules() if name}
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"head={name!r} is not a module of this model. Its top-level modules: "
                f"{', '.join(child for child, _ in model.named_children())}."
            )
    return wanted


def _scoring_layers(module: nn.Module) -> list[nn.Module] | None:
    """Return the layers of a (wrapped) model that score classes; None if it says it has none."""
    get_classifier = getattr(module, "get_classifier", None)
    if callable(get_classifier):
        answer = get_classifier()
        given = list(answer) if isinstance(answer, (tuple, list)) else [answer]
        modules = [each for each in given if isinstance(each, nn.Module)]
        found = [layer for each in modules for layer in _ends(each)]
        return found or None
    children = [(name, child) for name, child in module.named_children() if _layers_of(child)]
    named = [child for name, child in children if HEAD_NAMES.fullmatch(name)]
    if named or not children:
        return [layer for child in named for layer in _ends(child)]
    if isinstance(module, nn.Sequential):
        children = children[-1:]
        if _may_score(children[0][1]):
            return [children[0][1]]
    elif any(_may_score(child) for _, child in children):
        return []  # a layer beside others, with no name that says what it is for
    inner = [_scoring_layers(c) for _, c in children if not isinstance(c, nn.ModuleList)]
    if len(children) == 1 and inner == [None]:
        return None
    return [layer for each in inner if each for layer in each]


def _ends(module: nn.Module) -> list[nn.Module]:
    """Return a classifier's layers that score classes: its last one, and those that are as wide."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return [layer for child in module.children() for layer in _ends(child)]
    layers = _layers_of(module)
    if isinstance(module, nn.Sequential):
        return layers[-1:]
    return [layer for layer in layers if layer is layers[-1] or _is_as_wide(layer, layers[-1])]


def _layers_of(module: nn.Module) -> list[nn.Module]:
    return [each for each in module.modules() if _may_score(each)]


def _in_containers(model: nn.Module) -> set[nn.Module]:
    """Return the modules in a sequence or list: repeated blocks, whose width means nothing."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return {m for each in model.modules() if isinstance(each, containers) for m in each.modules()}


def _may_score(module: nn.Module) -> bool:
    """Return whether a layer can be a classifier: linear, or a 1x1 convolution."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return set(module.kernel_size) == {1}
    return isinstance(module, nn.Linear)


def _is_as_wide(layer: nn.Module, head: nn.Module) -> bool:
    """Check whether a layer has a head's outputs: a second head, an auxiliary classifier."""
    read, written = _sides(layer)
    return read != written and written == _sides(head)[1]


def _reads_the_same(layer: nn.Module, head: nn.Module, names: Mapping[nn.Module, str]) -> bool:
    """Check whether a layer stands beside a head and has its inputs: another task's output."""
    read, written = _sides(layer)
    parents = {names[each].rpartition(".")[0] for each in (layer, head)}
    alike = len(parents) == 1 and type(layer) is type(head)
    return alike and read != written and read == _sides(head)[0]


def _sides(layer: nn.Module) -> tuple[Any, Any]:
    """Return a layer's inputs and outputs."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def choose(model: nn.Module, select: Select | None, heads: tuple[str, ...]) -> Places:
    """Return the masked parameters' names, each with every module and attribute that holds it."""
    if select is not None and not callable(select):
        raise ConfigError(
            f"select={select!r} must be a function of a parameter's name and the parameter, "
            "for example lambda name, parameter: ..., that returns True or False."
        )
    places = _places(model)
    in_head = parameters_within(model, heads)
    chosen = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not parameter.is_floating_point():
            continue
        if select is not None:
            wanted = select(name, parameter)
        else:
            wanted = parameter not in in_head and any(
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


def _places(model: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Return every module and attribute that holds each parameter."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(parameter, []).append((module, attribute))
    return places


def biases_of(
    model: nn.Module, chosen: Places, heads: tuple[str, ...]
) -> dict[str, tuple[list[tuple[nn.Module, str]], str | None]]:
    """Return the trainable biases of the layers with masked weights, by name.

    Each with every module and attribute that holds it, and the name of the weight whose output
    units are its entries; None if there is no such weight (in a transposed convolution units come
    second; three projections of an attention may share one bias).
    """
    partners: dict[nn.Parameter, set[str | None]] = {}
    for name, homes in chosen.items():
        for module, attribute in homes:
            weight = module._parameters[attribute]
            bias = module._parameters.get(attribute.replace("weight", "bias"))
            alike = weight is not None and bias is not None and bias.shape == weight.shape[:1]
            if bias is None:
                bias = module._parameters.get("in_proj_bias")
            if bias is not None:
                own = alike and not getattr(module, "transposed", False)
                partners.setdefault(bias, set()).add(name if own else None)
    places, in_head = _places(model), parameters_within(model, heads)
    found = {}
    for name, bias in model.named_parameters():
        weights = partners.get(bias)
        if weights and bias.requires_grad and name not in chosen and bias not in in_head:
            found[name] = (places[bias], weights.pop() if len(weights) == 1 else None)
    return found


def unmasked(model: nn.Module, masked: Places, heads: Iterable[str]) -> list[nn.Parameter]:
    """Return the trainable parameters that are neither masked nor the heads'."""
    in_head = parameters_within(model, heads)
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in masked and parameter not in in_head
    ]


def parameters_within(model: nn.Module, modules: Iterable[str]) -> set[nn.Parameter]:
    """Return the parameters of the named modules, shared ones included (a tied head)."""
    modules = tuple(modules)
    named = model.named_parameters(remove_duplicate=False)
    return {parameter for name, parameter in named if within(name, modules)}


def within(name: str, modules: Iterable[str]) -> bool:
    """Return whether a parameter belongs to one of the named modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def dense_groups(
    model: nn.Module,
    heads: Iterable[str],
    lr: float,
    head_lr: float | None = None,
    leave_out: Iterable[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Return parameter groups "dense" and "head" of unmasked parameters, without empty groups.

    Args:
        model: The model.
        heads: Names of the classifier's modules.
        lr: Learning rate of "dense".
        head_lr: Learning rate of "head"; None: `lr`.
        leave_out: Trainable parameters that belong to neither.

    Raises:
        ConfigError: A rate is negative or not a number.
    """
    head_lr = lr if head_lr is None else head_lr
    _check_rates(lr=lr, head_lr=head_lr)
    dense: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    others = {id(parameter) for parameter in leave_out}
    in_head = parameters_within(model, heads)
    for parameter in model.parameters():
        if parameter.requires_grad and id(parameter) not in others:
            (head if parameter in in_head else dense).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": dense, "lr": lr, "name": "dense"},
        {"params": head, "lr": head_lr, "name": "head"},
    ]
    return [group for group in groups if group["params"]]


def with_decay(
    groups: Iterable[dict[str, Any]], weight_decay: float, no_decay: bool
) -> list[dict[str, Any]]:
    """Return parameter groups with a weight decay, vectors apart without any if `no_decay`.

    Raises:
        ConfigError: The decay is negative or not a number.
    """
    _check_rates(weight_decay=weight_decay)
    split = []
    for group in groups:
        vectors = [p for p in group["params"] if no_decay and p.dim() <= 1]
        rest = [p for p in group["params"] if not (no_decay and p.dim() <= 1)]
        name = f"{group['name']}_no_decay"
        split.append({**group, "params": rest, "weight_decay": weight_decay})
        split.append({**group, "params": vectors, "weight_decay": 0.0, "name": name})
    return [group for group in split if group["params"]]


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not (isinstance(rate, Real) and math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"param_groups({name}={rate!r}) must be a finite number >= 0.")
