"""Models of transformers from their configs, with new weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from gmixout.core.selection import find_head
from gmixout.errors import needs
from gmixout.models.clip import ClipClassifier
from gmixout.models.huggingface import Logits, PooledClassifier, Processing, Tower, scoring_layer
from gmixout.models.pretrained import Pretrained

SMALLEST_TEXT = {"num_hidden_layers": 1, "vocab_size": 8, "max_position_embeddings": 8}
"""A text tower that is thrown away."""


def rebuild(architecture: Mapping[str, Any], classes: tuple[str, ...]) -> Pretrained:
    """Return a model of transformers with new weights.

    Args:
        architecture: `Pretrained.architecture` of a loaded model.
        classes: The class names.

    Raises:
        ConfigError: transformers is not installed.
    """
    with needs("transformers", "hub"):
        from transformers import AutoConfig, AutoImageProcessor
    configs: Any = AutoConfig
    processors: Any = AutoImageProcessor
    held = dict(architecture["config"])
    if architecture["kind"] == "clip":
        held["text_config"] = {**held["text_config"], **SMALLEST_TEXT}
    with TemporaryDirectory() as folder:  # they read files, and know which class a config is of
        for name, values in (
            ("config", held),
            ("preprocessor_config", architecture["processor"]),
        ):
            Path(folder, f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
        config = configs.from_pretrained(folder, trust_remote_code=False)
        transform = Processing(processors.from_pretrained(folder, trust_remote_code=False))
    model = _KINDS[architecture["kind"]](config, classes, dict(architecture["options"]), transform)
    return Pretrained(
        model=model.float().eval().requires_grad_(),
        head=find_head(model),
        classes=classes,
        transform=transform,
        size=transform.size,
        mean=transform.mean,
        std=transform.std,
        interpolation=transform.interpolation,
        name=config.model_type,
        architecture=architecture,
    )


def _clip(
    config: Any, classes: tuple[str, ...], options: dict[str, bool], _: Processing
) -> nn.Module:
    from transformers import AutoModel

    auto: Any = AutoModel
    model = auto.from_config(config, trust_remote_code=False)
    projection = getattr(model, "visual_projection", nn.Identity())
    tower = Tower(model.vision_model, projection, options).eval()
    return ClipClassifier(tower, torch.zeros(len(classes), _features(tower, config)))


def _features(tower: nn.Module, config: Any) -> int:
    """Return the number of features that a tower gives."""
    projection = tower.visual_projection
    if isinstance(projection, nn.Linear):
        return projection.out_features
    return int(config.vision_config.hidden_size)


def _classifier(
    config: Any, classes: tuple[str, ...], options: dict[str, bool], _: Processing
) -> nn.Module:
    from transformers import AutoModelForImageClassification

    config.num_labels = len(classes)
    auto: Any = AutoModelForImageClassification
    body = auto.from_config(config, trust_remote_code=False)
    return Logits(body, scoring_layer(body), options)


@torch.no_grad()
def _backbone(
    config: Any, classes: tuple[str, ...], options: dict[str, bool], transform: Processing
) -> nn.Module:
    from transformers import AutoModel

    auto: Any = AutoModel
    body = auto.from_config(config, trust_remote_code=False).eval()
    pixels = torch.zeros(1, 3, *transform.size)
    pooled = body(pixel_values=pixels, **options).pooler_output
    return PooledClassifier(body, nn.Linear(pooled.shape[1], len(classes)), options)


_KINDS = {"clip": _clip, "classifier": _classifier, "backbone": _backbone}
"""What is made of a config."""
