"""CLIP models as classifiers: an image tower and a linear head made from text."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gmixout.data.prompt_files import PLACE, Templates
from gmixout.data.prompts import PLAIN, class_texts
from gmixout.errors import ConfigError
from gmixout.models.pretrained import Request, draw_head

TEXTS_AT_ONCE = 256


class ClipClassifier(nn.Module):
    """An image tower with normalized features, and a linear head without bias.

    With the zero-shot head the logits are CLIP's: scaled cosine similarities of image and text.
    The head is a part of the state dict, so that an interpolation of weights (WiSE-FT) starts at
    the zero-shot classifier.

    Args:
        visual: Images `[B, 3, H, W]` to features `[B, features]`.
        weight: `[classes, features]`, what the head starts at.
    """

    def __init__(self, visual: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.visual = visual
        classes, features = weight.shape
        self.head = nn.Linear(features, classes, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `[B, classes]` of images `[B, 3, H, W]`."""
        logits: Tensor = self.head(functional.normalize(self.visual(images), dim=-1))
        return logits

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the tower's activations in the backward pass instead of keeping them."""
        self.visual.set_grad_checkpointing(enable)  # type: ignore[operator]


def zero_shot_weight(
    encode: Callable[[list[str]], Tensor],
    logit_scale: Tensor,
    prompts: Sequence[Sequence[str]],
) -> Tensor:
    """Return the weight of the zero-shot head.

    For each class: the mean over prompts of the normalized text features, normalized again,
    times `exp(logit_scale)`. A logit bias (SigLIP's) would be the same for all classes and is
    omitted.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
        ICML 2021, section 3.1.4; the scale in the head is that of WiSE-FT's code.

    Args:
        encode: Texts to features `[N, features]`.
        logit_scale: CLIP's, the logarithm of the scale of similarities.
        prompts: The prompts of each class, see `prompts_of_classes`.

    Returns:
        `[classes, features]`.
    """
    every, counts = [each for own in prompts for each in own], [*map(len, prompts)]
    features = torch.cat(
        [
            functional.normalize(encode(every[start : start + TEXTS_AT_ONCE]), dim=-1)
            for start in range(0, len(every), TEXTS_AT_ONCE)
        ]
    )
    if len({*counts}) == 1:
        means = features.reshape(len(prompts), counts[0], -1).mean(1)
    else:
        means = torch.stack([own.mean(0) for own in torch.split(features, counts)])
    return functional.normalize(means, dim=-1) * logit_scale.exp()


def prompts_of_classes(
    classes: Sequence[str], texts: Sequence[str], templates: Templates
) -> list[list[str]]:
    """Return the prompts of each class.

    Args:
        classes: The classes.
        texts: The text of each class in its prompts.
        templates: Prompts of all classes, or those of each class by its name; `{}` stands for the
            text.
    """
    own = [templates[name] if isinstance(templates, Mapping) else templates for name in classes]
    # not str.format: a template may come from anybody's file, and hold other braces
    return [
        [template.replace(PLACE, text) for template in each]
        for text, each in zip(texts, own, strict=True)
    ]


@torch.no_grad()
def head_weight(
    request: Request,
    model: nn.Module,
    encode: Callable[[list[str]], Tensor],
    logit_scale: Tensor,
) -> tuple[Tensor, str]:
    """Return the requested weight, `[classes, features]`, and a description.

    Args:
        request: Names the head, classes, prompts and the device.
        model: The whole CLIP, on the CPU before and after.
        encode: Texts to features, by `model` on the device.
        logit_scale: See `zero_shot_weight`.

    Raises:
        ConfigError: Two classes have the same prompts.
    """
    if request.head == "random":
        layer = nn.Linear(encode(["size"]).shape[1], len(request.classes), bias=False)
        draw_head(layer, request.seed)
        return layer.weight.detach(), f"random head (seed {request.seed})"
    texts, templates = request.texts or class_texts(request.classes), request.templates or PLAIN
    for template in () if isinstance(templates, Mapping) else templates:
        if PLACE not in template:
            raise ConfigError(f"the prompt {template!r} must have {PLACE} where the class belongs")
    prompts = prompts_of_classes(request.classes, texts, templates)
    for place, text in enumerate(texts):
        if prompts[place] in prompts[:place]:
            raise ConfigError(
                f"two classes are called {text!r}, so a zero-shot head cannot tell them apart: "
                "rename one, give names with --class-names, or use head=random"
            )
    model.to(request.device)
    weight = zero_shot_weight(encode, logit_scale, prompts).cpu()
    model.cpu()
    counts = sorted({len(own) for own in prompts})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return weight, f"zero-shot head of {many} prompts per class"
