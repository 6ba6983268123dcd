"""CLIP models with the finetuned image tower and the pretrained text tower."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from gmixout.errors import ConfigError, GmixoutError, StateError
from gmixout.models import load_clip
from gmixout.models.clip import ClipClassifier
from gmixout.models.open_clip_models import CONFIG_FILE, WEIGHTS_FILE
from gmixout.use.classifier import Classifier
from gmixout.use.export.checks import check_equal, logits_of, read_whole

HEAD = "classifier.safetensors"
"""The classifier, where a library has no place for it: weight `[classes, features]` and bias."""


def write_open_clip(
    classifier: Classifier, place: Path, examples: Tensor, pretrained: str | None
) -> str:
    """Write open_clip_config.json and open_clip_model.safetensors, with the text tower.

    Raises:
        ConfigError: It is not a model of open_clip.
        DataError: The pretrained model, whose text tower is needed, is unavailable.
        StateError: open_clip makes another model of it.
    """
    held = classifier.architecture
    if held.get("family") != "open_clip":
        raise ConfigError(
            f"to=open_clip: this is not a model of open_clip, but of {held.get('family')}"
        )
    import open_clip

    model = _with_tower(classifier, pretrained)
    save_file(_contiguous(model.state_dict()), place / WEIGHTS_FILE)
    config = {"model_cfg": held["model"], "preprocess_cfg": held["preprocessing"]}
    text = json.dumps(config, indent=2)
    (place / CONFIG_FILE).write_text(text, encoding="utf-8")
    again = open_clip.create_model(f"local-dir:{place}", require_pretrained=True).eval()
    _check(classifier, again.encode_image, examples)
    _check_text(model, again)
    write_head(classifier.model.head, classifier, place)  # type: ignore[arg-type]
    return (
        "```python\nimport open_clip\nfrom safetensors.torch import load_file\n\n"
        'model, _, transform = open_clip.create_model_and_transforms("local-dir:FOLDER")\n'
        f'head = load_file("FOLDER/{HEAD}")["weight"]\n'
        "logits = model.encode_image(images, normalize=True) @ head.T\n```\n\n"
        "The text tower is the pretrained one, so that retrieval and other classes still work. "
        f"`{HEAD}` scores the classes that it was finetuned on."
    )


def write_hf_clip(
    classifier: Classifier, place: Path, examples: Tensor, pretrained: str | None
) -> str:
    """Write a CLIP of transformers, with its text tower and tokenizer.

    Raises:
        DataError: The pretrained model, whose text tower is needed, is unavailable.
        StateError: transformers makes another model of it.
    """
    from transformers import AutoModel, AutoTokenizer

    model = _with_tower(classifier, pretrained)
    model.save_pretrained(place)
    tokenizers: Any = AutoTokenizer
    tokenizers.from_pretrained(model.name_or_path, trust_remote_code=False).save_pretrained(place)

    again = read_whole(AutoModel, place)
    options: Any = classifier.model.visual._options  # type: ignore[union-attr]

    def encode(images: Tensor) -> Tensor:
        output = again.get_image_features(pixel_values=images, **options)
        features: Tensor = getattr(output, "pooler_output", output)
        return features

    _check(classifier, encode, examples)
    write_head(classifier.model.head, classifier, place)  # type: ignore[arg-type]
    return (
        "```python\nfrom safetensors.torch import load_file\nfrom torch.nn.functional import "
        "normalize\nfrom transformers import AutoModel\n\n"
        'model = AutoModel.from_pretrained("FOLDER")\n'
        f'head = load_file("FOLDER/{HEAD}")["weight"]\n'
        "features = model.get_image_features(pixel_values=images)\n"
        'features = getattr(features, "pooler_output", features)\n'
        "logits = normalize(features, dim=-1) @ head.T\n```\n\n"
        "The text tower is the pretrained one, so that retrieval and other classes still work. "
        f"`{HEAD}` scores the classes that it was finetuned on."
    )


def write_head(head: nn.Module, classifier: Classifier, place: Path) -> None:
    """Write a classifier with the names of its classes."""
    about = {"classes": json.dumps(list(classifier.classes))}
    save_file(_contiguous(head.state_dict()), place / HEAD, metadata=about)


def _with_tower(classifier: Classifier, pretrained: str | None) -> Any:
    """Return the whole pretrained model with the finetuned image tower in it."""
    name = pretrained_name(classifier, pretrained)
    with pretrained_needed():
        model, tower = load_clip(name, image_size=classifier.size[0] if classifier.size else None)
    try:
        tower.load_state_dict(classifier.model.visual.state_dict())  # type: ignore[union-attr]
    except RuntimeError as error:
        raise StateError(f"the image tower does not fit {name}: {error}") from error
    return model.eval()


def pretrained_name(classifier: Classifier, pretrained: str | None) -> str:
    """Return the name of the pretrained model.

    Raises:
        ConfigError: The file does not say it.
    """
    about = {} if classifier.origin is None else classifier.origin.about
    name = pretrained or about.get("task", {}).get("model")
    if not isinstance(name, str):
        raise ConfigError("give the model that it was finetuned from: --pretrained FAMILY:NAME")
    return name


@contextmanager
def pretrained_needed() -> Iterator[None]:
    """Say how to give the pretrained model, if it cannot be loaded."""
    try:
        yield
    except GmixoutError as error:
        way = "give the place where it is now: --pretrained FAMILY:NAME@FILE, or FAMILY:FOLDER"
        raise type(error)(f"this form needs the pretrained model: {error}. Or {way}") from error


def _check(classifier: Classifier, encode: Any, examples: Tensor) -> None:
    model = classifier.model
    assert isinstance(model, ClipClassifier)
    with torch.inference_mode():
        features = functional.normalize(encode(examples), dim=-1)
        check_equal(model.head(features), logits_of(classifier, examples), "the exported model")


def _check_text(model: Any, again: Any) -> None:
    """Check that two models of open_clip have the same text tower."""
    visual = "visual."
    before, after = model.state_dict(), again.state_dict()
    if differing := [
        name
        for name, value in before.items()
        if not name.startswith(visual) and not torch.equal(value, after[name])
    ]:
        raise StateError(f"the exported text tower differs: {', '.join(differing)[:200]}")


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous().clone() for name, value in state.items()}
