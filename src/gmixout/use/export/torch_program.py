"""A program of `torch.export`."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from gmixout.errors import StateError
from gmixout.use.card import preprocessing_of
from gmixout.use.classifier import Classifier
from gmixout.use.export.checks import check_equal, logits_of


class Answers(nn.Module):
    """Images to logits and calibrated probabilities, or to standardized numbers and numbers."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.model = classifier.model
        self.temperature, self.task = classifier.temperature, classifier.task

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, or standardized numbers and numbers, `[B, outputs]`."""
        logits = self.model(images)
        return logits, self.task.scores(logits, self.temperature)


def program_of(classifier: Classifier, examples: Tensor) -> torch.export.ExportedProgram:
    """Return the model as a program for any number of images.

    Raises:
        StateError: torch cannot trace it.
    """
    images = torch.cat([examples, examples])[:2]  # torch takes a batch of one for a constant
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad():
            return torch.export.export(
                Answers(classifier).eval(), (images,), dynamic_shapes=({0: batch},)
            )
    except Exception as error:  # torch's tracer raises errors of many kinds
        said = " ".join(str(error).split())[:300]
        raise StateError(f"torch.export cannot trace this model: {said}") from error


def about_answers(classifier: Classifier) -> dict[str, str]:
    """Return what a program cannot say of its inputs and outputs, as texts."""
    return {
        "classes": json.dumps(list(classifier.classes)),
        "temperature": repr(classifier.temperature),
        "preprocessing": preprocessing_of(classifier),
    }


def batches_of(examples: Tensor) -> tuple[Tensor, ...]:
    """Return batches of several sizes."""
    return examples, examples[:1], torch.cat([examples, examples[:1]])


def check_answers(classifier: Classifier, images: Tensor, found: Iterable[Tensor]) -> None:
    """Check the logits and probabilities of an export.

    Raises:
        StateError: They differ from the model's.
    """
    logits = logits_of(classifier, images)
    scores, shares = found
    check_equal(scores, logits, "the exported model")
    check_equal(
        shares, classifier.task.scores(logits, classifier.temperature), "the exported model"
    )


def write(classifier: Classifier, place: Path, examples: Tensor, pretrained: str | None) -> str:
    """Write a .pt2 file, with classes and preprocessing in it.

    Raises:
        StateError: torch cannot trace the model, or the program computes something else.
    """
    del pretrained
    program = program_of(classifier, examples)
    torch.export.save(program, place, extra_files=about_answers(classifier))
    again = torch.export.load(place).module()
    with torch.inference_mode():
        for images in batches_of(examples):
            check_answers(classifier, images, again(images))
    return (
        "```python\nimport torch\n\n"
        'about = {"classes": "", "temperature": "", "preprocessing": ""}\n'
        'program = torch.export.load("FILE", extra_files=about).module()\n'
        f"{', '.join(classifier.task.answers)} = program(images)  # preprocessed, [B, 3, H, W]\n```"
    )
