"""Zero-shot: the pretrained model with its zero-shot head, not trained at all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from gmixout.errors import ConfigError
from gmixout.methods.base import Finetuning, Method
from gmixout.methods.style import GREY, Style
from gmixout.weightspace import State


@dataclass(frozen=True)
class zero_shot(Method):
    """The pretrained model with its zero-shot head, not trained at all."""

    style = Style("zero-shot", GREY, "*", main=True)

    @property
    def trained(self) -> None:
        """There is nothing to train."""
        return None

    def start(self, model: nn.Module, seed: int) -> Finetuning:
        """Refuses: there is nothing to train."""
        del model, seed
        raise ConfigError("method zero_shot trains nothing; evaluate the pretrained model instead")

    def variants(
        self, pretrained: State, finetuned: State
    ) -> Iterator[tuple[dict[str, Any], State]]:
        """Yields the pretrained model."""
        del finetuned
        yield self.options, pretrained
