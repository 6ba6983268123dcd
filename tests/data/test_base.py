"""The one type of a benchmark, of tensors or of images to be decoded."""

from dataclasses import fields

import torch

from gmixout.data import Benchmark, LabelledImages


def images(value, count=2):
    return LabelledImages(torch.full((count, 1, 2, 2), float(value)), torch.arange(count))


def made(**changes):
    sets = {"train": images(0), "id_val": images(1), "id_test": images(2)}
    shifts = {"shifts": {"fog/1": images(3)}, "dev_shifts": {"fog/1": images(4), "rain": images(5)}}
    return Benchmark("by hand", ("no", "yes"), **(sets | shifts | changes))


def values(sets):
    return {name: float(each.images[0, 0, 0, 0]) for name, each in sets.items()}


def test_sets_by_name():
    benchmark = made(dev_shifts={"rain": images(5)})
    assert values(benchmark.tests) == {"id_val": 1, "id_test": 2, "fog/1": 3}
    assert values(benchmark.sets) == {**values(benchmark.tests), "train": 0, "rain": 5}


def test_a_development_shift_may_be_called_as_a_reported_one():
    benchmark = made()
    assert values(benchmark.dev_tests) == {"dev/fog/1": 4, "dev/rain": 5}
    assert not benchmark.tests.keys() & benchmark.dev_tests.keys()


def test_a_function_reaches_every_set_and_nothing_else():
    before = made(metric="macro_f1", extra_metrics=("accuracy",), notes=("a note",))
    after = before.map(lambda each: LabelledImages(each.images + 10, each.labels))
    assert values(after.sets) == {name: 10 + value for name, value in values(before.sets).items()}
    kept = [f.name for f in fields(before) if f.name not in {*before.sets, "shifts", "dev_shifts"}]
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert after.metrics == ("macro_f1", "accuracy")


def test_the_training_set_says_the_domains():
    train = images(0)
    assert made(train=train).domains == ()
    train.group_names = ("photo", "sketch")
    assert made(train=train).domains == ("photo", "sketch")
