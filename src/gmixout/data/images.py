"""Labelled images on disk or in memory, decoded on access."""

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from gmixout.data.base import Examples, label_at
from gmixout.data.decoding import decoded
from gmixout.data.reading import regular
from gmixout.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Labels: TypeAlias = Sequence[int] | Sequence[Sequence[float]] | Tensor
Transform: TypeAlias = Callable[["Image"], Tensor]
"""Makes a model's input `[C, H, W]` from an image; picklable, for spawned workers."""

_Set = TypeVar("_Set", bound="ImageSet")

_BLOCK = 256
"""Images that one thread checks in a row."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a test set, where they differ from the model's.

    ImageNet-R and -A have 200 of the model's 1000 classes; ObjectNet has 113 classes of its own,
    each of which is one or more of ImageNet's.
    """

    classes: tuple[str, ...]
    """Names of the test set's own classes; its labels are positions in this tuple."""
    members: tuple[tuple[int, ...], ...]
    """For each class of the set, the positions of the model's classes it covers."""

    def project(self, logits: Tensor) -> Tensor:
        """Return logits of this set's classes, each the maximum over its members.

        Args:
            logits: `[N, all classes]`, the model's.

        Returns:
            `[N, own classes]`.
        """
        return torch.stack([logits[:, list(ids)].amax(1) for ids in self.members], dim=1)


