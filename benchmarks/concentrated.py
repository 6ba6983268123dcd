"""GMixout with a period's masked entries in few layers: a method of one's own, to be measured.

    PYTHONPATH=benchmarks gmixout compare --methods \\
        '[{"class_path": "concentrated.concentrated", "init_args": {"share": 0.1}}]' ...

Backward stops below the lowest layer of a period, and the lowest of K layers drawn of n has, in the
mean, (n - K) / (K + 1) layers below it: the fewer, the less it costs. The share of all masked
entries that a period trains stays `density`, so each chosen layer trains density / share of its own
(all of it, where they are equal: block coordinate descent with a moving anchor). Layers are chosen
anew in each period. Not in the library: docs/speed.md has what came of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import gmixout
from gmixout.core.masks import Row, draw
from gmixout.errors import ConfigError
from gmixout.methods import Finetuning, Method
from gmixout.models import Pretrained


@dataclass(frozen=True)
class Process(gmixout.GMixout):
    """The settings of the process; `mask_rate` is that of a chosen layer."""

    share: float = 1.0

    @property
    def lr_scale(self) -> float:
        """That of the same entries spread over all layers: as long a step in Euclidean length."""
        return super().lr_scale / math.sqrt(self.share)


@dataclass(frozen=True)
class RandomLayers:
    """A schedule of layers drawn at random in each period, each with its bias.

    (When docs/speed.md was measured, biases and norms above the lowest of them were trained, too.)
    """

    share: float

    def active(self, period: int, layers: Sequence[str], seed: int) -> list[str]:
        """The layers that a period trains."""
        shape, count = (len(layers), 1), max(1, round(self.share * len(layers)))
        drawn = draw(Row(), shape, count, seed=seed, name="\0layers", period=period)
        return [layers[i] for i in drawn.tolist()]


@dataclass(frozen=True)
class concentrated(Method):
    """GMixout whose periods train few layers each.

    Args:
        share: Share of the layers that a period trains, in (0, 1].
        density: Share of all masked entries that a period trains, at most `share`.
        structure: What is drawn in a chosen layer.
    """

    share: float = 0.25
    density: float = 0.1
    structure: str = "block"

    def __post_init__(self) -> None:
        if not 0 < self.density <= self.share <= 1:
            raise ConfigError(f"{self}: takes 0 < density <= share <= 1.")

    def start(self, pretrained: Pretrained, seed: int) -> Finetuning:
        """Attaches the process, and draws its layers."""
        process = Process(
            mask_rate=1 - self.density / self.share,
            structure=self.structure,  # type: ignore[arg-type]
            seed=seed,
            share=self.share,
        )
        schedule = RandomLayers(self.share)
        return gmixout.attach(pretrained.model, process, head=pretrained.head, schedule=schedule)
