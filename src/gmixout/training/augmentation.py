"""Augmentation of single images and of batches; its draws follow from the seed and the place.

A draw depends on the run's seed and the image's position in the run (or the batch's step) alone: a
resumed run, another number of loading processes and another method see the same images.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from gmixout.errors import needs
from gmixout.training.arguments import TrainingArguments


class Augmented(Dataset[tuple[Tensor, Any]]):
    """The images of a data set as a training run sees them: cropped, mirrored, RandAugment.

    Its items are asked for by (position in the run, index in the data set), see `Batches`.

    Args:
        dataset: Items are (image `[C, H, W]`, label), float images in [0, 1] if they are to be
            augmented. A data set of pictures (`ImageSet`) has methods `picture(index)` and
            `transform(picture)`: the picture is augmented before the model's own preprocessing.
        arguments: Say how; without augmentation images are those of the data set.

    Raises:
        ConfigError: torchvision is not installed, and it is needed.
    """

    def __init__(self, dataset: Dataset[Any], arguments: TrainingArguments) -> None:
        self._dataset, self._seed = dataset, arguments.seed
        self.labels: Any = getattr(dataset, "labels", None)
        self._crop_scale = arguments.crop_scale
        steps: list[Callable[[Any], Any]] = []
        if arguments.crop_scale < 1:
            self._v2 = _transforms("crop_scale")
            steps.append(self._crop)
        if arguments.flip:
            steps.append(_transforms("flip").RandomHorizontalFlip())
        if arguments.augment == "randaugment":
            v2 = _transforms("augment=randaugment")
            ops, magnitude = arguments.randaugment_ops, arguments.randaugment_magnitude
            steps.append(v2.RandAugment(ops, magnitude))
        self._steps = steps
        self.in_memory = not steps and getattr(dataset, "in_memory", False)

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Any]:
        position, index = place
        if not self._steps:
            item: tuple[Tensor, Any] = self._dataset[index]
            return item
        picture = getattr(self._dataset, "picture", None)
        image, label = self._dataset[index] if picture is None else (picture(index), None)
        with draws_of(self._seed, "image", position):
            for step in self._steps:
                image = step(image)
        if picture is None:
            return image, label
        return self._dataset.transform(image), int(self.labels[index])  # type: ignore[attr-defined]

    def _crop(self, image: Any) -> Any:
        """A part of the image, stretched by up to 4/3, enlarged to the image's own size."""
        height, width = self._v2.functional.get_size(image)
        ratio = (3 / 4 * width / height, 4 / 3 * width / height)
        crop = self._v2.RandomResizedCrop(
            (height, width), (self._crop_scale, 1.0), ratio, antialias=True
        )
        return crop(image)


class Mixing:
    """Mixup and CutMix of batches; with both, one of them at random for each batch.

    Sources: Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412), CutMix (Yun et al., ICCV 2019, arXiv
    1905.04899), both in torchvision's form: a batch is mixed with itself moved on by one image,
    with one share, drawn from Beta(alpha, alpha), for all images.

    Args:
        arguments: `mixup` and `cutmix` are the alphas; 0 leaves one out.

    Raises:
        ConfigError: torchvision is not installed, and it is needed.
    """

    def __init__(self, arguments: TrainingArguments) -> None:
        alphas = {"MixUp": arguments.mixup, "CutMix": arguments.cutmix}
        self._seed = arguments.seed
        self._alphas = {name: alpha for name, alpha in alphas.items() if alpha > 0}
        self._v2: Any = _transforms("mixup and cutmix") if self._alphas else None

    def __call__(self, images: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """Mixes a batch.

        Args:
            images: `[B, C, H, W]`.
            step: Number of the step, from 0.

        Returns:
            The images, and the share `[B, B]` of each image of the batch (second axis) in each
            mixed one; None if nothing was mixed.
        """
        if not self._alphas:
            return images, None
        v2, size = self._v2, len(images)
        mixers = [getattr(v2, name)(alpha=a, num_classes=size) for name, a in self._alphas.items()]
        with draws_of(self._seed, "batch", step):
            # with the position as label, the soft labels that come back are shares of the images
            mixed, shares = v2.RandomChoice(mixers)(
                images, torch.arange(size, device=images.device)
            )
        return mixed, shares


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, shares: Tensor | None, label_smoothing: float
) -> Tensor:
    """Cross-entropy of a batch whose images may be mixtures.

    Args:
        logits: `[B, classes]`.
        labels: `[B]`, of the images before they were mixed.
        shares: `[B, B]`, see `Mixing`; None: the images are what they were.
        label_smoothing: Share of a target that is spread over all classes (Szegedy et al., CVPR
            2016, arXiv 1512.00567), in [0, 1).
    """
    target = labels
    if shares is not None:
        one_hot = functional.one_hot(labels, logits.shape[1]).to(shares.dtype)
        target = (shares @ one_hot).to(logits.dtype)
    return functional.cross_entropy(logits, target, label_smoothing=label_smoothing)


@contextmanager
def draws_of(seed: int, kind: str, place: int) -> Iterator[None]:
    """Inside, torch's CPU generator is a function of these; afterwards it is as it was before."""
    digest = hashlib.blake2b(f"{seed}\0{kind}\0{place}".encode(), digest_size=7).digest()
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed: that seeds GPUs, too
        torch.default_generator.manual_seed(int.from_bytes(digest, "little"))
        yield


def _transforms(wanted: str) -> Any:
    with needs("torchvision", "vision", wanted):
        from torchvision.transforms import v2
    return v2
