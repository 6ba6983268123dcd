"""The measures of an ensemble: identities that hold exactly, and cases whose answer is known."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmixout.errors import ConfigError
from gmixout.evaluation.ensemble import (
    ambiguity,
    barrier,
    bias_variance_covariance,
    disagreement,
    distance,
    drift,
    mean_measures,
    mean_pairwise_distance,
    measure,
    relative_distance,
    squared_error,
)


def tensors(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def repeats(draw):
    """Probabilities `[R, M, N, C]` of any sharpness, float32 as they come from a model."""
    sizes = [draw(st.integers(low, high)) for low, high in ((1, 4), (1, 5), (1, 7), (2, 5))]
    seed, sharpness = draw(st.integers(0, 999)), draw(st.sampled_from([0.1, 1.0, 10.0]))
    probabilities = (sharpness * tensors(seed, *sizes)).softmax(-1)
    labels = draw(st.lists(st.integers(0, sizes[3] - 1), min_size=sizes[2], max_size=sizes[2]))
    return probabilities, torch.tensor(labels)


def squared_error_by_hand(probabilities, labels):
    """Entry by entry, in python's own numbers."""
    total = 0.0
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        total += sum((p - (c == label)) ** 2 for c, p in enumerate(row))
    return total / len(labels)


@given(repeats())
def test_the_expected_error_is_bias_variance_and_covariance(drawn):
    probabilities, labels = drawn
    split = bias_variance_covariance(probabilities, labels)
    count = probabilities.shape[1]
    sum_of_parts = split.bias2 + split.variance / count + (1 - 1 / count) * split.covariance
    assert split.error == pytest.approx(sum_of_parts, rel=1e-12, abs=1e-12)
    errors = [squared_error_by_hand(members.double().mean(0), labels) for members in probabilities]
    assert split.error == pytest.approx(sum(errors) / len(errors), rel=1e-12, abs=1e-12)


@given(repeats())
def test_each_part_is_its_definition(drawn):
    """The equations of the docstring with loops over members and pairs."""
    probabilities, labels = drawn
    split = bias_variance_covariance(probabilities, labels)
    f = probabilities.double()
    repeats, count, images, _ = f.shape
    centred = [f[:, m] - f[:, m].mean(0) for m in range(count)]

    def product(a, b):
        return float((a * b).sum() / (repeats * images))

    variance = sum(product(a, a) for a in centred) / count
    pairs = [product(a, b) for a, b in itertools.permutations(centred, 2)]
    assert split.variance == pytest.approx(variance, rel=1e-10, abs=1e-14)
    assert split.covariance == pytest.approx(
        sum(pairs) / len(pairs) if pairs else 0.0, rel=1e-10, abs=1e-14
    )
    mean = sum(f[:, m].mean(0) for m in range(count)) / count
    assert split.bias2 == pytest.approx(squared_error_by_hand(mean, labels), rel=1e-10, abs=1e-14)


@given(repeats())
def test_the_ensembles_error_is_the_members_less_their_ambiguity(drawn):
    probabilities, labels = drawn
    for members in probabilities:
        split = ambiguity(members, labels)
        assert split.ensemble == pytest.approx(split.members - split.ambiguity, abs=1e-12)
        assert split.ambiguity >= 0
        errors = [squared_error_by_hand(member, labels) for member in members]
        assert split.members == pytest.approx(sum(errors) / len(errors), rel=1e-12)


def test_equal_members_gain_nothing_and_independent_ones_their_number():
    labels = torch.zeros(50, dtype=torch.long)
    members = 3
    one = tensors(0, 400, 1, 50, 4).softmax(-1)
    copies = bias_variance_covariance(one.expand(-1, members, -1, -1), labels)
    assert copies.covariance == pytest.approx(copies.variance, rel=1e-9)
    apart = bias_variance_covariance(tensors(1, 400, members, 50, 4).softmax(-1), labels)
    # Each of the 50 images and 4 classes averages 400 products of independent terms.
    assert abs(apart.covariance) < 5 * apart.variance / (400 * 50) ** 0.5
    gain = apart.error - apart.bias2
    assert gain == pytest.approx(apart.variance / members, rel=0.05)


def test_squared_error_is_between_a_perfect_and_a_surely_wrong_answer():
    labels = torch.tensor([0, 1])
    assert squared_error(torch.eye(2), labels) == 0
    assert squared_error(torch.eye(2).flip(0), labels) == 2
    assert squared_error(torch.full((2, 2), 0.5), labels) == 0.5


def test_disagreement_counts_pairs():
    right, wrong = torch.eye(2), torch.eye(2).flip(0)
    half = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert disagreement(torch.stack([right, right])) == 0
    assert disagreement(torch.stack([right, wrong])) == 1
    # pairs: right-half 1/2, wrong-half 1/2, right-wrong 1
    assert disagreement(torch.stack([right, wrong, half])) == pytest.approx(2 / 3)
    assert disagreement(right[None]) is None