class ImageSet(Examples, ABC):
    """Labelled images, decoded to RGB on access: items are `(transform(picture), label)`.

    Subclasses hold the images in a store of their own; a set is a list of positions in it, so that
    the parts of a split share one store. Sets are picklable, and any number of workers may read.

    Args:
        labels: The class of each image of the store, `[N]`; several labels or numbers, `[N, M]`.
        groups: `[N]`, the group of each image (a domain, a place, a range of class sizes), for
            training and metrics that ask for it: positions in `group_names`.
        space: The set's own classes, where they are not the model's.
        group_names: Name of each group, which need not have an image here; empty: they are numbers
            without names.

    Raises:
        DataError: A group has no name.
    """

    def __init__(
        self,
        labels: Labels,
        groups: Sequence[int] | Tensor | None = None,
        space: LabelSpace | None = None,
        group_names: Sequence[str] = (),
    ) -> None:
        given = torch.as_tensor(labels)
        self.labels = given.to(torch.float32 if given.dim() > 1 else torch.int64)
        self.groups: Tensor | None = None
        self.group_names: tuple[str, ...] = ()
        self._set_groups(groups, group_names)
        self.space = space
        self.transform: Callable[[Image], Any] = _as_is
        self.broken: tuple[str, ...] = ()
        """Names of the images that `without_broken` dropped."""
        self.flat = 0
        """Number of images of a single colour that `without_broken` saw."""
        self._positions = np.arange(len(self.labels))
        self._kept: dict[int, Tensor] | None = None

    def _set_groups(self, groups: Sequence[int] | Tensor | None, names: Sequence[str] = ()) -> None:
        if groups is None:
            self.groups, self.group_names = None, ()
            return
        self.groups, self.group_names = torch.as_tensor(groups, dtype=torch.int64), tuple(names)
        nameless = self.groups[(self.groups < 0) | (self.groups >= len(names))]
        if len(names) and len(nameless):
            raise DataError(
                f"group {int(nameless[0])} has no name: groups are positions in group_names, "
                f"which has {len(names)}"
            )

    @abstractmethod
    def _decode(self, position: int) -> "Image":
        """Return the image at a position of the store, in RGB."""

    @abstractmethod
    def _name(self, position: int) -> str:
        """Return the name of the image in errors."""

    def _stored(self, position: int) -> Path | bytes:
        """Return the image at a position of the store as it is stored: its file, or its bytes."""
        return np.asarray(self._decode(position)).tobytes()

    @property
    def in_memory(self) -> bool:
        """True if an image costs nothing after its first use."""
        return self._kept is not None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        if self._kept is None:
            return self.transform(self.picture(index)), label_at(self.labels, index)
        if index not in self._kept:
            self._kept[index] = self.transform(self.picture(index))
        return self._kept[index], label_at(self.labels, index)

    def picture(self, index: int) -> "Image":
        """Return the image itself, in RGB.

        Raises:
            DataError: It cannot be decoded; the message names it.
        """
        position = int(self._positions[index])
        try:
            return self._decode(position)
        # Pillow's decoders do not agree on what they raise on damaged files
        except Exception as error:
            raise DataError(
                f"{self._name(position)} cannot be read as an image ({error}): replace it, or "
                "leave out broken images with on_broken=skip"
            ) from error

    def name(self, index: int) -> str:
        """Return the name of an example in errors: of a file its path."""
        return self._name(int(self._positions[index]))

    def content(self, index: int) -> str:
        """Return the SHA-256 of an image as it is stored.

        Equal files have equal values, whatever they are called. A file that cannot be read has a
        value of its own.
        """
        position = int(self._positions[index])
        try:
            return _sha256(self._stored(position))
        except Exception:  # as in `picture`
            return _sha256(os.fsencode(self._name(position)))

    def contents(self) -> list[str]:
        """Return the `content` of each image, read on several threads."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.content, range(len(self))))

    def project(self, logits: Tensor) -> Tensor:
        """Map logits `[N, all classes]` to logits of this set's classes, `[N, own classes]`.

        Without its own label space the set has the model's classes, and nothing changes.
        """
        return logits if self.space is None else self.space.project(logits)

    def digest(self) -> str:
        """Return twelve hexadecimal digits that identify the labels and, of files, their names."""
        return hashlib.sha256(
            self.labels.numpy().tobytes() + self._identity(self._positions)
        ).hexdigest()[:12]

    def _identity(self, positions: "np.ndarray[Any, Any]") -> bytes:
        """Return bytes that identify the images at some positions of the store."""
        return b""

    def subset(self: _Set, indices: Sequence[int] | Tensor) -> _Set:
        """Return the examples at some indices, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        part = copy.copy(self)
        part.labels = self.labels[chosen]
        part.groups = None if self.groups is None else self.groups[chosen]
        part._positions = self._positions[chosen.numpy()]
        part._kept = None
        return part

    def transformed(self: _Set, transform: Transform) -> _Set:
        """Return the same examples with another transform."""
        part = copy.copy(self)
        part.transform, part._kept = transform, None
        return part

    def grouped(self: _Set, groups: Tensor | None, names: Sequence[str] = ()) -> _Set:
        """Return the same examples with other groups, `[N]`, which are positions in their names.

        Raises:
            DataError: A group has no name.
        """
        part = copy.copy(self)
        part._set_groups(groups, names)
        return part

    def kept(self: _Set) -> _Set:
        """Return the same examples, whose transformed images stay in memory after their first use.

        They stay in the memory of the calling process; loading processes keep nothing.
        """
        part = copy.copy(self)
        part._kept = {}
        return part

    def relabelled(self: _Set, labels: Sequence[int]) -> _Set:
        """Return the same examples with other labels.

        Args:
            labels: `[classes]`, the new label of each old one.
        """
        return self.with_labels(torch.tensor(labels, dtype=torch.int64)[self.labels])

    def with_labels(self: _Set, labels: Tensor) -> _Set:
        """Return the same examples with other labels, as many."""
        part = copy.copy(self)
        part.labels = labels
        return part

    def looked_through(self) -> tuple[list[int], list[int]]:
        """Decode every image, on several threads.

        Returns:
            Indices of the images that cannot be decoded, and of those of a single colour.
        """

        def look(block: range) -> tuple[list[int], list[int]]:
            bad, flat = [], []
            for index in block:
                try:
                    extrema: Any = self.picture(index).getextrema()
                except DataError:
                    bad.append(index)
                else:
                    flat += [index] if all(low == high for low, high in extrema) else []
            return bad, flat

        # blocks, as a million tasks of one image each would take more memory than the images
        blocks = [range(n, min(n + _BLOCK, len(self))) for n in range(0, len(self), _BLOCK)]
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(look, blocks))
        return [i for bad, _ in found for i in bad], [i for _, flat in found for i in flat]

    def without_broken(self: _Set) -> _Set:
        """Return the images that can be decoded; `broken` of the new set names the others.

        Checking every image takes as long as reading the set once, but fixes the number of
        examples, whoever reads them and in whatever order.
        """
        bad, flat = self.looked_through()
        good = np.setdiff1d(np.arange(len(self)), bad)
        part = self.subset(torch.from_numpy(good)) if bad else copy.copy(self)
        part.flat = len(flat)
        part.broken = (*self.broken, *(self._name(int(self._positions[i])) for i in bad))
        return part


