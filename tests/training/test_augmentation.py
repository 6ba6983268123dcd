import sys

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gmixout.errors import ConfigError
from gmixout.training import TrainingArguments, check_settings
from gmixout.training.augmentation import Augmented, Mixing, mixed_cross_entropy
from gmixout.training.batches import Batches

GREY = TensorDataset(torch.rand(8, 1, 12, 12), torch.arange(8))


def augmented(dataset=GREY, **settings):
    return Augmented(dataset, TrainingArguments(augment="randaugment", **settings))


def seen(start=0, num_workers=0, seed=0):
    """The images of a run of 4 steps of 5 images, from a step on."""
    batches = Batches(len(GREY), 5, 4, seed, start)
    loader = DataLoader(augmented(seed=seed), batch_sampler=batches, num_workers=num_workers)
    return [images for images, _ in loader]


def test_images_follow_from_seed_and_position_alone(rng_untouched):
    with rng_untouched():
        first = augmented(seed=3)[7, 2][0]
    augmented(seed=3)[6, 1]
    assert torch.equal(augmented(seed=3)[7, 2][0], first)
    draws = [augmented(seed=seed)[position, 2][0] for seed in range(3) for position in range(3)]
    assert len({tuple(image.flatten().tolist()) for image in draws}) > 6


def test_resuming_and_workers_change_no_image():
    whole = torch.stack(seen())
    assert torch.equal(torch.stack(seen(start=2)), whole[2:])
    assert torch.equal(torch.stack(seen(num_workers=1)), whole)
    assert not torch.equal(torch.stack(seen(seed=1)), whole)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_are_images_still(channels):
    original = TensorDataset(torch.rand(1, channels, 16, 16), torch.tensor([3]))
    changed = 0
    for position in range(100):
        image, label = augmented(original)[position, 0]
        assert image.shape == (channels, 16, 16)
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert label == 3
        changed += not torch.equal(image, original[0][0])
    assert changed > 80


def test_the_magnitude_and_the_number_of_operations_matter():
    def change(**settings):
        pairs = [(augmented(**settings)[p, p % 8][0], GREY[p % 8][0]) for p in range(60)]
        return sum(float((a - b).abs().mean()) for a, b in pairs)

    assert change(randaugment_magnitude=2) < change() < change(randaugment_ops=5)


def test_without_augmentation_images_stay():
    plain = Augmented(GREY, TrainingArguments())
    assert torch.equal(plain[5, 1][0], GREY[1][0])
    assert len(plain) == len(GREY)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_mixed_image_is_made_of_its_shares(name, rng_untouched):
    images = torch.rand(6, 3, 8, 8)
    with rng_untouched():
        mixed, shares = Mixing(TrainingArguments(**{name: 1.0}))(images, step=4)
    torch.testing.assert_close(shares.sum(1), torch.ones(6))
    assert (shares > 0).sum(1).tolist() == [2] * 6
    if name == "mixup":
        torch.testing.assert_close(mixed, torch.einsum("ij,jchw->ichw", shares, images))
    else:
        for image, share in zip(mixed, shares, strict=True):
            own = [(image == other).all(0).float().mean() for other in images]
            torch.testing.assert_close(torch.stack(own), share)


def test_mixing_follows_from_seed_and_step():
    images = torch.rand(4, 1, 8, 8)

    def shares(step, seed=0, **alphas):
        return Mixing(TrainingArguments(seed=seed, **alphas))(images, step)[1]

    assert torch.equal(shares(2, mixup=0.5), shares(2, mixup=0.5))
    assert not torch.equal(shares(2, mixup=0.5), shares(3, mixup=0.5))
    assert not torch.equal(shares(2, mixup=0.5), shares(2, seed=1, mixup=0.5))


def test_both_take_turns():
    images = torch.rand(4, 1, 8, 8)
    mixing, kinds = Mixing(TrainingArguments(mixup=1.0, cutmix=1.0)), []
    for step in range(40):
        mixed, shares = mixing(images, step)
        blend = torch.einsum("ij,jchw->ichw", shares, images)
        kinds.append(torch.allclose(mixed, blend))
    assert 10 < sum(kinds) < 30


def test_without_alphas_nothing_is_mixed():
    images = torch.rand(4, 1, 8, 8)
    mixed, shares = Mixing(TrainingArguments())(images, 0)
    assert mixed is images
    assert shares is None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_a_mixture_is_the_mixture_of_losses(smoothing):
    logits = torch.randn(4, 5, dtype=torch.float64)
    labels = torch.tensor([0, 3, 3, 4])
    share = torch.tensor([0.7, 0.1, 1.0, 0.5], dtype=torch.float64)
    other = [3, 0, 1, 2]
    shares = torch.diag(share)
    shares[range(4), other] += 1 - share

    def loss(labels):
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    expected = (share * loss(labels) + (1 - share) * loss(labels[other])).mean()
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, shares, smoothing), expected)
    unmixed = mixed_cross_entropy(logits, labels, torch.eye(4, dtype=torch.float64), smoothing)
    torch.testing.assert_close(unmixed, mixed_cross_entropy(logits, labels, None, smoothing))
    torch.testing.assert_close(unmixed, loss(labels).mean())


@pytest.mark.parametrize("wanted", [{"augment": "randaugment"}, {"mixup": 0.2}, {"cutmix": 1.0}])
def test_without_torchvision_the_error_comes_before_training(monkeypatch, wanted):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    check_settings(torch.nn.Linear(2, 2), TrainingArguments())
    with pytest.raises(ConfigError, match=rf"{next(iter(wanted))}.*'gmixout\[vision\]'"):
        check_settings(torch.nn.Linear(2, 2), TrainingArguments(**wanted))
