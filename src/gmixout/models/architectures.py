"""The architecture of a pretrained model, as far as training recipes depend on it."""

import re
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from gmixout.models.clip import ClipClassifier
from gmixout.models.pretrained import Pretrained

ARCHITECTURES: dict[str, str] = {
    "siglip": "SigLIP",
    "clip": "CLIP",
    "dino": "DINOv2, DINOv3 or DINO",
    "convnext": "ConvNeXt",
    "vit": "Vision Transformer",
    "cnn": "network with batch norms, such as ResNet or EfficientNet",
    "other": "another architecture",
}
"""Titles of the architectures, by their names."""


def architecture_of(pretrained: Pretrained) -> str:
    """Return the architecture of a model, a name in `ARCHITECTURES`.

    What the libraries say counts, and the modules of the model; not the name of a folder or a file.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
        >>> architecture_of(Pretrained(model, head="2", classes=("no", "yes")))
        'cnn'
    """
    model = pretrained.model
    words, kinds = _words(pretrained), {type(each).__name__.lower() for each in model.modules()}
    if any(word.startswith("siglip") for word in words):
        return "siglip"
    if "clip" in words or isinstance(model, ClipClassifier):
        return "clip"
    if any(word.startswith("dino") for word in words):
        return "dino"
    if any("convnext" in each for each in words | kinds):
        return "convnext"
    if any("attention" in each or "visiontransformer" in each for each in kinds):
        return "vit"
    return "cnn" if any(isinstance(each, _BatchNorm) for each in model.modules()) else "other"


def _words(pretrained: Pretrained) -> set[str]:
    """Return the words of a model's name and of what its library calls the architecture."""
    name = pretrained.name.partition("@")[0]
    said: list[Any] = [] if re.search(r"[/\\].*[/\\]|:[./~]", name) else [name]
    for module in pretrained.model.modules():
        config = getattr(module, "pretrained_cfg", None)  # timm's
        if isinstance(config, dict):
            said += [config.get("architecture"), config.get("tag")]
        said.append(getattr(getattr(module, "config", None), "model_type", None))  # transformers'
    return {word for text in said if isinstance(text, str) for word in _split(text)}


def _split(text: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", text.lower())
