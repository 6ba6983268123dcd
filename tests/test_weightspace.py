import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmixout.errors import ConfigError, StateError
from gmixout.weightspace import State, greedy_soup, interpolate, uniform_soup


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(3, 4, generator=generator).to(dtype),
        "layer.zero": torch.tensor([-0.0, 0.0, 1e-30], dtype=dtype),
        "norm.batches": torch.tensor(seed),
    }


def bits(tensor: Tensor) -> bytes:
    return tensor.flatten().view(torch.uint8).numpy().tobytes()


def same_bits(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(bits(a[k]) == bits(b[k]) for k in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_interpolation_has_its_ends(dtype):
    a, b = state(1, dtype), state(2, dtype)
    a["layer.zero"][1], b["layer.zero"][1] = math.inf, -math.inf
    at_0, at_1 = interpolate(a, b, 0.0), interpolate(a, b, 1.0)
    assert same_bits(at_0, a)
    assert same_bits({**at_1, "norm.batches": b["norm.batches"]}, b)
    assert at_1["norm.batches"] == 1  # a counter has no mean: from the first


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1))
def test_interpolation_is_the_formula_and_leaves_equal_entries_alone(alpha):
    a, b = state(1), state(2)
    mixed = interpolate(a, b, alpha)
    exact = (1 - alpha) * a["layer.weight"].double() + alpha * b["layer.weight"].double()
    torch.testing.assert_close(mixed["layer.weight"], exact.float(), rtol=0, atol=1e-7)
    assert torch.equal(interpolate(a, a, alpha)["layer.weight"], a["layer.weight"])


def test_interpolation_shares_no_memory_with_its_ends():
    a, b = state(1), state(2)
    before = {key: value.clone() for key, value in a.items()}
    for value in interpolate(a, b, 0.0).values():
        value.zero_()
    assert same_bits(a, before)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        interpolate(state(1), state(2), alpha)


def test_states_of_different_models():
    a, b = state(1), state(2)
    del b["layer.zero"]
    with pytest.raises(StateError, match=r"layer\.zero"):
        interpolate(a, b, 0.5)
    b["layer.zero"] = torch.zeros(7)
    with pytest.raises(StateError, match=r"\(3,\).*\(7,\)"):
        uniform_soup([a, b])
    with pytest.raises(StateError, match="at least one"):
        uniform_soup([])
    with pytest.raises(StateError, match="at least one"):
        greedy_soup([], score=lambda _: 0.0)


def test_soup_of_one_state_is_that_state():
    assert same_bits(uniform_soup([state(3)]), state(3))
    assert same_bits(greedy_soup([state(3)], score=lambda _: 1.0), state(3))


def test_uniform_soup_is_the_mean():
    states = [state(seed) for seed in range(5)]
    mean = torch.stack([s["layer.weight"].double() for s in states]).mean(0)
    torch.testing.assert_close(
        uniform_soup(states)["layer.weight"], mean.float(), rtol=0, atol=1e-7
    )
    halves = uniform_soup(states[:2])["layer.weight"]
    assert torch.equal(halves, interpolate(states[0], states[1], 0.5)["layer.weight"])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_greedy_soup_is_never_below_the_best_state(count, seed):
    states = [state(seed + i) for i in range(count)]
    direction = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))

    def score(candidate: State) -> float:
        return float((torch.sin(3 * candidate["layer.weight"]) * direction).sum())

    soup = greedy_soup(states, score)
    assert score(soup) >= max(score(each) for each in states)


def test_greedy_soup_takes_what_helps_and_leaves_what_does_not():
    good = [{"w": torch.tensor([1.0])}, {"w": torch.tensor([-1.0])}]
    bad = {"w": torch.tensor([50.0])}
    soup = greedy_soup([bad, *good], score=lambda s: -abs(float(s["w"])))
    assert float(soup["w"]) == 0.0


def test_a_score_that_is_no_number():
    scores = iter([0.5, math.nan])
    with pytest.raises(StateError, match="state 1 is not a number"):
        greedy_soup([state(1), state(2)], score=lambda _: next(scores))
