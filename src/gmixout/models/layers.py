"""The layers of a model from its input to its head, for learning rates by depth."""

import re
from collections.abc import Iterator, Sequence

from torch import nn

from gmixout.errors import ConfigError, needs

_INSIDE = ("blocks", "layers", "layer", "block")
"""Names by which stages (Swin, ConvNeXt, ResNet of transformers) hold their blocks."""
_LOWEST = re.compile("embed|token|pos")
"""Parameters that a tower itself has for its input; its others are projections of its output."""


def layer_numbers(model: nn.Module, heads: Sequence[str]) -> dict[str, int]:
    """Return the number of the layer of each parameter, from 0 at the input.

    Layers are those that timm defines (`group_matcher`), also of a tower inside the model;
    otherwise the blocks of the model, lists of modules of one class, in their order. As in timm,
    what comes before the first block is layer 0, and what comes after the last one belongs to it.
    The heads are a layer of their own, the last one.

    Args:
        model: The plain model, before a method is put on it.
        heads: Names of the modules that score the classes.

    Raises:
        ConfigError: The order of its layers is not known, or timm is not installed.
    """
    for tower, module in model.named_modules():
        if callable(matcher := getattr(module, "group_matcher", None)):
            with needs("timm", "vision", "the order of the layers"):
                from timm.models import group_parameters
            own = group_parameters(module, matcher(coarse=False), reverse=True)
            if not tower:
                return dict(own)
            found = {f"{tower}.{name}": layer for name, layer in own.items()}
            break
    else:
        found = _by_blocks(model)
    last = max(found.values())
    names = [name for name, _ in model.named_parameters()]
    tops = tuple(f"{head}." for head in heads)
    return {name: last + 1 if name.startswith(tops) else found.get(name, last) for name in names}


def has_layers(model: nn.Module, heads: Sequence[str]) -> bool:
    """Return whether the order of a model's layers is known."""
    try:
        layer_numbers(model, heads)
    except ConfigError:
        return False
    return True


def _by_blocks(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter but for the heads', by the blocks of the model."""
    lists = list(_lists(model))
    stages = [name for name, _ in lists]
    if not lists:
        raise ConfigError("it has no list of blocks of one class")
    if len(lists) > 1 and len({name.rstrip("0123456789") for name in stages}) > 1:
        raise ConfigError(f"it has several lists of blocks, {', '.join(stages[:3])}")
    blocks = [block for name, each in lists for block in _blocks(each, name)]
    layer, found = 0, {}
    containers = {name[: place.start()] for name in stages for place in re.finditer(r"\.|^", name)}
    for name, _ in model.named_parameters():
        inside = [number for number, own in enumerate(blocks, 1) if name.startswith(f"{own}.")]
        layer = inside[0] if inside else layer
        found[name] = layer
        owner, _, title = name.rpartition(".")
        if owner in containers and not inside:
            found[name] = 0 if _LOWEST.search(title) else len(blocks)
    return found


def _lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost lists of blocks with their names, in the order of registration."""
    for name, child in module.named_children():
        if _is_list(child):
            yield prefix + name, child
        else:
            yield from _lists(child, f"{prefix}{name}.")


def _is_list(module: nn.Module, least: int = 2) -> bool:
    """Return whether a module is a list of modules of one class, with modules inside each."""
    children = list(module.children())
    return (
        isinstance(module, (nn.ModuleList, nn.Sequential))
        and len(children) >= least
        and len({type(each) for each in children}) == 1
        and all(any(True for _ in each.children()) for each in children)
        and any(True for _ in module.parameters())
    )


def _blocks(stages: nn.Module, prefix: str) -> Iterator[str]:
    """Yield the names of blocks: the modules of a list, or those in the list of each stage."""
    for number, stage in stages.named_children():
        name = f"{prefix}.{number}"
        inner = [
            own for own, each in stage.named_children() if own in _INSIDE and _is_list(each, 1)
        ]
        if isinstance(stage, nn.ModuleList):
            yield from (f"{name}.{own}" for own, _ in stage.named_children())
        elif len(inner) == 1:
            own = inner[0]
            yield from (f"{name}.{own}.{k}" for k, _ in getattr(stage, own).named_children())
        else:
            yield name
