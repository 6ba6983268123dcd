"""Which parameters of a model are masked, and which of its modules is the head."""

from collections.abc import Callable, Iterable

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