def test_distances_are_norms_over_all_floating_entries():
    a = {"w": tensors(0, 3, 4), "b": tensors(1, 5), "count": torch.tensor(3)}
    b = {"w": tensors(2, 3, 4), "b": tensors(3, 5), "count": torch.tensor(9)}

    def flat(state):
        return torch.cat([state["w"].flatten(), state["b"]]).double()

    assert distance(a, b) == pytest.approx(float((flat(a) - flat(b)).norm()))
    relative = float((flat(a) - flat(b)).norm() / flat(b).norm())
    assert relative_distance(a, b) == pytest.approx(relative)
    assert relative_distance(b, b) == 0
    middle = {name: (a[name] + b[name]) / 2 for name in ("w", "b")}
    ends = [{n: each[n] for n in ("w", "b")} for each in (a, b)]
    # d and twice d/2 over three pairs
    assert mean_pairwise_distance([*ends, middle]) == pytest.approx(distance(a, b) * 2 / 3)
    assert mean_pairwise_distance([a]) is None


def test_drift_is_relative_to_the_pretrained_weights_of_a_layer():
    scale = {
        "a.weight": torch.tensor([3.0, 4.0]),
        "a.bias": torch.zeros(1),
        "zero.weight": torch.zeros(2),
        "b.c.weight": torch.ones(4),
    }
    start = {name: 0.5 * value for name, value in scale.items()}
    state = {**start, "a.weight": start["a.weight"] + torch.tensor([0.0, 2.0])}
    state["a.bias"] = torch.tensor([1.5])
    assert drift(state, start, scale) == {"a": pytest.approx(0.5), "b.c": 0}
    only = {"b.c.weight": start["b.c.weight"]}
    assert drift(state, only, scale) == {"b.c": 0}


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30))
def test_a_barrier_is_at_least_zero_and_ignores_a_slope(losses):
    alphas = [i / (len(losses) - 1) for i in range(len(losses))]
    height = barrier(alphas, losses)
    assert height >= 0
    assert height <= max(losses) - min(losses) + 1e-12
    tilted = [loss + 3 * alpha - 1 for alpha, loss in zip(alphas, losses, strict=True)]
    assert barrier(alphas, tilted) == pytest.approx(height, abs=1e-12)


def test_barrier_of_known_curves():
    alphas = [i / 20 for i in range(21)]
    assert barrier(alphas, [4 * a**2 for a in alphas]) == 0
    assert barrier(alphas, [1 + a * (1 - a) for a in alphas]) == pytest.approx(0.25)
    for wrong in ([0.0, 0.5], [0.0], [0.5, 1.0]):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            barrier(wrong, [1.0] * len(wrong))
    with pytest.raises(ConfigError, match="3 losses"):
        barrier([0.0, 1.0], [1.0, 2.0, 3.0])


def test_measures_of_one_member_and_one_repeat():
    labels = torch.tensor([0, 1, 1])
    probabilities = tensors(4, 1, 1, 3, 2).softmax(-1)
    found = measure(probabilities, probabilities[:, 0], labels)
    assert found.disagreement is None
    assert found.split is None
    assert found.ambiguity == [pytest.approx(0, abs=1e-15)]
    assert found.accuracy[0] == found.average_accuracy == found.ensemble_accuracy
    assert found.error == found.average_error == found.ensemble_error


@given(repeats())
def test_the_mean_over_parts_keeps_both_decompositions(drawn):
    probabilities, labels = drawn
    averages = probabilities[:, 0]
    parts = [measure(probabilities, averages, labels)]
    parts += [measure(probabilities.flip(-1), averages, labels)]
    mean = mean_measures(parts)
    count = probabilities.shape[1]
    for repeat in range(len(probabilities)):
        left = mean.error[repeat] - mean.ambiguity[repeat]
        assert mean.ensemble_error[repeat] == pytest.approx(left, abs=1e-12)
        assert mean.accuracy[repeat][0] == pytest.approx(
            (parts[0].accuracy[repeat][0] + parts[1].accuracy[repeat][0]) / 2
        )
    if mean.split is not None:
        split = mean.split
        right = split.bias2 + split.variance / count + (1 - 1 / count) * split.covariance
        assert split.error == pytest.approx(right, abs=1e-12)
        assert split.error == pytest.approx(sum(mean.ensemble_error) / len(probabilities))
    assert mean_measures(parts[:1]) == parts[0]


def test_nothing_draws_from_the_global_generators(rng_untouched):
    with rng_untouched():
        probabilities = tensors(0, 2, 3, 4, 5).softmax(-1)
        measure(probabilities, probabilities[:, 0], torch.zeros(4, dtype=torch.long))
