"""Models of open_clip: `open_clip:MODEL/TAG[@FILE]`, `open_clip:MODEL@FILE`, `open_clip:FOLDER`."""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmixout.errors import ConfigError, needs
from gmixout.models.clip import ClipClassifier, head_weight
from gmixout.models.hub import loading
from gmixout.models.pretrained import Pretrained, Request


def load(request: Request) -> Pretrained:
    """Load the image tower of a CLIP model of open_clip, with a head made by its text tower.

    The activation is the one that the weights of a tag were trained with (OpenAI's: QuickGELU),
    though open_clip itself would only warn of the other.

    Raises:
        ConfigError: open_clip knows no such model or tag.
        DataError: The weights are unavailable or do not fit.
    """
    with needs("open_clip_torch", "vision"):
        import open_clip
        from open_clip.model import get_model_preprocess_cfg
    model, name, options = _whole(request)
    with loading(request.title, _provide(request)):
        tokenizer = open_clip.get_tokenizer(name)

        def encode(texts: list[str]) -> Tensor:
            tokens = tokenizer(texts).to(model.logit_scale.device)
            features: Tensor = model.encode_text(tokens)
            return features

        weight, made = head_weight(request, model, encode, model.logit_scale)
        config: dict[str, Any] = open_clip.get_model_config(name)
    config["vision_cfg"] = {**config["vision_cfg"], "timm_model_pretrained": False}
    if request.image_size is not None:
        config["vision_cfg"]["image_size"] = request.image_size
    if options.get("force_quick_gelu"):
        config["quick_gelu"] = True
    return _pretrained(
        ClipClassifier(model.visual, weight),
        {"model": config, "preprocessing": dict(get_model_preprocess_cfg(model))},
        classes=request.classes,
        head_from="random" if request.head == "random" else "zero_shot",
        name=request.name,
        description=f"weights: {request.weights or request.folder or request.source}; {made}",
    )


def load_whole(request: Request) -> tuple[nn.Module, nn.Module]:
    """Load both towers of a CLIP of open_clip.

    Returns:
        The whole model, and the part of it that is `ClipClassifier.visual`.

    Raises:
        ConfigError: As `load`.
        DataError: As `load`.
    """
    model, _, _ = _whole(request)
    return model, model.visual


CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
"""The files of a folder that open_clip loads."""


def _provide(request: Request) -> str:
    """Return how to load a model without the hub."""
    return (
        "download its open_clip_model.safetensors elsewhere and give it: "
        f"--model open_clip:{request.source}@/path/to/open_clip_model.safetensors (or the folder "
        "of its Hugging Face repository, with open_clip_config.json: --model "
        "open_clip:/path/to/folder)"
    )


def _whole(request: Request) -> tuple[Any, str, dict[str, Any]]:
    """Return the whole model, its name, and the options that it was made with."""
    with needs("open_clip_torch", "vision"):
        import open_clip
    name, tag = _resolve(request)
    with loading(request.title, _provide(request)):
        options = _options(request.weights, tag)
        if request.image_size is not None:
            options["force_image_size"] = request.image_size
            cfg = options.get("force_preprocess_cfg", {})
            options["force_preprocess_cfg"] = {**cfg, "size": request.image_size}
        model = open_clip.create_model(
            name, require_pretrained=True, weights_only=True, **options
        ).eval()
    _gives_features_alone(model)
    return model, name, options


def rebuild(architecture: Mapping[str, Any], classes: tuple[str, ...]) -> Pretrained:
    """Return the image tower of a CLIP of open_clip with new weights, and a head.

    Args:
        architecture: `Pretrained.architecture` of a loaded model.
        classes: The class names.

    Raises:
        ConfigError: open_clip is not installed.
    """
    with needs("open_clip_torch", "vision"):
        from open_clip.model import CLIP
    config = architecture["model"]
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    features, quick_gelu = config["embed_dim"], bool(config.get("quick_gelu"))
    model = CLIP(features, vision, NO_TEXT, quick_gelu)
    _gives_features_alone(model)
    weight = torch.zeros(len(classes), features)
    return _pretrained(
        ClipClassifier(model.visual, weight), architecture, classes=classes, name="open_clip"
    )


NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
"""The smallest text tower, for a model whose image tower alone is used."""


def _pretrained(model: ClipClassifier, architecture: Mapping[str, Any], **about: Any) -> Pretrained:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    held = architecture["preprocessing"]  # with lists, if it comes from a file
    config = PreprocessCfg(**{n: tuple(v) if isinstance(v, list) else v for n, v in held.items()})
    _, height, width = config.input_size
    return Pretrained(
        model=model.eval(),
        head="head",
        transform=image_transform_v2(config, is_train=False),
        size=(height, width),
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
        architecture={"family": "open_clip", **architecture},
        **about,
    )


def _gives_features_alone(model: Any) -> None:
    if hasattr(model.visual, "output_tokens"):
        model.visual.output_tokens = False  # CoCa's tower gives its captions' tokens, too


def _resolve(request: Request) -> tuple[str, dict[str, Any]]:
    """Return the model as open_clip.create_model takes it, and what it knows of the weights' tag.

    Raises:
        ConfigError: open_clip does not know it.
    """
    import open_clip

    source, weights = request.source, request.weights
    if weights is not None and weights.is_dir():
        raise ConfigError(f"{weights} is a folder: load it by itself, as open_clip:{weights}")
    if repository := request.repository("a model, open_clip:MODEL/TAG@FILE"):
        return repository, {}
    model, _, tag = source.partition("/")
    if open_clip.get_model_config(model) is None:
        close = get_close_matches(model, open_clip.list_models(), n=5)
        meant = f"did you mean {' or '.join(close)}?" if close else "see open_clip.list_models()."
        raise ConfigError(f"open_clip has no model {model!r}; {meant}")
    known = open_clip.get_pretrained_cfg(model, tag)
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
    if tag and not known:
        raise ConfigError(f"open_clip knows no weights {tag!r} of {model}. There are: {tags}")
    if not tag and weights is None:
        raise ConfigError(
            f"{request.name} does not say which weights: write open_clip:{model}/TAG "
            f"(there are: {tags}) or open_clip:{model}@FILE"
        )
    if weights is not None and not tag and _tags_change_activation(model):
        raise ConfigError(
            f"{request.name} does not say whose weights these are, and not all of {model} want the "
            f"same activation (OpenAI's: QuickGELU): write open_clip:{model}/TAG@FILE (there are: "
            f"{tags})"
        )
    return model, known


def _tags_change_activation(model: str) -> bool:
    """Return whether some weights of a model want QuickGELU, and the model by itself has GELU."""
    import open_clip

    known = map(
        partial(open_clip.get_pretrained_cfg, model), open_clip.list_pretrained_tags_by_model(model)
    )
    config: dict[str, Any] = open_clip.get_model_config(model)
    return not config.get("quick_gelu") and any(tag.get("quick_gelu") for tag in known)


def _options(weights: Path | None, tag: dict[str, Any]) -> dict[str, Any]:
    """Return options of create_model: the file, downloaded if needed, and those of its tag."""
    from open_clip import download_pretrained

    if weights is None and not tag:
        return {}
    file = str(weights or download_pretrained(tag))
    return {
        "pretrained": file,
        "force_quick_gelu": bool(tag.get("quick_gelu")),
        "force_preprocess_cfg": tag,
    }
