"""The Mixout family: settings of one masking process, none with code of its own."""

from dataclasses import make_dataclass
from typing import Any, get_type_hints

import docstring_parser

from gmixout.core import config
from gmixout.core.attach import attach
from gmixout.core.config import GMixout
from gmixout.methods.base import Finetuning, Method, preset
from gmixout.methods.style import AMBER, BROWN, GREEN, RED, Style
from gmixout.models.pretrained import Pretrained


class _Masked(Method):
    """A masking process; its options are the fields of `GMixout` except the seed, the run's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._config(seed=0)

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Attaches the process."""
        return attach(pretrained.model, self._config(seed), head=pretrained.head)

    def _config(self, seed: int) -> GMixout:
        return GMixout(**vars(self), seed=seed)


def _options(settings: GMixout) -> dict[str, Any]:
    """The options of a method that is this process."""
    return {name: value for name, value in vars(settings).items() if name != "seed"}


def _as_method(name: str, summary: str, style: Style) -> type[_Masked]:
    """The method whose fields, types and texts are those of `GMixout`."""
    types = get_type_hints(GMixout)
    texts = docstring_parser.parse_from_object(GMixout).params
    args = [f"    {text.arg_name}: {' '.join((text.description or '').split())}" for text in texts]
    namespace = {
        "__doc__": "\n".join([summary, "", "Args:", *args]),
        "__module__": __name__,
        "style": style,
    }
    options = [(name, types[name], value) for name, value in _options(GMixout()).items()]
    return make_dataclass(name, options, bases=(_Masked,), frozen=True, namespace=namespace)


gmixout = _as_method(
    "gmixout",
    "GMixout (arXiv 2510.06982): trains a small random part of the weights for a period, then\n"
    "lets a moving anchor take up a share of the change, and draws the next part.",
    Style("GMixout", RED, "D", main=True),
)
# At the 0.9 of High-Rate Mixout, which is the library's default, the two would be one method
mixout = preset(
    gmixout,
    "mixout",
    "Mixout (arXiv 1909.11299): every step puts a new random part of the weights back to\n"
    "their pretrained values.",
    Style("Mixout", GREEN, "^", main=True),
    **_options(config.mixout(mask_rate=0.7)),
)
high_rate_mixout = preset(
    mixout,
    "high_rate_mixout",
    "High-Rate Mixout (arXiv 2510.06955): Mixout with most of the weights put back:\n"
    "0.9 for vision transformers; the paper uses 0.8 for ResNets.",
    Style("High-Rate Mixout", GREEN, "v", "dash"),
    **_options(config.high_rate_mixout()),
)
random_mask = preset(
    gmixout,
    "random_mask",
    "Random Mask (arXiv 2405.02596): trains one random part of the weights, the same all along.",
    Style("Random Mask", AMBER, "s", "dash", main=True),
    **_options(config.random_mask()),
)
dropconnect = preset(
    gmixout,
    "dropconnect",
    "DropConnect (Wan et al., ICML 2013): Mixout with zero in place of the pretrained values.",
    Style("DropConnect", BROWN, "P", "dash"),
    **_options(config.dropconnect()),
)
