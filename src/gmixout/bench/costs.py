"""What runs take, by what was measured of a few of their steps: arithmetic alone."""

import heapq
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """The runs of one method, and what each of them takes."""

    name: str
    runs: int
    models: int
    """Models that are evaluated of a run."""
    steps: int = 0
    step_seconds: float = 0.0
    """Without the loading of the data."""
    peak_memory_bytes: int = 0
    """Of training, above the loaded model."""
    trainable: int = 0
    """Values that are trained."""
    fits: bool = True
    """Whether the device's memory was enough."""


@dataclass(frozen=True)
class Costs:
    """What all runs take."""

    kinds: tuple[Kind, ...]
    soups: int
    """Models made of several runs."""
    images: int
    """Images that a model is evaluated on."""
    batch_size: int
    """Images of a step."""
    loading: float
    """Seconds in which an image is loaded, by all loading processes of a run together."""
    forward: float
    """Seconds in which a model answers an image."""
    processes: int
    """Processes that load images beside each training process."""
    workers: int
    """Runs at a time."""
    devices: int
    """Devices that the runs are spread over."""
    model_bytes: int
    evaluation_bytes: int
    """Peak memory of an evaluation, above the loaded model."""

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(kind.runs for kind in self.kinds)

    @property
    def evaluation_seconds(self) -> float:
        """Of one model on all test sets."""
        return self.images * self._pace(self.forward, self.loading)

    def step_seconds(self, kind: Kind) -> float:
        """Of one step with the loading of its batch."""
        return self._pace(kind.step_seconds, self.batch_size * self.loading)

    def run_seconds(self, kind: Kind) -> float:
        """Of one run with the evaluations of its models."""
        return kind.steps * self.step_seconds(kind) + kind.models * self.evaluation_seconds

    @property
    def seconds(self) -> float:
        """Of all runs that fit, each begun as soon as a worker is free, and of the soups then."""
        ends = [0.0] * self.workers
        for kind in self.kinds:
            for _ in range(kind.runs if kind.fits else 0):
                heapq.heapreplace(ends, ends[0] + self.run_seconds(kind))
        return max(ends) + self.soups * self.evaluation_seconds

    @property
    def memory_bytes(self) -> int:
        """Of the runs that share a device, at the highest."""
        peak = max([self.evaluation_bytes, *(kind.peak_memory_bytes for kind in self.kinds)])
        return -(-self.workers // self.devices) * (self.model_bytes + peak)

    @property
    def disk_bytes(self) -> int:
        """Of a model file a run and soup, and on the way of three checkpoints with two moments."""
        return self.model_bytes * (self.runs + self.soups + 9 * self.workers)

    def _pace(self, computing: float, loading: float) -> float:
        """Seconds of both: processes of their own load while the model computes."""
        return max(computing, loading) if self.processes else computing + loading
