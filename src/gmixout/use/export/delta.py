"""A delta against the pretrained weights."""

from pathlib import Path

import torch
from torch import Tensor

from gmixout.errors import ConfigError, StateError
from gmixout.models import load_pretrained
from gmixout.use.classifier import Classifier
from gmixout.use.delta_file import read_delta, write_delta
from gmixout.use.export.clip_towers import pretrained_name, pretrained_needed


def write(classifier: Classifier, place: Path, examples: Tensor, pretrained: str | None) -> str:
    """Write the values that finetuning changed, and check that they give the same weights.

    Raises:
        ConfigError: It is not a model that is loaded by a name.
        DataError: The pretrained model is unavailable.
        StateError: What was written gives other weights.
    """
    del examples  # the weights are compared to the bit
    if classifier.origin is None or not classifier.architecture:
        raise ConfigError(
            "to=delta: only for a model of timm, open_clip or transformers by its name"
        )
    name = pretrained_name(classifier, pretrained)
    about = classifier.origin.about
    size = about["task"].get("image_size")
    with pretrained_needed():
        base = load_pretrained(name, classifier.classes, head="random", image_size=size)
    state = classifier.model.state_dict()
    tensors = write_delta(place, base, state, about, classifier.temperature)
    again, _, _ = read_delta(place, pretrained)
    for key, value in state.items():
        if not torch.equal(value, again[key]):
            raise StateError(f"the delta gives another {key}")
    kept = sum(each.numel() * each.element_size() for each in tensors.values())
    whole = sum(each.numel() * each.element_size() for each in state.values())
    return (
        '```python\nimport gmixout\n\nmodel = gmixout.load("FILE")\n```\n\n'
        f"The file has {100 * kept / whole:.0f}% of the weights' bytes. It needs the pretrained "
        "model (`pretrained=` names another place of it), and refuses one with other weights."
    )
