"""What a benchmark is: data sets of one task, in and out of domain, and the model to start from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils.data import Dataset

Examples: TypeAlias = Dataset[tuple[Tensor, int]]
"""Items are `(image [C, H, W], label)`."""


class LabelledImages(Examples):
    """Images in memory, with their labels.

    Args:
        images: `[N, C, H, W]`, float32.
        labels: `[N]`, int64.
        groups: `[N]`, int64: the domain of each; None: they are of one.
        group_names: Names of the domains.
    """

    in_memory = True

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        groups: Tensor | None = None,
        group_names: tuple[str, ...] = (),
    ) -> None:
        self.images = images
        self.labels = labels
        self.groups = groups
        self.group_names = group_names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


@dataclass(frozen=True)
class Benchmark:
    """A finetuning task with the domain shifts it is judged on.

    Items of every data set are `(image [C, H, W], label)`. Shifts are named `group` or
    `group/part`; mean OOD accuracy is the mean over groups of the mean over a group's parts.
    """

    name: str
    """The key in `BENCHMARKS`."""
    classes: tuple[str, ...]
    """Class names; a label is a position in this tuple."""
    train: Examples
    """What is finetuned on."""
    id_val: Examples
    """In-domain validation: every choice (rate, alpha, soup) is made on it."""
    id_test: Examples
    """In-domain test, reported."""
    shifts: Mapping[str, Examples]
    """Test sets of other domains, reported; no choice is made on them."""
    dev_shifts: Mapping[str, Examples]
    """Other domains, of other kinds, for choosing the library's defaults; never reported."""
    foundation: Callable[[], nn.Module]
    """Gives the pretrained model with its zero-shot head: eval mode, float32, on the CPU."""
    metric: str = "accuracy"
    """The official metric, a name in `gmixout.evaluation.official.METRICS`: what choices are made
    on and what is compared."""
    also: tuple[str, ...] = ()
    """Metrics that are reported beside it."""
    summary: str | None = None
    """The official figure over all shifts, a name in `gmixout.evaluation.official.SUMMARIES`."""
    notes: tuple[str, ...] = ()
    """What a reader of the results has to know: what is not there, what is not as usual."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that tell this benchmark from others of its name (options, sizes, the model),
    for the hash of a run."""
