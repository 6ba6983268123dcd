"""Candidates for wrong labels: images that a linear probe of the others says otherwise of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmixout.data.images import ImageSet
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.errors import ConfigError
from gmixout.models import Pretrained
from gmixout.models.probe import fit_head, head_inputs

FOLDS = 5
"""Parts of the images; each is judged by a probe of the others."""
LEAST = 2 * FOLDS
"""A class with fewer images is not judged, and no image is taken for one of it."""
PENALTY = 1e-4
"""Half of it times the squared norm of the weight is added to the mean cross-entropy, on features
of mean 0 and variance 1 that are divided by the square root of their number. Of 5% wrong labels
that were planted in photos, 1e-4 to 1 were tried: more penalty finds fewer of them."""
ITERATIONS = 100


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong."""

    part: str
    """The name of its set."""
    index: int
    """Its position there."""
    label: int
    """The class that it has."""
    suggested: int
    """The class that the probe gives it."""
    share: float
    """Probability of the suggested class."""
    own_share: float
    """Probability of its own class."""


def suspects_in(
    pretrained: Pretrained,
    sets: Mapping[str, ImageSet],
    leave_out: Mapping[str, Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] | None = None,
) -> list[Suspect]:
    """Return the images whose label a linear probe of the other images denies.

    Out-of-fold probabilities come from logistic regression on the frozen features, in `FOLDS` parts
    with every class in proportion. A class's threshold is the mean probability of that class over
    the images labelled so; an image is a candidate if, of the classes whose probability reaches
    their threshold, the most probable one is not its own.

    Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
        Labels", JAIR 2021, eq. 1 and 2 (the off-diagonal of the confident joint).

    Args:
        pretrained: Gives the features; its head is not used.
        sets: In-domain sets of one class an image, with the same classes; no transform.
        leave_out: Positions of broken images in each set.
        device: Where features are computed.
        advance: Called with the number of images whose features are known.

    Returns:
        Candidates, the surest first: by the probability of the own class minus the suggested one.

    Raises:
        ConfigError: The model has not exactly one linear head, or no two classes have `LEAST`
            images.
    """
    places: list[tuple[str, int]] = []
    found: list[tuple[Tensor, Tensor]] = []
    for name, images in sets.items():
        bad = {*(leave_out or {}).get(name, ())}
        good = [index for index in range(len(images)) if index not in bad]
        if not good:
            continue
        seen = images.subset(good).transformed(pretrained.transform)
        before = len(places)
        found.append(head_inputs(pretrained, seen, device, _counting(before, advance)))
        places += [(name, index) for index in good]
    if not places:
        raise ConfigError("there is no image to look for wrong labels among")
    features, labels = (torch.cat(each) for each in zip(*found, strict=True))
    shares = out_of_fold(features, labels, len(pretrained.classes))
    chosen = off_diagonal(shares, labels)
    suspects = [
        Suspect(
            *places[n],
            int(labels[n]),
            chosen[n],
            float(shares[n, chosen[n]]),
            float(shares[n, labels[n]]),
        )
        for n in chosen
    ]
    return sorted(suspects, key=lambda each: each.own_share - each.share)


def _counting(before: int, advance: Callable[[int], None] | None) -> Callable[[int], None] | None:
    return None if advance is None else lambda done: advance(before + done)


def out_of_fold(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the probability of each class by a probe that did not see the image.

    Args:
        features: `[N, features]`.
        labels: `[N]`.
        classes: Number of classes.

    Returns:
        `[N, classes]`, 0 for classes of fewer than `LEAST` images; nan in rows of these.

    Raises:
        ConfigError: Fewer than two classes have so many.
    """
    judged = labels.bincount(minlength=classes) >= LEAST
    if judged.sum() < 2:
        raise ConfigError(
            f"wrong labels are looked for in classes of {LEAST} images or more, and "
            f"{int(judged.sum())} of {classes} classes have so many: leave out --model"
        )
    rows = judged[labels].nonzero().flatten()
    kept = judged.nonzero().flatten()
    new = torch.full((classes,), -1).index_copy(0, kept, torch.arange(len(kept)))
    own, wide = new[labels[rows]], features[rows].double()
    deviation = wide.std(0).clamp(min=1e-6)
    scaled = (wide - wide.mean(0)) / deviation / wide.shape[1] ** 0.5
    shares = torch.zeros(len(labels), classes, dtype=torch.float64)
    shares[~judged[labels]] = torch.nan
    for part in stratified(own, [1 / FOLDS] * (FOLDS - 1), SPLIT_SEED):
        others = torch.ones(len(own), dtype=torch.bool)
        others[part] = False
        weight, bias = fit_head(scaled[others], own[others], len(kept), PENALTY, ITERATIONS)
        block = (scaled[part] @ weight.T + bias).softmax(1)
        shares[rows[part][:, None], kept] = block
    return shares


def off_diagonal(shares: Tensor, labels: Tensor) -> dict[int, int]:
    """Return the class that each candidate is taken for, by its position, see `suspects_in`.

    Args:
        shares: `[N, classes]`, out of fold; rows of nan are not judged.
        labels: `[N]`.
    """
    known = ~shares.isnan().any(1)
    thresholds = torch.full((shares.shape[1],), 2.0, dtype=shares.dtype)
    for label in torch.unique(labels[known]).tolist():
        thresholds[label] = shares[known & (labels == label), label].mean()
    sure = torch.where(shares >= thresholds, shares, -1.0)
    best, taken = sure.max(1)
    chosen = known & (best >= 0) & (taken != labels)
    return {n: int(taken[n]) for n in chosen.nonzero().flatten().tolist()}
