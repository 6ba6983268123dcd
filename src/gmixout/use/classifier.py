"""A finetuned model, ready to be used."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor, nn

from gmixout.errors import ConfigError, DataError
from gmixout.tasks import DEFAULT_TASK, LearningTask

Picture: TypeAlias = Any
"""A path, an image of Pillow, or a tensor `[C, H, W]` that is preprocessed already."""


@dataclass(frozen=True)
class Origin:
    """Where a model comes from."""

    path: Path
    """Its file."""
    about: dict[str, Any]
    """What the file says of it: data, method, pretrained model (`results.model_file`)."""
    notes: tuple[str, ...] = ()
    """What a user should know."""


class Classifier(nn.Module):
    """A finetuned model with its classes, its preprocessing, its temperature and its task.

    Calling it gives the logits of preprocessed images, as the plain module in `model` does; of a
    model of numbers its outputs are standardized, and `predict` gives the numbers themselves.

    Args:
        model: Images `[B, C, H, W]` to logits `[B, classes]`.
        classes: Class names, or names of the numbers; logits come in this order.
        transform: An RGB image of Pillow to `[C, H, W]`.
        temperature: What logits are divided by before they become probabilities; 1: unchanged.
        size: Height and width of the input in pixels, if known.
        origin: Where it comes from, if from a file.
        architecture: `Pretrained.architecture`, for exports.
        normalization: Mean and standard deviation of each channel, if known.
        interpolation: Interpolation of the resize, if known.
        task: What it says of an image.

    Example:
        >>> model = gmixout.load("runs/mine")
        >>> model.predict(["a.jpg", "b.jpg"], top_k=1)
        [[('cat', 0.98)], [('dog', 0.71)]]
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        transform: Callable[[Any], Tensor],
        temperature: float = 1.0,
        size: tuple[int, int] | None = None,
        origin: Origin | None = None,
        architecture: Mapping[str, Any] | None = None,
        normalization: tuple[Any, Any] = (None, None),
        interpolation: str | None = None,
        task: LearningTask = DEFAULT_TASK,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"temperature={temperature} must be above 0")
        self.model = model
        self.classes = tuple(classes)
        self.transform = transform
        self.temperature = temperature
        self.size = size
        self.origin = origin
        self.architecture = dict(architecture or {})
        self.normalization, self.interpolation = normalization, interpolation
        self.task = task

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `[B, classes]` of preprocessed images `[B, C, H, W]`."""
        logits: Tensor = self.model(images)
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of preprocessed images.

        Args:
            images: `[B, C, H, W]`, of any type and on any device.

        Returns:
            `[B, classes]`, float32, on the CPU.
        """
        like = next(self.model.parameters(), torch.empty(0))
        with torch.inference_mode():
            found: Tensor = self(images.to(like.device, like.dtype)).float()
            # to the CPU before a softmax: half precision and some devices lose digits there
            return found.cpu()

    def probabilities(self, images: Tensor) -> Tensor:
        """Return calibrated probabilities of preprocessed images, or the numbers predicted.

        Args:
            images: `[B, C, H, W]`, of any type and on any device.

        Returns:
            `[B, classes]`, float32, on the CPU; rows of nan where the model overflows.
        """
        shares = self.task.scores(self.logits(images), self.temperature)
        return shares

    @overload
    def predict(self, images: Tensor | Sequence[Picture], *, batch_size: int = ...) -> Tensor: ...

    @overload
    def predict(
        self, images: Tensor | Sequence[Picture], top_k: int, batch_size: int = ...
    ) -> list[list[tuple[str, float]]]: ...

    def predict(
        self,
        images: Tensor | Sequence[Picture],
        top_k: int | None = None,
        batch_size: int = 64,
    ) -> Tensor | list[list[tuple[str, float]]]:
        """Return the probability of each class, or the most probable classes; or numbers.

        Of several labels an image each class has a probability by itself. Numbers are in the units
        of the training data.

        Files are rotated by their EXIF data and decoded as in training.

        Args:
            images: Paths, images of Pillow or tensors `[C, H, W]`, or one tensor `[B, C, H, W]`;
                tensors are preprocessed already.
            top_k: Number of classes; None: the probabilities of all.
            batch_size: Images in a forward pass.

        Returns:
            `[B, classes]`, float32, on the CPU; or for each image the `top_k` most probable classes
            with their probabilities, the best first.

        Raises:
            ConfigError: `top_k` or `batch_size` is below 1, there is a single image, or `top_k` is
                given for a model of numbers.
            DataError: An image cannot be read.
        """
        if isinstance(images, (str, Path)) or not hasattr(images, "__len__"):
            raise ConfigError(f"images={images!r:.80} must be a list of images: put it into [ ]")
        if isinstance(images, Tensor) and images.ndim != 4:
            raise ConfigError(f"images of shape {tuple(images.shape)} must be [B, C, H, W]")
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be 1 or more")
        if top_k is not None and not self.task.has_classes:
            raise ConfigError(
                f"top_k={top_k} is for classes: this model predicts {self.task.title}"
            )
        found = [torch.empty(0, len(self.classes))]
        training = self.training
        self.eval()
        try:
            for start in range(0, len(images), batch_size):
                part = images[start : start + batch_size]
                if not isinstance(part, Tensor):
                    part = torch.stack([self._seen(image) for image in part])
                found.append(self.probabilities(part))
        finally:
            self.train(training)
        probabilities = torch.cat(found)
        return probabilities if top_k is None else self.named(probabilities, top_k)

    def named(self, probabilities: Tensor, top_k: int) -> list[list[tuple[str, float]]]:
        """Return the names of the most probable classes, or of all numbers.

        Args:
            probabilities: `[B, classes]`, or numbers.
            top_k: How many classes at most.

        Returns:
            For each image its classes and their probabilities, the best first; or its numbers.
        """
        if not self.task.has_classes:
            return [[*zip(self.classes, row, strict=True)] for row in probabilities.tolist()]
        values, labels = probabilities.topk(min(top_k, len(self.classes)), dim=1)
        return [
            [(self.classes[label], value) for label, value in zip(row, each, strict=True)]
            for row, each in zip(labels.tolist(), values.tolist(), strict=True)
        ]

    def _seen(self, image: Picture) -> Tensor:
        """Return an image as the model sees it."""
        if isinstance(image, Tensor):
            return image
        if isinstance(image, (str, Path)):
            image = read_picture(Path(image))
        seen: Tensor = self.transform(image.convert("RGB"))
        return seen


def read_picture(file: Path) -> Picture:
    """Return the image in a file, in RGB and upright.

    Raises:
        DataError: It cannot be read; the message names it.
    """
    from gmixout.data.decoding import decoded

    try:
        return decoded(file, upright=True)
    except DataError:
        raise
    except Exception as error:  # decoders do not agree on what they raise
        raise DataError(f"{file} cannot be read as an image ({error})") from error
