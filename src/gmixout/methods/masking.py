"""The Mixout family: settings of one masking process, without code of their own."""

from dataclasses import make_dataclass, replace
from typing import Any, get_type_hints

from gmixout.core import config
from gmixout.core.attach import attach
from gmixout.core.config import GMixout
from gmixout.methods.base import Finetuning, Method, preset
from gmixout.methods.style import AMBER, BROWN, GREEN, RED, Style
from gmixout.models.pretrained import Pretrained
from gmixout.named import defaults_of

LEAST_PERIODS = 10
"""Fewest periods of a run, where the user does not set their length: on real weights runs of 10, 20
and 40 periods were level (docs/real.md), and no run with fewer was measured."""


class _Masked(Method):
    """A masking process; its options are the fields of `GMixout` except the seed, the run's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._config(seed=0)

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Attach the process."""
        return attach(pretrained.model, self._config(seed), head=pretrained.head)

    def suited(self, steps: int) -> Method:
        """Return the method with a shorter period, where a run would have too few of them."""
        usual = defaults_of(type(self))["resample_every"]
        every, most = vars(self)["resample_every"], max(1, steps // LEAST_PERIODS)
        if every is None or every != usual or every <= most:
            return self
        return replace(self, resample_every=most)  # type: ignore[type-var]

    def _config(self, seed: int) -> GMixout:
        return GMixout(**vars(self), seed=seed)


def _options(settings: GMixout) -> dict[str, Any]:
    """Return the options of a method that is this process."""
    return {name: value for name, value in vars(settings).items() if name != "seed"}


def _help_texts() -> list[str]:
    """Return the help text of each option; none without the parser, which only the help needs."""
    try:
        import docstring_parser
    except ImportError:
        return []
    texts = docstring_parser.parse_from_object(GMixout).params
    return [f"    {text.arg_name}: {' '.join((text.description or '').split())}" for text in texts]


def _as_method(name: str, summary: str, style: Style) -> type[_Masked]:
    """Return the method whose fields, types and help texts are those of `GMixout`."""
    types = get_type_hints(GMixout)
    namespace = {
        "__doc__": "\n".join([summary, "", "Args:", *_help_texts()]),
        "__module__": __name__,
        "style": style,
    }
    options = [(name, types[name], value) for name, value in _options(GMixout()).items()]
    return make_dataclass(name, options, bases=(_Masked,), frozen=True, namespace=namespace)


gmixout = _as_method(
    "gmixout",
    "GMixout (arXiv 2510.06982): trains a small random subset of the weights for a period, then\n"
    "adds a share of the change to a moving anchor, and draws the next subset.",
    Style("GMixout", RED, "D", main=True),
)
# At 0.9 it would be High-Rate Mixout
mixout = preset(
    gmixout,
    "mixout",
    "Mixout (arXiv 1909.11299): every step resets a new random subset of the weights to\n"
    "their pretrained values.",
    Style("Mixout", GREEN, "^", main=True),
    **_options(config.mixout(mask_rate=0.7)),
)
high_rate_mixout = preset(
    mixout,
    "high_rate_mixout",
    "High-Rate Mixout (arXiv 2510.06955): Mixout with most of the weights reset:\n"
    "0.9 for vision transformers; the paper uses 0.8 for ResNets.",
    Style("High-Rate Mixout", GREEN, "v", "dash"),
    **_options(config.high_rate_mixout()),
)
random_mask = preset(
    gmixout,
    "random_mask",
    "Random Mask (arXiv 2405.02596): trains one fixed random subset of the weights.",
    Style("Random Mask", AMBER, "s", "dash", main=True),
    **_options(config.random_mask()),
)
dropconnect = preset(
    gmixout,
    "dropconnect",
    "DropConnect (Wan et al., ICML 2013): Mixout with zero instead of the pretrained values.",
    Style("DropConnect", BROWN, "P", "dash"),
    **_options(config.dropconnect()),
)
