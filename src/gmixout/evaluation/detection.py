"""Detection of images of unknown classes by scores of a model's logits.

Every score is higher for images like those of training: the signs of the papers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gmixout.data.base import UNKNOWN_PREFIX
from gmixout.errors import DataError
from gmixout.evaluation.metrics import Count, OnPredictions, Share, predict

KNOWN_PERCENT = 95
"""Percentage of known images that a threshold lets pass, as in FPR95."""


@dataclass(frozen=True)
class Detection:
    """How well a score tells a set of unknown classes from in-domain test images."""

    auroc: Share
    """Probability that a known image has a higher score than an unknown one; ties count half."""
    fpr95: Share
    """Share of unknown images that pass the threshold which 95% of known images pass."""
    images: Count
    """Number of unknown images."""


def max_softmax(logits: Tensor) -> Tensor:
    """Return the largest softmax probability, `[N]`, of logits `[N, classes]`.

    Source: Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples in Neural Networks", ICLR 2017, section 3.
    """
    return logits.softmax(1).amax(1)


def max_logit(logits: Tensor) -> Tensor:
    """Return the largest logit, `[N]`, of logits `[N, classes]`; the paper's score is its negative.

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML
        2022, section 3.
    """
    return logits.amax(1)


def energy(logits: Tensor) -> Tensor:
    """Return the negative free energy at temperature 1, `log sum exp(logits)`, `[N]`.

    Source: Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020, equations 4 and
        7: known images have a low energy, and so a high score.

    Args:
        logits: `[N, classes]`.
    """
    return logits.logsumexp(1)


DETECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_softmax": max_softmax,
    "max_logit": max_logit,
    "energy": energy,
}
"""Scores by the names that users type: logits `[N, classes]` to `[N]`."""


def detector_scores(logits: Tensor) -> dict[str, Tensor]:
    """Return every score, `[N]` each, of logits `[N, classes]`."""
    return {name: score(logits) for name, score in DETECTORS.items()}


def known_threshold(known: Tensor) -> float:
    """Return the largest threshold that at least 95% of known images reach.

    Args:
        known: Scores `[N]` of known images, at least one.
    """
    ordered = known.double().sort().values
    return float(ordered[len(ordered) * (100 - KNOWN_PERCENT) // 100])


def detection(known: Tensor, unknown: Tensor) -> Detection:
    """Return how well scores tell unknown images from known ones.

    Args:
        known: Scores `[N]` of in-domain test images, finite.
        unknown: Scores `[M]` of images of unknown classes, finite.

    Raises:
        DataError: One of them is empty.
    """
    # torchmetrics squashes scores outside of [0, 1] by a sigmoid, which makes large logits equal
    from sklearn.metrics import roc_auc_score

    if not (len(known) and len(unknown)):
        raise DataError("detection needs known and unknown images")
    labels = torch.cat([torch.ones(len(known)), torch.zeros(len(unknown))])
    both = torch.cat([known, unknown]).double()
    passed = unknown.double() >= known_threshold(known)
    return Detection(
        auroc=float(roc_auc_score(labels.numpy(), both.numpy())),
        fpr95=float(passed.double().mean()),
        images=len(unknown),
    )


class Detecting:
    """Measures detection along with an evaluation, which hands it its predictions.

    Args:
        seen: Called with all predictions, those on unknown classes as well.
    """

    def __init__(self, seen: OnPredictions | None = None) -> None:
        self._seen = seen
        self._known: dict[str, Tensor] = {}

    def see(self, name: str, dataset: Dataset[Any], logits: Tensor, labels: Tensor) -> None:
        """Take predictions of an evaluation."""
        if name == "id_test" and labels.dim() == 1:  # other tasks have no unknown classes
            self._known = detector_scores(logits)
        if self._seen is not None:
            self._seen(name, dataset, logits, labels)

    def measure(
        self, model: nn.Module, sets: Mapping[str, Dataset[Any]], num_workers: int | None = None
    ) -> dict[str, dict[str, Detection]]:
        """Return detection on each set of unknown classes, by score.

        Args:
            model: The evaluated model.
            sets: Images of unknown classes, by name.
            num_workers: See `evaluation.metrics.evaluate`.

        Raises:
            DataError: As `evaluation.metrics.predict`.
            TrainingError: As `evaluation.metrics.predict`.
        """
        found = {}
        for name, dataset in sets.items():
            logits, labels = predict(model, dataset, num_workers=num_workers, unknown=True)
            if self._seen is not None:
                self._seen(f"{UNKNOWN_PREFIX}{name}", dataset, logits, labels)
            scores = detector_scores(logits)
            found[name] = {key: detection(self._known[key], scores[key]) for key in DETECTORS}
        return found
