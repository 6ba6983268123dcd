"""How much of a GPU's published figures torch's kernels reach: measured on an H100."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Calibration:
    """Shares of the published figures that kernels reach, and what a call costs.

    One value for all models, methods, shapes and precisions.
    """

    stream: float
    """Of the bandwidth: elementwise operations, casts, concatenations, the optimizer."""
    strided: float
    """Of the bandwidth: copies between two memory layouts."""
    norm: float
    """Of the bandwidth: norms, both ways."""
    reduction: float
    """Of the bandwidth: sums, such as the gradients of biases."""
    gather: float
    """Of the bandwidth, sectors counted whole: gathers and scatters."""
    product: float
    """Of the matrix rate: matrix products."""
    attention: float
    """Of the matrix rate: attention, both ways."""
    convolution: float
    """Of the matrix rate: convolutions."""
    thin: float
    """Exponent: a product with tiles for a share u of the multiprocessors reaches u^thin of the
    product's share. 0 if splitting the sum made up for it, 1 if nothing did."""
    launch_seconds: float
    """From the end of a kernel to the start of the next."""
    host_seconds: float
    """The host's time for one operation of torch; while it is longer than the GPU's, the GPU
    waits."""


CALIBRATED_ON_H100 = Calibration(
    stream=0.811, strided=0.307, norm=0.635, reduction=0.443, gather=0.612, product=0.727,
    attention=0.127, convolution=0.0491, thin=0.141, launch_seconds=1.75e-6, host_seconds=14.7e-6,
)  # fmt: skip
"""Fitted to one H100 by `benchmarks/cost_model.py --fit`; for other GPUs an assumption."""
