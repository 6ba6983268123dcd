"""Cost estimates of runs from measurements of a few steps: pure arithmetic."""

import heapq
from dataclasses import dataclass


@dataclass(frozen=True)
class MethodCosts:
    """The runs of one method, and the cost of each."""

    name: str
    runs: int
    models: int
    """Evaluated models per run."""
    validations: int = 0
    """Validations per run that choose the model to keep."""
    steps: int = 0
    step_seconds: float = 0.0
    """Seconds of a step without loading its data."""
    peak_memory_bytes: int = 0
    """Peak memory of training, above the loaded model."""
    trainable: int = 0
    """Number of trained values."""
    fits: bool = True
    """True if the device's memory is enough."""


@dataclass(frozen=True)
class Costs:
    """Costs of all runs."""

    kinds: tuple[MethodCosts, ...]
    soups: int
    """Models made from several runs."""
    images: int
    """Images in all test sets."""
    batch_size: int
    """Images per step."""
    loading: float
    """Seconds to load an image, with all loading processes of a run."""
    forward: float
    """Seconds to evaluate an image."""
    processes: int
    """Loading processes per training process."""
    workers: int
    """Runs at a time."""
    devices: int
    """Devices that share the runs."""
    id_val_images: int
    """Images in the in-domain validation set."""
    model_bytes: int
    evaluation_bytes: int
    """Peak memory of an evaluation, above the loaded model."""

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(kind.runs for kind in self.kinds)

    @property
    def evaluation_seconds(self) -> float:
        """Seconds to evaluate one model on all test sets."""
        return self.images * self._pace(self.forward, self.loading)

    def step_seconds(self, kind: MethodCosts) -> float:
        """Return the seconds of one step, with loading its batch."""
        return self._pace(kind.step_seconds, self.batch_size * self.loading)

    def run_seconds(self, kind: MethodCosts) -> float:
        """Return the seconds of one run, with the evaluations of its models."""
        validations = kind.validations * self.id_val_images * self._pace(self.forward, self.loading)
        evaluations = kind.models * self.evaluation_seconds
        return kind.steps * self.step_seconds(kind) + evaluations + validations

    @property
    def seconds(self) -> float:
        """Seconds of all runs that fit, each started when a worker is free, then of the soups."""
        ends = [0.0] * self.workers
        for kind in self.kinds:
            for _ in range(kind.runs if kind.fits else 0):
                heapq.heapreplace(ends, ends[0] + self.run_seconds(kind))
        return max(ends) + self.soups * self.evaluation_seconds

    @property
    def memory_bytes(self) -> int:
        """Peak memory of the runs that share a device."""
        peak = max([self.evaluation_bytes, *(kind.peak_memory_bytes for kind in self.kinds)])
        return -(-self.workers // self.devices) * (self.model_bytes + peak)

    @property
    def disk_bytes(self) -> int:
        """Disk for a model file per run and soup, and for three checkpoints with two moments."""
        return self.model_bytes * (self.runs + self.soups + 9 * self.workers)

    def _pace(self, computing: float, loading: float) -> float:
        """Return the seconds of both: separate processes load while the model computes."""
        return max(computing, loading) if self.processes else computing + loading
