import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from gmixout.data.batch import collate
from gmixout.errors import ConfigError
from gmixout.models.pretrained import Pretrained
from gmixout.training import TrainingArguments, check_training_settings
from gmixout.training.augmentation import Augmented
from gmixout.training.batches import Batches

LINEAR = Pretrained(torch.nn.Sequential(torch.nn.Linear(2, 2)), head="0", classes=("a", "b"))
GREY = TensorDataset(torch.rand(8, 1, 12, 12), torch.arange(8))


def augmented(dataset=GREY, **settings):
    return Augmented(dataset, TrainingArguments(augment="randaugment", **settings))


def seen(start=0, num_workers=0, seed=0):
    """The images of a run of 4 steps of 5 images, from a step on."""
    batches = Batches(GREY, 5, 4, seed, start)
    how = {"batch_sampler": batches, "num_workers": num_workers, "collate_fn": collate}
    return [batch.images for batch in DataLoader(augmented(seed=seed), **how)]


def test_images_follow_from_seed_and_position_alone(rng_untouched):
    with rng_untouched():
        first = augmented(seed=3)[7, 2]["image"]
    augmented(seed=3)[6, 1]
    assert torch.equal(augmented(seed=3)[7, 2]["image"], first)
    draws = [
        augmented(seed=seed)[position, 2]["image"] for seed in range(3) for position in range(3)
    ]
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
        image, label = augmented(original)[position, 0].values()
        assert image.shape == (channels, 16, 16)
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert label == 3
        changed += not torch.equal(image, original[0][0])
    assert changed > 80


def test_the_magnitude_and_the_number_of_operations_matter():
    def change(**settings):
        pairs = [(augmented(**settings)[p, p % 8]["image"], GREY[p % 8][0]) for p in range(60)]
        return sum(float((a - b).abs().mean()) for a, b in pairs)

    assert change(randaugment_magnitude=2) < change() < change(randaugment_ops=5)


def test_without_augmentation_images_stay():
    plain = Augmented(GREY, TrainingArguments())
    assert torch.equal(plain[5, 1]["image"], GREY[1][0])
    assert len(plain) == len(GREY)


@pytest.mark.parametrize(
    "wanted", [{"augment": "randaugment"}, {"flip": True}, {"crop_scale": 0.5}]
)
def test_without_torchvision_the_error_comes_before_training(monkeypatch, wanted):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    check_training_settings(LINEAR, GREY, TrainingArguments(batch_size=4))
    with pytest.raises(ConfigError, match=rf"{next(iter(wanted))}.*'gmixout\[vision\]'"):
        check_training_settings(LINEAR, GREY, TrainingArguments(batch_size=4, **wanted))
