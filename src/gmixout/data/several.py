"""Several training domains: their choice, and their images as one set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gmixout.data.images import ImageSet
from gmixout.data.source import Problems, Source
from gmixout.errors import ConfigError, DataError
from gmixout.plain import listed

if TYPE_CHECKING:
    from PIL.Image import Image

Parts = tuple[ImageSet, ImageSet, ImageSet]
"""Training, in-domain validation and in-domain test images of one domain."""


class JoinedImages(ImageSet):
    """The images of several sets, one set after the other; each is a group.

    Args:
        sets: The sets by the names of their groups, with one transform and one label space. Their
            own groups are dropped.

    Raises:
        DataError: Transforms or label spaces differ.
    """

    def __init__(self, sets: Mapping[str, ImageSet]) -> None:
        parts = tuple(sets.values())
        first = parts[0]
        if any((p.transform, p.space) != (first.transform, first.space) for p in parts):
            raise DataError(
                f"{', '.join(sets)} cannot be one set: join sets before they get transforms, and "
                "only those with the same classes"
            )
        sizes = torch.tensor([len(part) for part in parts])
        groups = torch.arange(len(parts)).repeat_interleave(sizes)
        labels = torch.cat([part.labels for part in parts])
        super().__init__(labels, groups, first.space, tuple(sets))
        self.transform = first.transform
        self.broken = tuple(name for part in parts for name in part.broken)
        self._parts = tuple(sets.items())
        # of each image, the part it is in and its position in that part's store
        self._part = groups.numpy()
        self._inside = np.concatenate([part._positions for part in parts])

    def _decode(self, position: int) -> "Image":
        part, inside = self._place(position)
        return part._decode(inside)

    def _name(self, position: int) -> str:
        part, inside = self._place(position)
        return part._name(inside)

    def _stored(self, position: int) -> Path | bytes:
        part, inside = self._place(position)
        return part._stored(inside)

    def _place(self, position: int) -> tuple[ImageSet, int]:
        _, part = self._parts[int(self._part[position])]
        return part, int(self._inside[position])

    def _identity(self, positions: "np.ndarray[Any, Any]") -> bytes:
        """Return the order of the images, then each part's name and its images' identity."""
        order, inside = self._part[positions], self._inside[positions]
        held = [order.tobytes()]
        for number, (name, part) in enumerate(self._parts):
            held += [f"\0{name}\0".encode(), part._identity(inside[order == number])]
        return b"".join(held)


def joined(sets: Mapping[str, ImageSet]) -> ImageSet:
    """Return the images of several sets as one, each set a group; a single set as it is.

    Args:
        sets: See `JoinedImages`.

    Raises:
        DataError: Their transforms or label spaces differ.
    """
    return JoinedImages(sets) if len(sets) > 1 else next(iter(sets.values()))


def joined_parts(parts: Mapping[str, Parts], problems: Problems) -> Parts:
    """Return the training, validation and test images of all domains, each as one set.

    Args:
        parts: Those of each domain.
        problems: Collects the domains without an image in one of them.
    """
    for domain, own in parts.items():
        for name, images in zip(("train", "id_val", "id_test"), own, strict=True):
            if not len(images) and len(parts) > 1:
                problems.add(
                    f"{name} has no image of the domain {domain}: it has too few of each class"
                )
    train, id_val, id_test = (joined({d: own[n] for d, own in parts.items()}) for n in range(3))
    return train, id_val, id_test


def training_note(trained: Sequence[str]) -> tuple[str, ...]:
    """Return a note on the training domains, if they are several."""
    return (f"trained and validated on each of: {listed(trained, 20)}",) if len(trained) > 1 else ()


@dataclass(frozen=True, kw_only=True)
class SeveralDomains(Source):
    """A benchmark whose training images may be of several domains.

    Args:
        train_domains: The training domains, for example `photo,cartoon`; all others
            are shifts. In-domain validation and test are of each of them.
        test_domain: Leave this domain out: finetune on all others, and test on it. A folder of
            runs for each domain in turn is leave-one-domain-out.
    """

    train_domains: tuple[str, ...] = ()
    test_domain: str | None = None

    def __post_init__(self) -> None:
        """Check the options; the same domains in another order are the same training."""
        super().__post_init__()
        object.__setattr__(self, "train_domains", tuple(sorted(set(self.train_domains))))
        if self.train_domains and self.test_domain is not None:
            self._refuse_both("train_domains", "test_domain")

    def _refuse_both(self, one: str, other: str) -> None:
        given = ", ".join(f"{name}={getattr(self, name)!r}" for name in (one, other))
        raise ConfigError(f"{self.name}({given}) names training domains twice: leave out one")

    @property
    def choice(self) -> tuple[str, tuple[str, ...]]:
        """The option that names the training domains, and these domains."""
        if self.test_domain is not None:
            return "test_domain", (self.test_domain,)
        return "train_domains", self.train_domains

    def trains_on(self, domain: str) -> bool:
        """Return whether a domain, if present, is trained on."""
        option, named = self.choice
        return not named or (domain in named) == (option != "test_domain")

    def trained_of(self, domains: Sequence[str], problems: Problems) -> list[str]:
        """Return the training domains among those present: the chosen ones, or all.

        Raises:
            DataError: A domain that an option names is not there, or no other than the left-out.
        """
        option, named = self.choice
        if absent := [name for name in named if name not in domains]:
            problems.fail(
                self,
                f"{option}={','.join(absent)} is not there; the domains in {self.root} are: "
                f"{listed(domains, 20) or 'none'}",
            )
        trained = [name for name in domains if self.trains_on(name)]
        if not trained:
            problems.fail(self, f"{named[0]} is the only domain in {self.root}: none to train on")
        return trained
