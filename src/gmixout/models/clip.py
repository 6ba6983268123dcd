"""CLIP models as classifiers: an image tower and a linear head made from text."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    texts: Sequence[str],
    templates: Sequence[str],
) -> Tensor:
    """Return the weight of the zero-shot head.

    For each class: the mean over templates of the normalized text features, normalized again,
    times `exp(logit_scale)`. A logit bias (SigLIP's) would be the same for all classes and is
    omitted.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
        ICML 2021, section 3.1.4; the scale in the head is that of WiSE-FT's code.

    Args:
        encode: Texts to features `[N, features]`.
        logit_scale: CLIP's, the logarithm of the scale of similarities.
        texts: The text of each class in the prompts.
        templates: The prompts.

    Returns:
        `[classes, features]`.
    """
    prompts = [template.format(text) for text in texts for template in templates]
    features = torch.cat(
        [
            functional.normalize(encode(prompts[start : start + TEXTS_AT_ONCE]), dim=-1)
            for start in range(0, len(prompts), TEXTS_AT_ONCE)
        ]
    )
    means = features.reshape(len(texts), len(templates), -1).mean(1)
    return functional.normalize(means, dim=-1) * logit_scale.exp()


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
        ConfigError: Two classes have one text, or a template has no place for the class.
    """
    if request.head == "random":
        layer = nn.Linear(encode(["size"]).shape[1], len(request.classes), bias=False)
        draw_head(layer, request.seed)
        return layer.weight.detach(), f"random head (seed {request.seed})"
    texts, templates = class_texts(request.classes), request.templates or PLAIN
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise ConfigError(
            f"two classes are called {twice[0]!r}, so a zero-shot head cannot tell them apart: "
            "rename one, or use head=random"
        )
    for template in templates:
        if template.format("x") == template.format("y"):
            raise ConfigError(f"the prompt {template!r} must have {{}} where the class belongs")
    model.to(request.device)
    weight = zero_shot_weight(encode, logit_scale, texts, templates).cpu()
    model.cpu()
    return weight, f"zero-shot head of {len(templates)} prompts per class"
