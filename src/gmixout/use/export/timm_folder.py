"""A folder that `timm.create_model` reads."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmixout.errors import ConfigError, needs
from gmixout.use.classifier import Classifier
from gmixout.use.export.checks import check_equal, logits_of

STALE = ("test_input_size", "test_crop_pct", "label_names", "label_descriptions")
"""Entries of timm's config that were those of the pretrained model."""


def write(classifier: Classifier, place: Path, examples: Tensor, pretrained: str | None) -> str:
    """Write config.json and model.safetensors under timm's own keys.

    Raises:
        ConfigError: It is not a model of timm.
        StateError: timm makes another model of it.
    """
    del pretrained
    held = classifier.architecture
    if held.get("family") != "timm":
        raise ConfigError(f"to=timm: this is not a model of timm, but of {held.get('family')}")
    with needs("timm", "vision"):
        import timm
        from timm.data.config import resolve_model_data_config
    saved: Any = copy.copy(classifier.model)  # shares the weights
    kept = {name: value for name, value in saved.pretrained_cfg.items() if name not in STALE}
    saved.pretrained_cfg = {**kept, **held["data"], "num_classes": len(classifier.classes)}
    config = {"label_names": list(classifier.classes)}
    timm.models.save_for_hf(
        saved,
        str(place),
        model_config=config,
        model_args=held["arguments"],
        safe_serialization=True,
    )
    again = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
    with torch.inference_mode():
        check_equal(again(examples), logits_of(classifier, examples), "the model that timm reads")
    data = resolve_model_data_config(again)  # type: ignore[no-untyped-call]
    for name, value in held["data"].items():
        found = data[name]
        assert found == (tuple(value) if isinstance(found, tuple) else value), (name, found, value)
    return (
        "```python\nimport timm\n\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        "data = timm.data.resolve_model_data_config(model)\n"
        "transform = timm.data.create_transform(**data, is_training=False)\n"
        'classes = model.pretrained_cfg["label_names"]\n```'
    )
