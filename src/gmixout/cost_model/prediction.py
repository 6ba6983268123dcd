"""The time and memory of a traced step on a GPU, by its figures."""

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, fields

from gmixout.cost_model.calibration import CALIBRATED_ON_H100, Calibration
from gmixout.cost_model.devices import DeviceSpec
from gmixout.cost_model.operations import Operation, WorkKind
from gmixout.cost_model.tracing import Trace

TILE = 128
"""Side of the part of a product's result that a multiprocessor computes at a time."""


QUEUE = 1024
"""Kernels that CUDA's host can be ahead by."""


@dataclass(frozen=True)
class Part:
    """A part of a step: its operations of one kind or name."""

    calls: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    """Predicted."""
    limit_seconds: float = 0.0
    """The longer of bytes over bandwidth and operations over the matrix rate, operation by
    operation: no kernel is faster without a cache."""

    def __add__(self, other: "Part") -> "Part":
        """Return both together."""
        return Part(
            self.calls + other.calls,
            self.bytes + other.bytes,
            self.flops + other.flops,
            self.seconds + other.seconds,
            self.limit_seconds + other.limit_seconds,
        )

    def __mul__(self, times: float) -> "Part":
        """Return this many of it."""
        return Part(*(times * getattr(self, each.name) for each in fields(self)))


@dataclass(frozen=True)
class Prediction:
    """What a step takes, in the mean over the traced ones."""

    seconds: float
    """Seconds of a step."""
    host_seconds: float
    """Seconds that the host needs to call all operations, most of them while the GPU computes."""
    parts: Mapping[WorkKind, Part]
    """What the GPU does, by the kind of operation."""
    peak_bytes: int
    """Most memory of what training makes, above the weights: activations, gradients, optimizer
    state."""

    @property
    def total(self) -> Part:
        """All that the GPU does."""
        return sum(self.parts.values(), Part())


def predict_step(
    trace: Trace, device: DeviceSpec, calibration: Calibration = CALIBRATED_ON_H100
) -> Prediction:
    """Predict the time and memory of a step on a GPU.

    Args:
        trace: The traced steps.
        device: The GPU.
        calibration: How much of its figures kernels reach.
    """
    operations = trace.operations
    each = {operation: part_of(operation, device, calibration) for operation in operations}
    parts: defaultdict[WorkKind, Part] = defaultdict(Part)
    for operation, calls in operations.items():
        parts[operation.kind] += each[operation] * (calls / trace.steps)
    seconds = _elapsed(trace, {op: part.seconds for op, part in each.items()}, calibration)
    host = len(trace.calls) / trace.steps * calibration.host_seconds
    return Prediction(seconds / trace.steps, host, dict(parts), trace.peak_bytes)


def _elapsed(trace: Trace, seconds: Mapping[Operation, float], calibration: Calibration) -> float:
    """Return the time of all steps, when others come before: the host calls, the GPU follows.

    The host is ahead by at most `QUEUE` kernels, so many small ones in a row keep the GPU waiting,
    although the host is faster on the whole.
    """
    host = device = begun = 0.0
    ends: deque[float] = deque(maxlen=QUEUE)
    for _ in range(2):
        begun = device
        for call in trace.calls:
            host += calibration.host_seconds
            if call is not None:
                if len(ends) == QUEUE:
                    host = max(host, ends[0])
                device = max(device, host) + seconds[call]
                ends.append(device)
    return device - begun


def part_of(
    operation: Operation, device: DeviceSpec, calibration: Calibration = CALIBRATED_ON_H100
) -> Part:
    """Return what one call of an operation takes."""
    rate = device.rate(operation.dtype, operation.kind is WorkKind.CONVOLUTION)
    moving, computing = operation.bytes / device.bandwidth, operation.flops / rate
    width, speed = _reached(operation, device, calibration)
    seconds = max(moving / width / device.bandwidth_reached, computing / speed)
    seconds += operation.launches * calibration.launch_seconds
    return Part(1, operation.bytes, operation.flops, seconds, max(moving, computing))


def _reached(
    operation: Operation, device: DeviceSpec, calibration: Calibration
) -> tuple[float, float]:
    """Return the shares of the bandwidth and of the matrix rate that an operation reaches."""
    wide = calibration.stream
    match operation.kind:
        case WorkKind.PRODUCT:
            filled = _filled(operation, device) ** calibration.thin
            return wide * filled, calibration.product * filled
        case WorkKind.ATTENTION:
            return wide, calibration.attention
        case WorkKind.CONVOLUTION:
            return wide, calibration.convolution
    by_kind = {
        WorkKind.NORM: calibration.norm,
        WorkKind.REDUCTION: calibration.reduction,
        WorkKind.GATHER: calibration.gather,
        WorkKind.STRIDED: calibration.strided,
    }
    return by_kind.get(operation.kind, wide), 1.0


def _filled(operation: Operation, device: DeviceSpec) -> float:
    """Return the share of the multiprocessors that a product's tiles keep busy."""
    if operation.sides is None:
        return 1.0
    count, m, n, _ = operation.sides
    return min(1.0, count * math.ceil(m / TILE) * math.ceil(n / TILE) / device.multiprocessors)
