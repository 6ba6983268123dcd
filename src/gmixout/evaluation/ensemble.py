"""Measures of a run's implicit ensemble: pure functions of predictions and weights.

Members are models with shared weights: snapshots of one run, or subnetworks drawn by masks. Their
predictions are probabilities f_m(x) over classes, and the target y(x) is the label as a one-hot
vector. Errors are squared errors,

    |f(x) - y(x)|^2, summed over classes, averaged over images: Brier's score, from 0 to 2,

because for them the decompositions below hold exactly.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from gmixout.errors import ConfigError
from gmixout.weightspace import State


def squared_error(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return Brier's score: the mean over images of sum_c (f_c - [c is the label])^2.

    Args:
        probabilities: `[..., N, C]`.
        labels: `[N]`.

    Returns:
        float64, `[...]`, each from 0 to 2.

    Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
    Review 78, 1950.
    """
    residual = probabilities.double() - _one_hot(labels, probabilities.shape[-1])
    return residual.square().sum(-1).mean(-1)


def accuracy_of(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the share of images whose most probable class is their label, `[...]`."""
    return (probabilities.argmax(-1) == labels).double().mean(-1)


def disagreement(probabilities: Tensor) -> float | None:
    """Return how often two members predict different classes: the mean over pairs and images.

    Args:
        probabilities: `[M, N, C]`.

    Returns:
        A share from 0 to 1; None for a single member, which makes no pair.

    Source: the disagreement measure of Kuncheva and Whitaker, "Measures of diversity in classifier
    ensembles", Machine Learning 51, 2003, with two different classes in place of right and wrong.
    """
    classes = probabilities.argmax(-1)
    pairs = [(a != b).double().mean() for a, b in combinations(classes, 2)]
    return float(torch.stack(pairs).mean()) if pairs else None


@dataclass(frozen=True)
class Ambiguity:
    """`ensemble` = `members` - `ambiguity`, exactly."""

    ensemble: float
    """Squared error of the mean prediction fbar = (1/M) sum_m f_m."""
    members: float
    """Mean squared error of the members."""
    ambiguity: float
    """(1/M) sum_m |f_m - fbar|^2: the gain of averaging predictions over the average member."""


def ambiguity(probabilities: Tensor, labels: Tensor) -> Ambiguity:
    """Split an ensemble's squared error by the disagreement of its members.

        |fbar - y|^2 = (1/M) sum_m |f_m - y|^2 - (1/M) sum_m |f_m - fbar|^2

    Args:
        probabilities: `[M, N, C]`.
        labels: `[N]`.

    Source: Krogh and Vedelsby, "Neural network ensembles, cross validation, and active learning",
    NIPS 7 (1994), 1995.
    """
    members = probabilities.double()
    mean = members.mean(0)
    return Ambiguity(
        ensemble=float(squared_error(mean, labels)),
        members=float(squared_error(members, labels).mean()),
        ambiguity=float((members - mean).square().sum(-1).mean()),
    )


@dataclass(frozen=True)
class Split:
    """`error` = `bias2` + `variance` / M + (1 - 1/M) * `covariance`, exactly."""

    error: float
    """Squared error of the mean prediction, in expectation over the repeats."""
    bias2: float
    """|E[fbar] - y|^2, which averaging cannot remove."""
    variance: float
    """The members' own variance over repeats, mean over members: averaging divides it by M."""
    covariance: float
    """Mean covariance of two members of one repeat, which averaging cannot reduce; 0 for M = 1."""


def bias_variance_covariance(probabilities: Tensor, labels: Tensor) -> Split:
    """Split the expected squared error of an ensemble's mean prediction.

    With E over repeats of the training (other seeds: data order, masks, dropout) and fbar the mean
    of the M members of one repeat,

        E |fbar - y|^2 = bias^2 + variance / M + (1 - 1/M) covariance
        bias^2     = |(1/M) sum_m E[f_m] - y|^2
        variance   = (1/M) sum_m E |f_m - E f_m|^2
        covariance = 1/(M (M-1)) sum_{m' != m} E <f_m - E f_m, f_m' - E f_m'>

    each summed over classes and averaged over images. E is the mean over the available repeats
    (ddof=0), which makes the identity exact; with R repeats variance and covariance are smaller by
    the factor (R-1)/R in expectation, and bias^2 is larger by the rest. One repeat has no variance
    at all.

    Args:
        probabilities: `[R, M, N, C]`; member m of each repeat was taken in the same way.
        labels: `[N]`.

    Source: Ueda and Nakano, "Generalization error of ensemble estimators", ICNN 1996; for averages
    of weights Rame et al., "Diverse weight averaging for out-of-distribution generalization"
    (DiWA), NeurIPS 2022, arXiv 2205.09739, proposition 1, which adds a locality term.
    """
    members = probabilities.double()
    count = members.shape[1]
    ensembles = members.mean(1)
    centred = members - members.mean(0)
    variance = centred.square().sum(-1).mean()
    # sum over m and m' of <a_m, a_m'> is |sum_m a_m|^2: the pairs, without M^2 products.
    both = centred.sum(1).square().sum(-1).mean()
    pairs = count * (count - 1)
    return Split(
        error=float(squared_error(ensembles, labels).mean()),
        bias2=float(squared_error(ensembles.mean(0), labels)),
        variance=float(variance),
        covariance=float((both - count * variance) / pairs) if pairs else 0.0,
    )


def distance(a: State, b: State) -> float:
    """Return |a - b|, the L2 norm over all floating-point entries of two states, in float64."""
    squares = [
        (value.double() - b[name].double()).square().sum()
        for name, value in a.items()
        if value.is_floating_point()
    ]
    return float(torch.stack(squares).sum().sqrt())


def norm(state: State) -> float:
    """Return the L2 norm over all floating-point entries of a state."""
    return distance(state, {name: torch.zeros_like(value) for name, value in state.items()})


def relative_distance(state: State, reference: State) -> float:
    """Return the locality |state - reference| / |reference| over all floating-point entries.

    A weight average behaves like an ensemble of predictions as long as its members are close to
    each other and to their start: the locality term of DiWA (arXiv 2205.09739, proposition 1).
    """
    return distance(state, reference) / norm(reference)


def mean_pairwise_distance(states: Sequence[State]) -> float | None:
    """Return the mean L2 distance of two members' weights; None for a single one."""
    pairs = [distance(a, b) for a, b in combinations(states, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def drift(state: State, start: State, scale: State) -> dict[str, float]:
    """Return the drift of each layer: |state - start| / |scale|.

    Args:
        state: The weights (or anchor) now.
        start: The same at the start of training; its names select the entries.
        scale: The weights whose norm counts as 1, the pretrained ones.

    Returns:
        By the name of the module that owns the weights; one that is all zero in `scale` has no
        relative drift and is left out.
    """
    layers: dict[str, list[str]] = {}
    for name in start:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    drifts = {}
    for layer, names in layers.items():
        now, before, whole = ({n: each[n] for n in names} for each in (state, start, scale))
        if any(value.count_nonzero() for value in whole.values()):
            drifts[layer] = distance(now, before) / norm(whole)
    return drifts


def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float:
    """Return how far the loss on the line between two models rises above its chord.

        max_alpha L((1-alpha) a + alpha b) - [(1-alpha) L(a) + alpha L(b)]

    over the given points; 0 where the loss is convex along the line. Models without a barrier
    lie in one basin, where averages of weights make sense.

    Args:
        alphas: Positions on the line, from 0 to 1.
        losses: The loss at each of them.

    Raises:
        ConfigError: The positions do not go from 0 to 1, or differ in number from the losses.

    Source: Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", ICML 2020,
    arXiv 1912.05671; with the chord as the level, Entezari et al., "The role of permutation
    invariance in linear mode connectivity of neural networks", ICLR 2022, arXiv 2110.06296.
    """
    if len(alphas) != len(losses) or len(alphas) < 2 or (alphas[0], alphas[-1]) != (0.0, 1.0):
        raise ConfigError(
            f"barrier: {len(losses)} losses at alphas={list(alphas)}; give one loss for each "
            "position on the line, from 0 to 1"
        )
    first, last = losses[0], losses[-1]
    return max(
        loss - ((1 - alpha) * first + alpha * last)
        for alpha, loss in zip(alphas, losses, strict=True)
    )


@dataclass(frozen=True)
class Measures:
    """Measures of a group of members on one test set, or on a shift (mean over its parts).

    A list has one entry for each repeat of the training. Errors are Brier's.
    """

    accuracy: list[list[float]]
    """Accuracy of each member: `[R][M]`."""
    average_accuracy: list[float]
    """Accuracy of the members' weight average."""
    ensemble_accuracy: list[float]
    """Accuracy of the members' prediction average."""
    error: list[float]
    """Mean over members."""
    average_error: list[float]
    ensemble_error: list[float]
    ambiguity: list[float]
    """`error` - `ensemble_error`; see `ambiguity`."""
    disagreement: list[float] | None
    """None for a single member."""
    split: Split | None
    """None for a single repeat, which has no expectation."""


def measure(probabilities: Tensor, averages: Tensor, labels: Tensor) -> Measures:
    """Return all measures of one group of members on one test set.

    Args:
        probabilities: The members' predictions, `[R, M, N, C]`.
        averages: Predictions of their averages in weights, `[R, N, C]`.
        labels: `[N]`.
    """
    ensembles = probabilities.double().mean(1)
    parts = [ambiguity(members, labels) for members in probabilities]
    pairs = [share for share in map(disagreement, probabilities) if share is not None]
    return Measures(
        accuracy=accuracy_of(probabilities, labels).tolist(),
        average_accuracy=accuracy_of(averages, labels).tolist(),
        ensemble_accuracy=accuracy_of(ensembles, labels).tolist(),
        error=[each.members for each in parts],
        average_error=squared_error(averages, labels).tolist(),
        ensemble_error=[each.ensemble for each in parts],
        ambiguity=[each.ambiguity for each in parts],
        disagreement=pairs or None,
        split=bias_variance_covariance(probabilities, labels) if len(probabilities) > 1 else None,
    )


def mean_measures(parts: Sequence[Measures]) -> Measures:
    """Return the mean of each measure over the parts of a shift; decompositions still hold."""

    def mean(values: Sequence[Any]) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], Split):
            return Split(*(mean(each) for each in zip(*map(astuple, values), strict=True)))
        if isinstance(values[0], list):
            return [mean(each) for each in zip(*values, strict=True)]
        return fmean(values)

    return Measures(**{f.name: mean([getattr(p, f.name) for p in parts]) for f in fields(Measures)})


@dataclass(frozen=True)
class Members:
    """One group of members of the implicit ensemble. Lists have one entry for each repeat."""

    what: str
    """Description of the members."""
    sets: dict[str, Measures]
    """By test set: `id_test` and the groups of shifts."""
    distance: list[list[float]]
    """Each member's `relative_distance` to the pretrained weights: `[R][M]`."""
    spread: list[float] | None
    """Mean distance of two members, relative to the pretrained weights' norm."""


@dataclass(frozen=True)
class Line:
    """One set along the straight line from the pretrained (0) to the final weights (1)."""

    loss: list[list[float]]
    """Mean cross-entropy: `[R][places]`."""
    accuracy: list[list[float]]
    barrier: list[float]
    """See `barrier`; one for each repeat."""


@dataclass(frozen=True)
class Diagnosis:
    """All measurements of a run and its repeats with other seeds. JSON has the same names."""

    run: dict[str, Any]
    """Identity of the run: benchmark, method, options and training settings."""
    seeds: list[int]
    """One for each repeat; the first is the run's own."""
    reproduced: bool
    """True if the run, trained again, ended in its saved weights bit for bit."""
    difference: float
    """Largest difference of an entry from the saved weights."""
    steps: list[int]
    """Steps of the snapshots."""
    snapshots: Members
    subnetworks: Members | None
    no_subnetworks: str
    """Reason if there are none; else empty."""
    drift_of: str
    """Subject of `drift`: "anchor" or "weights"."""
    drift_steps: list[int]
    drift: dict[str, list[list[float]]]
    """See `drift`: by layer, from the input on, `[R][steps]`."""
    alphas: list[float]
    """Positions on the line from the pretrained to the final weights."""
    line: dict[str, Line]
    """By set: `id_val`, `id_test` and the groups of shifts."""


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).double()
