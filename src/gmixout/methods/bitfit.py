"""BitFit: only the biases and the head are trained."""

from dataclasses import dataclass

from gmixout.core.selection import within
from gmixout.errors import ConfigError
from gmixout.methods.base import DenseFinetuning, Finetuning, Method
from gmixout.methods.style import PINK, Style
from gmixout.models.pretrained import Pretrained


@dataclass(frozen=True)
class bitfit(Method):
    """BitFit (Ben Zaken et al., ACL 2022, arXiv 2106.10199): trains biases and the head.

    Biases are those of linear, convolutional, attention and normalisation layers.
    """

    style = Style("BitFit", PINK, ">", "dashdot")

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Freezes all but biases and head.

        Raises:
            ConfigError: The model has no biases outside of its head.
        """
        del seed
        model, heads = pretrained.model, pretrained.heads
        trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        if not any(_is_bias(name) and not within(name, heads) for name in trainable):
            raise ConfigError(
                "method bitfit trains biases, and outside of its head this model has none that can "
                "be trained; choose another method, linear_probe say"
            )
        return DenseFinetuning(
            pretrained, select=lambda name: _is_bias(name) or within(name, heads)
        )


def _is_bias(name: str) -> bool:
    # in_proj_bias of attention, q_bias of some models
    return name.rpartition(".")[2].endswith("bias")
