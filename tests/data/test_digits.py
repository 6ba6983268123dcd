import copy
import random

import numpy as np
import pytest
import torch

from gmixout.bench.benchmarks import BENCHMARKS, load_benchmark
from gmixout.data.base import LabelledImages
from gmixout.data.digits import digits
from gmixout.data.digits_corruptions import DEV, DIGITS_SEVERITIES, REPORTED, corrupt_digits
from gmixout.errors import ConfigError
from gmixout.models import digits_vit


@pytest.fixture(scope="module")
def benchmark():
    return digits()


def all_sets(benchmark):
    own = {name: getattr(benchmark, name) for name in ("train", "id_val", "id_test")}
    return own | dict(benchmark.shifts) | dict(benchmark.dev_shifts)


def rows(images):
    return {image.numpy().tobytes() for image in images}


@torch.no_grad()
def accuracy(model, data):
    return (model(data.images).argmax(1) == data.labels).float().mean().item()


def test_unknown_benchmark_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"digits.*'digitz'"):
        load_benchmark("digitz")
    assert set(BENCHMARKS) == {"digits"}


def test_splits_have_their_sizes_and_share_no_image(benchmark):
    parts = [benchmark.train, benchmark.id_val, benchmark.id_test]
    assert [len(part) for part in parts] == [300, 400, 1097]
    distinct = [rows(part.images) for part in parts]
    assert len(set.union(*distinct)) == sum(len(part) for part in parts)


def test_images_and_labels_are_what_the_docstring_says(benchmark):
    assert benchmark.classes == tuple("0123456789")
    for name, data in all_sets(benchmark).items():
        assert data.images.shape[1:] == (1, 28, 28), name
        assert data.images.dtype == torch.float32, name
        assert data.images.isfinite().all(), name
        assert data.images.min() >= 0, name
        assert data.images.max() <= 1, name
        # Blank images could not be told apart.
        assert data.images.flatten(1).std(1).min() > 0.01, name
        share = data.labels.bincount(minlength=10) / len(data)
        assert len(share) == 10, name
        assert ((share > 0.09) & (share < 0.11)).all(), name
    image, label = benchmark.train[0]
    assert image.shape == (1, 28, 28)
    assert type(label) is int


def test_shift_groups(benchmark):
    assert set(benchmark.shifts) == {"corrupted/1", "corrupted/2", "corrupted/3", "fonts"}
    groups = {name.split("/")[0] for name in benchmark.shifts}
    assert groups.isdisjoint(name.split("/")[0] for name in benchmark.dev_shifts)


def test_two_loads_are_equal(benchmark):
    again = all_sets(digits())
    for name, data in all_sets(benchmark).items():
        assert torch.equal(data.images, again[name].images), name
        assert torch.equal(data.labels, again[name].labels), name


def test_global_generators_are_left_alone():
    def states():
        name, keys, *rest = np.random.get_state()  # noqa: NPY002
        return torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate()

    before = copy.deepcopy(states())
    digits(), digits_vit()
    assert states() == before


def test_reported_and_dev_shifts_have_nothing_in_common(benchmark):
    assert not set(REPORTED) & set(DEV)
    assert not set(REPORTED.values()) & set(DEV.values())
    for severity in DIGITS_SEVERITIES:
        reported = benchmark.shifts[f"corrupted/{severity}"]
        dev = benchmark.dev_shifts[f"dev_corrupted/{severity}"]
        assert not rows(reported.images) & rows(dev.images)


@pytest.mark.parametrize("kind", [*REPORTED, *DEV])
def test_a_higher_severity_is_further_from_the_clean_image(kind, benchmark):
    table = {kind: (REPORTED | DEV)[kind]}
    clean = benchmark.id_val
    distances = [
        (corrupt_digits(clean, table, severity, seed=0).images - clean.images).pow(2).mean().item()
        for severity in DIGITS_SEVERITIES
    ]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_corruption_depends_on_the_seed_alone_and_leaves_its_input(benchmark):
    clean = benchmark.id_val
    before = clean.images.clone()
    first, same, other = (corrupt_digits(clean, REPORTED, 2, seed).images for seed in (0, 0, 1))
    assert torch.equal(clean.images, before)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_every_kind_takes_its_turn():
    clean = LabelledImages(torch.zeros(6, 1, 28, 28), torch.zeros(6, dtype=torch.int64))

    def paint(value):
        return lambda images, severity, generator: torch.full_like(images, value)

    corrupted = corrupt_digits(clean, {"a": paint(0.25), "b": paint(0.5)}, severity=1, seed=0)
    assert corrupted.images[:, 0, 0, 0].tolist() == [0.25, 0.5] * 3


def test_the_model_reads_fonts_it_never_saw_and_some_handwriting(benchmark):
    model = digits_vit().model
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.get_classifier() is model.head
    assert 0.6 < accuracy(model, benchmark.shifts["fonts"]) < 0.98
    assert 0.4 < accuracy(model, benchmark.id_val) < 0.9


def test_the_model_is_fresh_each_time():
    first, second = digits_vit().model, digits_vit().model
    with torch.no_grad():
        first.head.weight.zero_()
    assert second.head.weight.abs().sum() > 0


@pytest.mark.parametrize("package", ["sklearn", "matplotlib", "PIL", "torchvision"])
def test_missing_package_says_what_to_install(package, monkeypatch):
    block(package, monkeypatch)
    with pytest.raises(ConfigError, match=r"which cannot be imported.*pip install 'gmixout\["):
        digits()


def test_missing_timm_says_what_to_install(monkeypatch):
    block("timm", monkeypatch)
    with pytest.raises(ConfigError, match=r"which cannot be imported.*pip install 'gmixout\["):
        digits_vit()


def block(package, monkeypatch):
    """Make `import package` fail as if it were not installed."""
    import sys

    for name in [package, *(m for m in sys.modules if m.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
