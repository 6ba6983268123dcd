"""Augmentation of single images; its draws follow from the seed and the place.

Draws depend only on the run's seed and the image's position in the run: a resumed run, another
number of loading processes and another method see the same images.
"""

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gmixout.data.base import label_at
from gmixout.draws import draws_of
from gmixout.errors import ConfigError, needs
from gmixout.training.arguments import TrainingArguments


class Augmented(Dataset[dict[str, Any]]):
    """The images of a data set in a training run: cropped, flipped, RandAugment.

    Items are indexed by (position in the run, index in the data set), see `Batches`, and collated
    by `gmixout.data.batch.collate`.

    Args:
        dataset: Items are (image `[C, H, W]`, label), float images in [0, 1] if they are to be
            augmented. A data set of pictures (`ImageSet`) has methods `picture(index)` and
            `transform(picture)`: the picture is augmented before the model's own preprocessing.
        arguments: The augmentation; without any, images are those of the data set.
        asks: Requests besides image and label, of "domains", "places" and "views".

    Raises:
        ConfigError: The data set does not say its domains (`groups`), there is no augmentation to
            make a second view by, or torchvision is needed and not installed.
    """

    def __init__(
        self, dataset: Dataset[Any], arguments: TrainingArguments, asks: Collection[str] = ()
    ) -> None:
        self._dataset, self._seed = dataset, arguments.seed
        self.labels: Any = getattr(dataset, "labels", None)
        self.groups: Any = getattr(dataset, "groups", None)
        self.weights: Any = getattr(dataset, "weights", None)
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
        self._asks = frozenset(asks)
        self.in_memory = not steps and getattr(dataset, "in_memory", False)
        if "domains" in asks and not isinstance(self.groups, Tensor):
            raise ConfigError(
                "a regularizer or --batches needs the domain of each training image, and the "
                "training set has one domain: take a data set of several, --train-domains A,B"
            )
        if "views" in asks and not steps:
            raise ConfigError(
                "a regularizer needs a second view of each image, which without augmentation "
                "equals the first: --augment randaugment, --crop-scale 0.5 or --flip"
            )

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def on(self, device: torch.device) -> "Augmented":
        """Return the same with the images on a device; augmented ones stay where they are."""
        move = getattr(self._dataset, "on", None)
        if self._steps or move is None or (there := move(device)) is self._dataset:
            return self
        moved = copy.copy(self)
        moved._dataset = there
        return moved

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        position, index = place
        image, label = self._seen("image", position, index)
        item = {"image": image, "label": label}
        if "views" in self._asks:
            item["view"] = self._seen("view", position, index)[0]
        if "domains" in self._asks:
            item["domain"] = self.groups[index]
        if "places" in self._asks:
            item["place"] = index
        return item

    def _seen(self, kind: str, position: int, index: int) -> tuple[Tensor, Any]:
        """Return an image after the draws of a kind at a position, and its label."""
        if not self._steps:
            item: tuple[Tensor, Any] = self._dataset[index]
            return item
        picture = getattr(self._dataset, "picture", None)
        image, label = self._dataset[index] if picture is None else (picture(index), None)
        with draws_of(self._seed, kind, position):
            for step in self._steps:
                image = step(image)
        if picture is None:
            return image, label
        return self._dataset.transform(image), label_at(self.labels, index)  # type: ignore[attr-defined]

    def _crop(self, image: Any) -> Any:
        """Return a part of the image, stretched by up to 4/3, enlarged to the image's own size."""
        height, width = self._v2.functional.get_size(image)
        ratio = (3 / 4 * width / height, 4 / 3 * width / height)
        crop = self._v2.RandomResizedCrop(
            (height, width), (self._crop_scale, 1.0), ratio, antialias=True
        )
        return crop(image)


def _transforms(wanted: str) -> Any:
    with needs("torchvision", "vision", wanted):
        from torchvision.transforms import v2
    return v2
