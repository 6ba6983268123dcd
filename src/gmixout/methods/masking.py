"""The Mixout family: settings of one masking process, none with code of its own."""

from collections.abc import Callable
from dataclasses import fields, make_dataclass
from functools import cache, partial
from typing import Any, get_type_hints

import docstring_parser
from torch import nn

from gmixout.core import config
from gmixout.core.attach import attach
from gmixout.core.config import GMixout
from gmixout.methods.base import Finetuning, Method
from gmixout.methods.style import AMBER, BROWN, GREEN, RED, Style


class _Masked(Method):
    """A masking process; its options are the fields of `GMixout` except the seed, the run's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._config(seed=0)

    def start(self, model: nn.Module, seed: int) -> Finetuning:
        """Attaches the process."""
        return attach(model, self._config(seed))

    def _config(self, seed: int) -> GMixout:
        return GMixout(**vars(self), seed=seed)


@cache
def _option_texts() -> list[str]:
    """What `GMixout` says of each of its options."""
    texts = docstring_parser.parse_from_object(GMixout).params
    return [f"    {text.arg_name}: {' '.join((text.description or '').split())}" for text in texts]


def _method(name: str, preset: Callable[[], GMixout], summary: str, style: Style) -> type[_Masked]:
    """Makes the class of a preset: its fields, types and texts are those of `GMixout`."""
    types, defaults = get_type_hints(GMixout), preset()
    namespace: dict[str, Any] = {
        "__doc__": "\n".join([summary, "", "Args:", *_option_texts()]),
        "__module__": __name__,
        "style": style,
    }
    options = [
        (field.name, types[field.name], getattr(defaults, field.name))
        for field in fields(GMixout)
        if field.name != "seed"
    ]
    return make_dataclass(name, options, bases=(_Masked,), frozen=True, namespace=namespace)


gmixout = _method(
    "gmixout",
    GMixout,
    "GMixout (arXiv 2510.06982): trains a small random part of the weights for a period, then\n"
    "lets a moving anchor take up a share of the change, and draws the next part.",
    Style("GMixout", RED, "D", main=True),
)
# At the 0.9 of High-Rate Mixout, which is the library's default, the two would be one method
mixout = _method(
    "mixout",
    partial(config.mixout, mask_rate=0.7),
    "Mixout (arXiv 1909.11299): every step puts a new random part of the weights back to\n"
    "their pretrained values.",
    Style("Mixout", GREEN, "^", main=True),
)
high_rate_mixout = _method(
    "high_rate_mixout",
    config.high_rate_mixout,
    "High-Rate Mixout (arXiv 2510.06955): Mixout with most of the weights put back:\n"
    "0.9 for vision transformers; the paper uses 0.8 for ResNets.",
    Style("High-Rate Mixout", GREEN, "v", "dash"),
)
random_mask = _method(
    "random_mask",
    config.random_mask,
    "Random Mask (arXiv 2405.02596): trains one random part of the weights, the same all along.",
    Style("Random Mask", AMBER, "s", "dash", main=True),
)
dropconnect = _method(
    "dropconnect",
    config.dropconnect,
    "DropConnect (Wan et al., ICML 2013): Mixout with zero in place of the pretrained values.",
    Style("DropConnect", BROWN, "P", "dash"),
)
