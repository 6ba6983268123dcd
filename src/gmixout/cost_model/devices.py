"""Published figures of GPUs."""

from dataclasses import dataclass
from difflib import get_close_matches

import torch

from gmixout.errors import ConfigError


@dataclass(frozen=True)
class DeviceSpec:
    """A GPU, by its vendor's figures. Rates are dense, without structured sparsity."""

    title: str
    bandwidth: float
    """Memory bandwidth, bytes a second."""
    half: float
    """Floating-point operations a second of matrix products in bfloat16 or float16, with float32
    sums."""
    tf32: float
    """The same in TF32, which convolutions in float32 use by torch's default."""
    single: float
    """The same in float32, outside of tensor cores."""
    multiprocessors: int
    memory_bytes: int
    source: str
    """Document of the vendor that has these figures."""
    bandwidth_reached: float = 1.0
    """Of the bandwidth, against an H100's share of its own: fitted where there is a measurement of
    full finetuning, else assumed to be the same."""

    def rate(self, dtype: torch.dtype, convolution: bool = False) -> float:
        """Return the floating-point operations a second of products of a type."""
        if dtype in (torch.bfloat16, torch.float16):
            return self.half
        if dtype == torch.float64:
            return self.single / 2
        return self.tf32 if convolution else self.single


_GB = 2**30

DEVICES: dict[str, DeviceSpec] = {
    "h100": DeviceSpec(
        "NVIDIA H100 SXM5 80 GB", 3.35e12, 989.4e12, 494.7e12, 66.9e12, 132, 80 * _GB,
        "NVIDIA H100 Tensor Core GPU Datasheet; NVIDIA H100 Tensor Core GPU Architecture, table 2",
    ),
    "h200": DeviceSpec(
        "NVIDIA H200 SXM 141 GB", 4.8e12, 989.4e12, 494.7e12, 66.9e12, 132, 141 * 10**9,
        "NVIDIA H200 Tensor Core GPU Datasheet; multiprocessors as of the H100", 0.8,
    ),
    "a100": DeviceSpec(
        "NVIDIA A100 SXM4 80 GB", 2.039e12, 312e12, 156e12, 19.5e12, 108, 80 * _GB,
        "NVIDIA A100 Tensor Core GPU Datasheet; NVIDIA A100 Tensor Core GPU Architecture, table 1",
    ),
    "l4": DeviceSpec(
        "NVIDIA L4 24 GB", 300e9, 121e12, 60.5e12, 30.3e12, 58, 24 * 10**9,
        "NVIDIA L4 Tensor Core GPU Datasheet (there with sparsity: 242 and 120 TFLOPS); "
        "NVIDIA Ada GPU Architecture V2, appendix",
    ),
    "rtx4090": DeviceSpec(
        "NVIDIA GeForce RTX 4090 24 GB", 1008e9, 165.2e12, 82.6e12, 82.6e12, 128, 24 * _GB,
        "NVIDIA Ada GPU Architecture, appendix A, table 2 (FP16 and BF16 with FP32 accumulate)",
    ),
    "rtx3090": DeviceSpec(
        "NVIDIA GeForce RTX 3090 24 GB", 936e9, 71e12, 35.6e12, 35.6e12, 82, 24 * _GB,
        "NVIDIA Ampere GA102 GPU Architecture, appendix A (FP16 and BF16 with FP32 accumulate)",
    ),
}  # fmt: skip
"""GPUs by the names that users type."""


def get_device(name: str) -> DeviceSpec:
    """Return the figures of a GPU.

    Args:
        name: Its name in `DEVICES`.

    Raises:
        ConfigError: It has none.
    """
    if found := DEVICES.get(name.lower().replace(" ", "").replace("-", "").replace("_", "")):
        return found
    close = get_close_matches(name.lower(), DEVICES, 1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"device_spec={name} is not a GPU with known figures: {meant}known are {', '.join(DEVICES)}"
    )
