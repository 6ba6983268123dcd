"""Comparison of an export with the model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmixout.errors import StateError
from gmixout.use.classifier import Classifier

TOLERANCE = 1e-3
"""Largest difference of a logit, as a share of the largest logit or of 1."""


def check_equal(found: Tensor, expected: Tensor, what: str) -> None:
    """Check that an export computes what the model computes.

    Raises:
        StateError: It does not.
    """
    if found.shape != expected.shape:
        raise StateError(f"{what} gives {tuple(found.shape)} instead of {tuple(expected.shape)}")
    largest = float((found - expected).abs().max())
    if not largest <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise StateError(
            f"{what} computes something else: a value differs by {largest:.3g} from the model's "
            f"(values up to {float(expected.abs().max()):.3g}); nothing was written"
        )


def logits_of(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the model's logits."""
    with torch.inference_mode():
        logits: Tensor = classifier(images).clone()
    return logits


def read_whole(kind: Any, place: Path) -> Any:
    """Return the model in a folder, in eval mode.

    Raises:
        StateError: It lacks weights, or has others.
    """
    again, report = kind.from_pretrained(place, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found := sorted(map(str, report[problem])):
            raise StateError(f"{place}: transformers reports {problem}: {', '.join(found)[:200]}")
    return again.float().eval()
