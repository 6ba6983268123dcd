"""Algebra on state dicts: interpolation (WiSE-FT), uniform and greedy soups.

A state is what `module.state_dict()` returns. Sums are formed in float64 and cast back to each
entry's own type. Entries that are not floating point (a counter of batches, an index table) have no
mean: they are taken from the first state.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gmixout.errors import ConfigError, StateError
from gmixout.plain import listed

State = Mapping[str, Tensor]


def interpolate(state_a: State, state_b: State, alpha: float) -> dict[str, Tensor]:
    """Return `(1 - alpha) * state_a + alpha * state_b`, entry by entry.

    With `state_a` the pretrained and `state_b` the finetuned weights of one model this is WiSE-FT
    (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv 2109.01903). The
    classifier must be part of both states: the pretrained end is the zero-shot model.

    Args:
        state_a: The end at `alpha=0`, returned bit for bit there.
        state_b: The end at `alpha=1`, returned bit for bit there.
        alpha: Share of `state_b`, from 0 to 1.

    Raises:
        ConfigError: `alpha` is not between 0 and 1.
        StateError: The states differ in keys or shapes.

    Example:
        >>> a, b = {"weight": torch.zeros(2)}, {"weight": torch.ones(2)}
        >>> interpolate(a, b, 0.25)["weight"]
        tensor([0.2500, 0.2500])
    """
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"interpolate(alpha={alpha}): alpha must be between 0 and 1")
    _check_alike([state_a, state_b])

    def blend(a: Tensor, b: Tensor) -> Tensor:
        # The ends are copies: adding 0 * b would turn -0.0 into 0.0 and spread b's infinities
        if alpha in (0.0, 1.0) or not _has_mean(a):
            return (b if alpha == 1.0 and _has_mean(a) else a).detach().to(a.dtype, copy=True)
        return torch.lerp(_wide(a), _wide(b), alpha).to(a.dtype)

    return {key: blend(value, state_b[key].to(value.device)) for key, value in state_a.items()}


def uniform_soup(states: Sequence[State]) -> dict[str, Tensor]:
    """Return the mean of the states (Wortsman et al., "Model soups", arXiv 2203.05482).

    Args:
        states: One or more states of one architecture.

    Raises:
        StateError: There is no state, or the states differ in keys or shapes.
    """
    _check_alike(states)

    def mean(key: str) -> Tensor:
        first = states[0][key].detach()
        if len(states) == 1 or not _has_mean(first):
            return first.clone()
        total = _wide(first).clone()
        for state in states[1:]:
            total += _wide(state[key]).to(total.device)
        return (total / len(states)).to(first.dtype)

    return {key: mean(key) for key in states[0]}


def greedy_soup(states: Sequence[State], score: Callable[[State], float]) -> dict[str, Tensor]:
    """Return the mean of `greedy_members` (arXiv 2203.05482, recipe 1); arguments as there."""
    return uniform_soup([states[member] for member in greedy_members(states, score)])


def greedy_members(states: Sequence[State], score: Callable[[State], float]) -> list[int]:
    """Choose the states whose soup is no worse with them (arXiv 2203.05482, recipe 1).

    The states are tried from the best to the worst by their own score; one joins if the soup with
    it scores at least as high as without. So the soup is never below the best single state.

    Args:
        states: One or more states of one architecture.
        score: Higher is better; use data that nothing is reported on (in-domain validation).

    Returns:
        Positions in `states`, in the order in which they joined.

    Raises:
        StateError: There is no state, the states differ, or a score is not a number.
    """
    _check_alike(states)
    own_scores = [float(score(state)) for state in states]
    for position, value in enumerate(own_scores):
        if math.isnan(value):
            raise StateError(f"greedy_soup: the score of state {position} is not a number")
    best, *others = sorted(range(len(states)), key=lambda i: own_scores[i], reverse=True)
    members, soup_score = [best], own_scores[best]
    for candidate in others:
        trial = uniform_soup([states[member] for member in [*members, candidate]])
        trial_score = float(score(trial))
        if trial_score >= soup_score:
            members.append(candidate)
            soup_score = trial_score
    return members


def fingerprint(state: State, digits: int = 12) -> str:
    """Return hexadecimal digits, at most 64, that identify these weights, name by name.

    Models that were finetuned from the same weights lie in one basin of the loss and can be
    averaged; models of different starts cannot. So a model file names its start.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:digits]


def _has_mean(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float64))


def _check_alike(states: Sequence[State]) -> None:
    if not states:
        raise StateError("a soup needs at least one state, got none")
    first = states[0]
    for position, state in enumerate(states[1:], start=2):
        if odd := sorted(map(repr, first.keys() ^ state.keys())):
            raise StateError(
                f"states 1 and {position} are of different models: "
                f"{listed(odd)} only in one of them"
            )
        for key, value in first.items():
            if value.shape != state[key].shape:
                raise StateError(
                    f"states 1 and {position} are of different models: {key!r} has shape "
                    f"{tuple(value.shape)} in one and {tuple(state[key].shape)} in the other"
                )
