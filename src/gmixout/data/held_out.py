"""Validation and test images of a user's own data that has none."""

from collections.abc import Mapping, Sequence

from gmixout.data.images import ImageSet
from gmixout.data.sampling import split_by_content
from gmixout.data.source import Problems
from gmixout.plain import listed


class HeldOut:
    """Hold images out of the training images by their content, of one domain after the other.

    Args:
        shares: Share of each missing part (`val`, `test`), by its name.
        classes: Class names.
        problems: Collects parts that stay empty.
    """

    def __init__(
        self, shares: Mapping[str, float], classes: Sequence[str], problems: Problems
    ) -> None:
        self.shares, self._classes, self._problems = shares, classes, problems
        self._few: dict[str, None] = {}

    def split(self, images: ImageSet, domain: str = "") -> tuple[dict[str, ImageSet], ImageSet]:
        """Return the images of each missing part, and the others, which are trained on.

        Args:
            images: The training images.
            domain: Their domain; "" where there are no domains.
        """
        found, moved = split_by_content(images.labels, images.contents(), [*self.shares.values()])
        *held, rest = (images.subset(part) for part in found)
        self._few |= dict.fromkeys(self._classes[label] for label in moved)
        parts = dict(zip(self.shares, held, strict=True))
        if empty := [part for part, own in parts.items() if not len(own)]:
            where = f" of {domain}" if domain else ""
            self._problems.add(
                f"there is no {' and no '.join(empty)}, and the classes{where} have too few images "
                f"to hold any out: they need {len(parts) + 1} or more different ones each"
            )
        return parts, rest

    @property
    def notes(self) -> list[str]:
        """Notes on what was held out."""
        parts = " and ".join(f"{share:.0%} for {part}" for part, share in self.shares.items())
        notes = [
            f"there is no {' and no '.join(self.shares)}: about {parts} are held out of the "
            "training images by a hash of each image's content, which renamed or added files do "
            "not change"
        ]
        if self._few:
            notes.append(
                "classes too small for these shares, whose split may change with added images: "
                f"{listed([*self._few], 10)}"
            )
        return notes