class ImageFiles(ImageSet):
    """Image files.

    Args:
        root: Folder that the paths start from.
        paths: Relative paths, with `/`.
        labels: `[N]`.
        groups: See `ImageSet`.
        space: See `ImageSet`.
        border: Pixels to cut from each edge before the transform (ObjectNet's red frame has 2).
        upright: Rotate images by their EXIF data; published benchmarks are read without.
        group_names: See `ImageSet`.
    """

    def __init__(
        self,
        root: Path,
        paths: Iterable[str],
        labels: Labels,
        groups: Sequence[int] | Tensor | None = None,
        space: LabelSpace | None = None,
        border: int = 0,
        upright: bool = False,
        group_names: Sequence[str] = (),
    ) -> None:
        super().__init__(labels, groups, space, group_names)
        self.root, self.border, self.upright = root, border, upright
        # A million strings would be copied into every worker as their reference counts change;
        # one array of bytes stays shared.
        self._paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)

    def _identity(self, positions: "np.ndarray[Any, Any]") -> bytes:
        return bytes(self._paths[positions].tobytes())

    def path(self, index: int) -> Path:
        """Return the file of an example."""
        return self._file(int(self._positions[index]))

    def _file(self, position: int) -> Path:
        return self.root / os.fsdecode(self._paths[position])

    def _decode(self, position: int) -> "Image":
        picture = decoded(self._file(position), self.upright)
        if not self.border:
            return picture
        width, height = picture.size
        edge = self.border
        if min(width, height) <= 2 * edge:
            raise ValueError(f"{width} x {height} pixels are no more than its border of {edge}")
        return picture.crop((edge, edge, width - edge, height - edge))

    def _name(self, position: int) -> str:
        return str(self._file(position))

    def _stored(self, position: int) -> Path:
        return self._file(position)


class ImageBytes(ImageSet):
    """Encoded images in memory (as a column of a parquet file holds them).

    Args:
        encoded: The bytes of image files.
        names: Their names in errors.
        labels: `[N]`.
    """

    def __init__(
        self, encoded: Sequence[bytes], names: Sequence[str], labels: Sequence[int] | Tensor
    ) -> None:
        super().__init__(labels)
        self._encoded, self._names = encoded, names

    def _decode(self, position: int) -> "Image":
        return decoded(BytesIO(self._encoded[position]))

    def _name(self, position: int) -> str:
        return self._names[position]

    def _stored(self, position: int) -> bytes:
        return self._encoded[position]


class ImageArray(ImageSet):
    """Images as one array, which may be mapped from a file.

    Args:
        pixels: `[N, H, W, 3]`, uint8.
        labels: `[N]`.
        name: Its name in errors.
    """

    def __init__(
        self, pixels: "np.ndarray[Any, Any]", labels: Sequence[int] | Tensor, name: str
    ) -> None:
        super().__init__(labels)
        self._pixels, self._array_name = pixels, name

    def _decode(self, position: int) -> "Image":
        from PIL import Image

        return Image.fromarray(np.asarray(self._pixels[position]))

    def _name(self, position: int) -> str:
        return f"image {position} of {self._array_name}"

    def _stored(self, position: int) -> bytes:
        return np.asarray(self._pixels[position]).tobytes()


def _sha256(stored: Path | bytes) -> str:
    if isinstance(stored, bytes):
        return hashlib.sha256(stored).hexdigest()
    found = hashlib.sha256()
    with regular(stored).open("rb") as opened:
        while part := opened.read(2**20):
            found.update(part)
    return found.hexdigest()


def _as_is(picture: "Image") -> "Image":
    return picture
