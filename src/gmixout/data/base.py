"""The type of a benchmark: data sets of one task, in and out of domain."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import TypeVar

from gmixout.tasks import DEFAULT_TASK, LearningTask

Examples: TypeAlias = Dataset[tuple[Tensor, int | Tensor]]
"""Items are `(image [C, H, W], label)`; a label is a class, or `[outputs]` for other tasks."""

RESIDENT_BYTES = 2**28
"""Largest images, of one data set, that a GPU holds beside model and activations."""


class LabelledImages(Examples):
    """Images in memory, with their labels.

    Args:
        images: `[N, C, H, W]`, float32.
        labels: `[N]`, int64; or `[N, outputs]`, float32, for tasks of several labels or numbers.
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
        self._copies: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        return self.images[index], label_at(self.labels, index)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: not the copies on devices."""
        return {**vars(self), "_copies": {}}

    def on(self, device: torch.device) -> "LabelledImages":
        """Return the same examples with the images on a device; they are copied there once.

        Images of more than `RESIDENT_BYTES` stay where they are.
        """
        if self.images.nbytes > RESIDENT_BYTES:
            return self
        if device not in self._copies:
            self._copies[device] = self.images.to(device)
        there = copy.copy(self)
        there.images = self._copies[device]
        return there


def label_at(labels: Tensor, index: int) -> int | Tensor:
    """Return the label of an example: a class, or `[outputs]` of labels `[N, outputs]`."""
    return labels[index] if labels.dim() > 1 else int(labels[index])


Set = TypeVar("Set", bound=Examples, covariant=True, default=Examples)
Other = TypeVar("Other", bound=Examples)

DEV_PREFIX = "dev/"
"""Prefix of the names of `Benchmark.dev_tests`."""
UNKNOWN_PREFIX = "unknown/"
"""Prefix of the names of `Benchmark.unknown_tests`."""


@dataclass(frozen=True)
class Benchmark(Generic[Set]):
    """A task with its domain shifts.

    Items of every data set are `(image, label)`; the image is `[C, H, W]`, or Pillow's until the
    sets get a transform (`map`). A set may have a group for each of its images (`groups`, `[N]`
    int64) with names (`group_names`), and may have its own classes (`project` maps logits of the
    benchmark's classes to the set's).

    Shifts are named `group` or `group/part`; mean OOD accuracy is the mean over groups of the mean
    over a group's parts.
    """

    name: str
    """Its name in records."""
    classes: tuple[str, ...]
    """Names of the model's outputs. Of classes a label is a position in this tuple, in sets without
    classes of their own."""
    train: Set
    """Training images."""
    id_val: Set
    """In-domain validation: every choice (learning rate, alpha, soup) is made on it."""
    id_test: Set
    """In-domain test, reported."""
    shifts: Mapping[str, Set]
    """Test sets of other domains, reported; no choice is made on them."""
    dev_shifts: Mapping[str, Set] = field(default_factory=dict)
    """Other domains, of other kinds, for choosing defaults; never reported."""
    unknown: Mapping[str, Set] = field(default_factory=dict)
    """Images of classes that the task does not have, to measure whether a model notices; their
    labels are those of their own `space`."""
    metric: str = "accuracy"
    """The official metric, a name in `gmixout.evaluation.official.METRICS`: choices are made on it,
    and methods compared by it."""
    extra_metrics: tuple[str, ...] = ()
    """Metrics reported in addition."""
    summary: str | None = None
    """The official summary over all shifts, a name in `gmixout.evaluation.official.SUMMARIES`."""
    notes: tuple[str, ...] = ()
    """Notes for readers of the results, for example on missing parts."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that distinguish it from others of its name, for the hash of a run."""
    task: LearningTask = DEFAULT_TASK
    """What the model is to say of an image."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The official metric and the additional ones."""
        return (self.metric, *self.extra_metrics)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the training domains, if the training set has them; else empty."""
        return tuple(getattr(self.train, "group_names", None) or ())

    @property
    def tests(self) -> dict[str, Set]:
        """The reported sets by name: `id_val`, `id_test` and the shifts."""
        return {"id_val": self.id_val, "id_test": self.id_test, **self.shifts}

    @property
    def dev_tests(self) -> dict[str, Set]:
        """The development shifts, with `DEV_PREFIX` before their names."""
        return {f"{DEV_PREFIX}{name}": images for name, images in self.dev_shifts.items()}

    @property
    def unknown_tests(self) -> dict[str, Set]:
        """The sets of unknown classes, with `UNKNOWN_PREFIX` before their names."""
        return {f"{UNKNOWN_PREFIX}{name}": images for name, images in self.unknown.items()}

    @property
    def sets(self) -> dict[str, Set]:
        """All sets by name."""
        return {"train": self.train, **self.tests, **self.dev_shifts, **self.unknown_tests}

    def map(self, function: Callable[[Set], Other]) -> "Benchmark[Other]":
        """Return the same benchmark with a function applied to every set."""
        sets: Any = {n: function(getattr(self, n)) for n in ("train", "id_val", "id_test")}
        for name in ("shifts", "dev_shifts", "unknown"):
            sets[name] = {n: function(images) for n, images in getattr(self, name).items()}
        changed: Benchmark[Any] = replace(self, **sets)
        return changed
