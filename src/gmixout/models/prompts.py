"""Prompts of zero-shot heads, and how classes are called in them."""

import re
from collections.abc import Sequence
from typing import Any

from gmixout.errors import needs

PLAIN = ("a photo of a {}.",)
"""CLIP's default prompt (Radford et al. 2021, section 3.1.4)."""

_CIFAR = tuple(
    template
    for article in ("a", "the")
    for template in (
        f"a photo of {article} {{}}.",
        f"a blurry photo of {article} {{}}.",
        f"a black and white photo of {article} {{}}.",
        f"a low contrast photo of {article} {{}}.",
        f"a high contrast photo of {article} {{}}.",
        f"a bad photo of {article} {{}}.",
        f"a good photo of {article} {{}}.",
        f"a photo of {article} small {{}}.",
        f"a photo of {article} big {{}}.",
    )
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    # OpenAI's for CIFAR-10 and CIFAR-100 (data/prompts.md of its repository)
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    # WiSE-FT's (src/templates/iwildcam_template.py)
    "iwildcam": ("a photo of {}.", "{} in the wild."),
    # None published with CLIP for these; papers on them mostly use the plain one. It names no
    # domain on purpose: the head is to serve domains that training does not see.
    "domainnet": PLAIN,
    "officehome": PLAIN,
    "pacs": PLAIN,
    "terra_incognita": PLAIN,
    "vlcs": PLAIN,
}
"""Prompts by benchmark. ImageNet's 80 are open_clip's; see `templates_for`."""

_SYNSET = re.compile(r"n\d{8}")

_TWINS = {744: "projectile", 836: "sunglass"}
"""OpenAI's list has "missile" and "sunglasses" twice; here the second names are WordNet's."""


def templates_for(benchmark: str) -> tuple[str, ...]:
    """The prompts of a benchmark, by its name in the data room; the plain one if it has none.

    Benchmarks on ImageNet (`imagenet`, `imagenet_c`, `imagenet_lt`, ...) share OpenAI's 80.

    Raises:
        ConfigError: ImageNet's are asked for, and open_clip is not installed.
    """
    if benchmark.startswith("imagenet"):
        with needs("open_clip_torch", "vision"):
            from open_clip import OPENAI_IMAGENET_TEMPLATES
        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    return TEMPLATES.get(benchmark, PLAIN)


def class_texts(classes: Sequence[str]) -> tuple[str, ...]:
    """What stands for each class in a prompt.

    ImageNet's classes, as WordNet ids or as the 1000 WordNet names in their order, have the names
    that OpenAI chose for CLIP; others are taken as they are, with spaces for underscores.
    """
    if is_imagenet(classes):
        return tuple(_imagenet_texts().values())
    known = _imagenet_texts() if any(map(_SYNSET.fullmatch, classes)) else {}
    return tuple(known.get(name, name.replace("_", " ")) for name in classes)


def is_imagenet(classes: Sequence[str]) -> bool:
    """Whether these are the 1000 classes of ImageNet in their order, by any of their namings.

    WordNet ids, WordNet names (all synonyms, "tench, Tinca tinca", or the first), or OpenAI's.
    """
    if len(classes) != 1000:
        return False
    with needs("timm", "vision"):
        from timm.data.imagenet_info import ImageNetInfo
    with needs("open_clip_torch", "vision"):
        from open_clip import IMAGENET_CLASSNAMES
    info: Any = ImageNetInfo("imagenet-1k")
    given = _first_names(classes)
    namings = (
        info.label_names(),
        info.label_descriptions(),
        _distinct(IMAGENET_CLASSNAMES),
        IMAGENET_CLASSNAMES,
    )
    return any(given == _first_names(names) for names in namings)


def _first_names(names: Sequence[str]) -> list[str]:
    """What stands before the first comma of each."""
    return [name.partition(",")[0].strip() for name in names]


def _imagenet_texts() -> dict[str, str]:
    """OpenAI's name of each WordNet id of ImageNet, in ImageNet's order."""
    with needs("timm", "vision"):
        from timm.data.imagenet_info import ImageNetInfo
    with needs("open_clip_torch", "vision"):
        from open_clip import IMAGENET_CLASSNAMES
    info: Any = ImageNetInfo("imagenet-1k")
    return dict(zip(info.label_names(), _distinct(IMAGENET_CLASSNAMES), strict=True))


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_TWINS.get(label, name) for label, name in enumerate(names))
