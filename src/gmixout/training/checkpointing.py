"""Gradient checkpointing: recompute activations in the backward pass instead of keeping them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gmixout.errors import ConfigError
from gmixout.models.clip import ClipClassifier
from gmixout.models.pretrained import Pretrained

_SWITCHES = ("grad_checkpointing", "gradient_checkpointing", "activation_checkpointing")
"""Attributes by which modules of timm and open_clip, and of transformers, are switched."""


@contextmanager
def checkpointed(pretrained: Pretrained, freeze_batch_norm: bool = True) -> Iterator[None]:
    """Switch on the gradient checkpointing that the model's library provides, in the context.

    Random draws are repeated in the second forward pass, so the gradients are the same.

    Args:
        pretrained: The model.
        freeze_batch_norm: Batch norms do not update their statistics.

    Raises:
        ConfigError: The model has none, or it would update batch-norm statistics twice a step.
    """
    model = pretrained.model
    if not freeze_batch_norm and any(isinstance(each, _BatchNorm) for each in model.modules()):
        raise ConfigError(
            "checkpointing repeats parts of the forward pass, which would update batch-norm "
            "statistics twice: leave freeze_batch_norm on, or checkpointing off"
        )
    switch = getattr(model, "set_grad_checkpointing", None)
    try:
        if callable(switch):
            switch(True)
    except (AssertionError, AttributeError, NotImplementedError, ValueError):
        switch = None  # how the libraries' models say that they have none
    if not callable(switch) or not is_checkpointed(model):
        raise ConfigError(
            f"checkpointing=True: {pretrained.name} ({_class_of(model)}) has no gradient "
            "checkpointing. To save memory use --accumulate N or a smaller --batch-size"
        )
    try:
        yield
    finally:
        switch(False)


def is_checkpointed(model: nn.Module) -> bool:
    """Return whether any module recomputes its activations."""
    return any(getattr(each, name, False) is True for each in model.modules() for name in _SWITCHES)


def _class_of(model: nn.Module) -> str:
    """Return the class of a model; of a CLIP, that of its image tower."""
    return type(model.visual if isinstance(model, ClipClassifier) else model).__name__
