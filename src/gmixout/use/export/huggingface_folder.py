"""A folder that `from_pretrained` of transformers reads."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmixout.errors import ConfigError, needs
from gmixout.models.huggingface import Logits, PooledClassifier, Processing
from gmixout.use.classifier import Classifier
from gmixout.use.export.checks import check_equal, logits_of, read_whole
from gmixout.use.export.clip_towers import HEAD, write_head, write_hf_clip


def write(classifier: Classifier, place: Path, examples: Tensor, pretrained: str | None) -> str:
    """Write config.json, preprocessor_config.json and model.safetensors under transformers' keys.

    A CLIP gets its text tower back; its classifier, which transformers has no place for, goes into
    a file of its own.

    Raises:
        ConfigError: It is not a model of transformers.
        StateError: transformers reads something else, or finds that weights are missing.
    """
    held = classifier.architecture
    if held.get("family") != "hf":
        raise ConfigError(
            f"to=hf: this is not a model of transformers, but of {held.get('family')}"
        )
    with needs("transformers", "hub"):
        import transformers
    if held["kind"] == "clip":
        usage = write_hf_clip(classifier, place, examples, pretrained)
    else:
        usage = _write_body(classifier, place, examples, transformers)
    assert isinstance(classifier.transform, Processing)
    classifier.transform.processor.save_pretrained(place)
    return usage


def _write_body(classifier: Classifier, place: Path, examples: Tensor, transformers: Any) -> str:
    model = classifier.model
    assert isinstance(model, (Logits, PooledClassifier))
    body: Any = model.body
    kind = type(body).__name__
    if isinstance(model, Logits):
        body.config.id2label = dict(enumerate(classifier.classes))
        body.config.label2id = {name: label for label, name in enumerate(classifier.classes)}
        if classifier.task.problem_type:
            body.config.problem_type = classifier.task.problem_type
    body.save_pretrained(place)
    again = read_whole(getattr(transformers, kind), place)
    with torch.inference_mode():
        output = again(pixel_values=examples, **model._options)
        if isinstance(model, Logits):
            check_equal(output.logits, logits_of(classifier, examples), "what transformers reads")
            return (
                "```python\nfrom transformers import pipeline\n\n"
                'classify = pipeline("image-classification", "FOLDER")\n'
                'classify("a.jpg")\n```'
            )
        expected = logits_of(classifier, examples)
        check_equal(model.head(output.pooler_output), expected, "what transformers reads")
    write_head(model.head, classifier, place)
    return (
        "```python\nfrom safetensors.torch import load_file\nfrom transformers import AutoModel\n\n"
        f'model = AutoModel.from_pretrained("FOLDER")\nhead = load_file("FOLDER/{HEAD}")\n'
        "features = model(pixel_values=images).pooler_output\n"
        'logits = features @ head["weight"].T + head["bias"]\n```'
    )
