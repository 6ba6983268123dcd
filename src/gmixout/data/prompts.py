"""The default prompt of a zero-shot head, and the names of classes in prompts.

Prompts of a data set are with it, see `Source.prompts`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gmixout.errors import needs

PLAIN = ("a photo of a {}.",)
"""CLIP's default prompt (Radford et al. 2021, section 3.1.4)."""

_SYNSET = re.compile(r"n\d{8}")

_TWINS = {744: "projectile", 836: "sunglass"}
"""OpenAI's list has "missile" and "sunglasses" twice; here the second names are WordNet's."""


def class_texts(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the text of each class in a prompt.

    ImageNet's classes, as WordNet ids or as the 1000 WordNet names in their order, have the names
    that OpenAI chose for CLIP; others are taken as they are, with spaces for underscores.
    """
    if is_imagenet(classes):
        return tuple(_imagenet_texts().values())
    known = _imagenet_texts() if any(map(_SYNSET.fullmatch, classes)) else {}
    return tuple(known.get(name, name.replace("_", " ")) for name in classes)


def is_imagenet(classes: Sequence[str]) -> bool:
    """Return whether these are ImageNet's 1000 classes in order, under any known naming.

    WordNet ids, WordNet names (all synonyms, "tench, Tinca tinca", or the first), or OpenAI's.
    """
    return len(classes) == 1000 and imagenet_rows(classes) == list(range(1000))


def imagenet_rows(classes: Sequence[str]) -> list[int] | None:
    """Return the place of each class among ImageNet's 1000; None if one of them is not there.

    All 1000 in order may have any name that `is_imagenet` knows; some of them, or another order,
    WordNet ids or WordNet names that no second class has.
    """
    with needs("timm", "vision"):
        from timm.data.imagenet_info import ImageNetInfo
    info: Any = ImageNetInfo("imagenet-1k")
    namings = [info.label_names(), info.label_descriptions()]
    if len(classes) == 1000:
        with needs("open_clip_torch", "vision"):
            from open_clip import IMAGENET_CLASSNAMES
        namings += [_distinct(IMAGENET_CLASSNAMES), IMAGENET_CLASSNAMES]
    given = _first_names(classes)
    for naming in namings:
        known = _first_names(naming)
        if given == known:
            return list(range(1000))
        times = Counter(known)
        rows = {name: row for row, name in enumerate(known) if times[name] == 1}
        if rows.keys() >= {*given} and len({*given}) == len(given):
            return [rows[name] for name in given]
    return None


def _first_names(names: Sequence[str]) -> list[str]:
    """Return the part of each name before its first comma."""
    return [name.partition(",")[0].strip() for name in names]


def _imagenet_texts() -> dict[str, str]:
    """Return OpenAI's name for each WordNet id of ImageNet, in ImageNet's order."""
    with needs("timm", "vision"):
        from timm.data.imagenet_info import ImageNetInfo
    with needs("open_clip_torch", "vision"):
        from open_clip import IMAGENET_CLASSNAMES
    info: Any = ImageNetInfo("imagenet-1k")
    return dict(zip(info.label_names(), _distinct(IMAGENET_CLASSNAMES), strict=True))


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_TWINS.get(label, name) for label, name in enumerate(names))
