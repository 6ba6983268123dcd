"""Loaders: how many processes load, and what they must not do."""

import os
import pickle
import signal

import pytest
import torch
from torch.utils.data import Dataset

from gmixout.data import LabelledImages, base
from gmixout.evaluation.metrics import predict
from gmixout.loading import MOST_PROCESSES, loading_processes, make_loader, resident
from gmixout.training import TrainingArguments
from gmixout.training.augmentation import Augmented


class Decoded(Dataset):
    """Items that cost something every time."""

    labels = torch.arange(6)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.full((1, 2, 2), float(index)), index


class Interrupted(Decoded):
    """Sends its process Ctrl-C whenever it is asked for an item."""

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(index)


IN_MEMORY = LabelledImages(torch.zeros(6, 1, 2, 2), torch.arange(6))


@pytest.mark.parametrize("asked", [0, 1, 3])
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_as_many_processes_as_are_asked_for(asked, device):
    assert loading_processes(Decoded(), device, asked) == asked
    assert loading_processes(IN_MEMORY, device, asked) == asked


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (5, 5), (64, MOST_PROCESSES)])
def test_by_default_a_gpu_is_loaded_for_by_the_threads_that_there_are(
    monkeypatch, threads, expected
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert loading_processes(Decoded(), "cuda") == expected
    assert loading_processes(Decoded(), "cpu") == 0
    assert loading_processes(IN_MEMORY, torch.device("cuda", 0)) == 0


def test_what_is_augmented_is_not_in_memory():
    plain, flipped = TrainingArguments(), TrainingArguments(flip=True)
    assert loading_processes(Augmented(IN_MEMORY, plain), "cuda") == 0
    assert loading_processes(Augmented(IN_MEMORY, flipped), "cuda") > 0
    assert loading_processes(Augmented(Decoded(), plain), "cuda") > 0


def test_images_kept_in_memory_say_so(tmp_path):
    from PIL import Image

    from gmixout.data.images import ImageFiles

    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    files = ImageFiles(tmp_path, ["a.png"], [0])
    assert loading_processes(files, "cuda") > 0
    assert loading_processes(files.kept(), "cuda") == 0


def test_images_in_memory_are_copied_to_a_device_once_and_put_together_there():
    """On the meta device, which has shapes and no values; labels stay."""
    images = LabelledImages(torch.rand(6, 1, 2, 2), torch.arange(6))
    first, second = make_loader(images, "meta", batch_size=4)
    assert [first[0].device.type, first[0].shape[0], second[0].shape[0]] == ["meta", 4, 2]
    assert first[1].tolist() == [0, 1, 2, 3]
    there = resident(images, "meta")
    assert there is not images
    assert there.images is resident(images, "meta").images
    assert images.images.device.type == "cpu"
    assert not pickle.loads(pickle.dumps(images))._copies
    seen = resident(Augmented(images, TrainingArguments()), "meta")
    assert seen[3, 5]["image"].device.type == "meta"
    assert seen[3, 5]["label"] == 5


def test_images_stay_where_a_device_cannot_have_them(monkeypatch):
    images = LabelledImages(torch.rand(6, 1, 2, 2), torch.arange(6))
    assert resident(images, "cpu") is images
    assert resident(images, "meta", 1) is images  # another process loads
    decoded = Decoded()
    assert resident(decoded, "meta", 0) is decoded
    flipped = Augmented(images, TrainingArguments(flip=True))
    assert resident(flipped, "meta", 0) is flipped
    monkeypatch.setattr(base, "RESIDENT_BYTES", images.images.nbytes - 1)
    assert resident(images, "meta") is images
    plain = Augmented(images, TrainingArguments())
    assert resident(plain, "meta") is plain


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_resident_images_are_seen_as_others_are():
    images = LabelledImages(torch.rand(50, 3, 8, 8), torch.arange(50) % 4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4)).cuda()
    copied, there = (predict(model, images, 16, num_workers=n) for n in (1, None))
    assert torch.equal(copied[0], there[0])
    assert torch.equal(copied[1], there[1])
    assert not make_loader(images, "cuda").pin_memory


def test_pinned_for_cuda_alone():
    assert make_loader(Decoded(), "cuda", 0).pin_memory
    assert not make_loader(Decoded(), "cpu").pin_memory


@pytest.mark.parametrize("workers", [0, 1])
def test_the_order_is_the_data_sets_and_the_global_random_state_stays(rng_untouched, workers):
    with rng_untouched():
        labels = [label for _, label in make_loader(Decoded(), "cpu", workers, batch_size=4)]
    assert torch.cat(labels).tolist() == [0, 1, 2, 3, 4, 5]


def test_ctrl_c_does_not_end_a_loading_process():
    labels = [label for _, label in make_loader(Interrupted(), "cpu", 1, batch_size=3)]
    assert torch.cat(labels).tolist() == [0, 1, 2, 3, 4, 5]
