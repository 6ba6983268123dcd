"""Models of open_clip: `open_clip:MODEL/TAG[@FILE]`, `open_clip:MODEL@FILE`, `open_clip:FOLDER`."""

from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

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
        from open_clip.transform import PreprocessCfg, image_transform_v2
    name, tag = _resolve(request)
    provide = (
        "download its open_clip_model.safetensors elsewhere and give it: "
        f"--model open_clip:{request.source}@/path/to/open_clip_model.safetensors (or the folder "
        "of its Hugging Face repository, with open_clip_config.json: --model "
        "open_clip:/path/to/folder)"
    )
    with loading(request.title, provide):
        options = _options(request.weights, tag)
        if request.image_size is not None:
            options["force_image_size"] = request.image_size
            cfg = options.get("force_preprocess_cfg", {})
            options["force_preprocess_cfg"] = {**cfg, "size": request.image_size}
        model = open_clip.create_model(
            name, require_pretrained=True, weights_only=True, **options
        ).eval()
        tokenizer = open_clip.get_tokenizer(name)
        if hasattr(model.visual, "output_tokens"):
            model.visual.output_tokens = False  # CoCa's tower gives its captions' tokens, too

        def encode(texts: list[str]) -> Tensor:
            tokens = tokenizer(texts).to(model.logit_scale.device)
            features: Tensor = model.encode_text(tokens)
            return features

        weight, made = head_weight(request, model, encode, model.logit_scale)
    config = PreprocessCfg(**get_model_preprocess_cfg(model))
    _, height, width = config.input_size
    return Pretrained(
        model=ClipClassifier(model.visual, weight).eval(),
        head="head",
        classes=request.classes,
        head_from="random" if request.head == "random" else "zero_shot",
        transform=image_transform_v2(config, is_train=False),
        size=(height, width),
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
        name=request.name,
        description=f"weights: {request.weights or request.folder or request.source}; {made}",
    )


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
