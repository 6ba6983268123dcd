"""Orders of examples: even, of one domain, weighted; the same wherever they are drawn."""

import itertools
from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st

from gmixout.errors import ConfigError, DataError
from gmixout.training.batches import Batches


class Data:
    def __init__(self, groups, labels=None, weights=None):
        self.groups = torch.tensor(groups)
        self.labels = self.groups if labels is None else torch.tensor(labels)
        if weights is not None:
            self.weights = torch.tensor(weights)

    def __len__(self):
        return len(self.groups)


UNEVEN = Data([0] * 20 + [1] * 3 + [2] * 7, labels=[0, 1] * 15, weights=[1.0] * 20 + [3.0] * 10)
ORDERS = ["shuffled", "even_domains", "even_classes", "one_domain", "weighted"]


def drawn(order, data=UNEVEN, size=7, steps=12, **how):
    return list(Batches(data, size, steps, **{"seed": 0, "order": order, **how}))


def indices(batches):
    return [[index for _, index in batch] for batch in batches]


@pytest.mark.parametrize("order", ORDERS)
def test_they_follow_from_the_seed_and_go_on_where_they_stopped(order, rng_untouched):
    with rng_untouched():
        whole = drawn(order)
    assert drawn(order) == whole
    assert drawn(order, start=5) == whole[5:]
    assert drawn(order, seed=1) != whole
    assert [place for batch in whole for place, _ in batch] == list(range(7 * 12))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_processes_sees_the_same_batches(order, ranks):
    sampler = Batches(UNEVEN, 8, 6, seed=0, order=order)
    shards = [
        list(BatchSamplerShard(sampler, ranks, rank, split_batches=True)) for rank in range(ranks)
    ]
    together = [list(itertools.chain(*parts)) for parts in zip(*shards, strict=True)]
    assert together == list(sampler)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=40), st.integers(4, 11))
def test_even_batches_are_even(groups, size):
    data = Data(groups)
    kinds = sorted(set(groups))
    total: Counter[int] = Counter()
    for batch in indices(drawn("even_domains", data, size, steps=3 * len(kinds))):
        counts = Counter(groups[index] for index in batch)
        assert max(counts.values()) - min(counts[kind] for kind in kinds) <= 1
        total += counts
    assert len(set(total.values())) == 1  # whole rounds of turns at the one more


def test_even_classes_go_by_labels_and_each_through_its_own_permutations():
    batches = indices(drawn("even_classes", size=6, steps=10))
    for batch in batches:
        assert sorted(int(UNEVEN.labels[index]) for index in batch) == [0, 0, 0, 1, 1, 1]
    for label in (0, 1):
        stream = [i for batch in batches for i in batch if UNEVEN.labels[i] == label]
        assert sorted(stream[:15]) == sorted(range(label, 30, 2))
        assert stream[:15] != stream[15:30]


def test_a_slice_of_an_even_batch_is_even():
    for batch in indices(drawn("even_domains", size=12)):
        for part in (batch[:6], batch[6:]):
            assert Counter(int(UNEVEN.groups[i]) for i in part) == {0: 2, 1: 2, 2: 2}


def test_batches_of_one_domain_take_turns():
    batches = indices(drawn("one_domain", steps=12))
    domains = [{int(UNEVEN.groups[index]) for index in batch} for batch in batches]
    assert all(len(found) == 1 for found in domains)
    turns = [found.pop() for found in domains]
    assert all(sorted(turns[i : i + 3]) == [0, 1, 2] for i in range(0, 12, 3))
    assert len({tuple(turns[i : i + 3]) for i in range(0, 12, 3)}) > 1


def test_weights_are_chances():
    """Within four standard deviations of the share that the weights say."""
    draws = [i for batch in indices(drawn("weighted", size=10, steps=400)) for i in batch]
    weight = 30 / 50
    share = sum(i >= 20 for i in draws) / len(draws)
    assert abs(share - weight) < 4 * (weight * (1 - weight) / len(draws)) ** 0.5


@pytest.mark.parametrize(
    ("order", "data", "size", "message"),
    [
        ("shuffled", UNEVEN, 31, "batch_size=31 is larger"),
        ("even_domains", UNEVEN, 2, "smaller than the 3 domains"),
        ("even_classes", UNEVEN, 1, "smaller than the 2 classes"),
        ("even_domains", range(9), 3, "groups.*several domains"),
        ("one_domain", range(9), 3, "groups"),
        ("weighted", range(9), 3, "weights"),
        ("weighted", Data([0, 1], weights=[1.0]), 2, "weights"),
        ("weighted", Data([0, 1], weights=[-1.0, 2.0]), 2, "0 or more"),
        ("weighted", Data([0, 1], weights=[0.0, 0.0]), 2, "not all 0"),
        ("weighted", Data([0, 1], weights=[float("nan"), 1.0]), 2, "finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(order, data, size, message):
    with pytest.raises(ConfigError, match=message):
        Batches(data, size, 3, seed=0, order=order)


def test_an_empty_set():
    with pytest.raises(DataError, match="empty"):
        Batches([], 1, 1, seed=0)
