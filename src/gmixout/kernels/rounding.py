"""Rounding to half precision that keeps the mean."""

import math

import torch
from torch import Tensor


def round_randomly(tensor: Tensor, dtype: torch.dtype, uniform: Tensor) -> Tensor:
    """Round float32 to a narrower dtype, up or down at random, so that the mean is kept.

    Args:
        tensor: What to round, of any shape.
        dtype: float16 or bfloat16.
        uniform: Random numbers in [0, 1), of the tensor's shape.
    """
    digits = 1 - round(math.log2(torch.finfo(dtype).eps))
    step = torch.ldexp(torch.ones_like(tensor), torch.frexp(tensor).exponent - digits)
    return ((tensor / step + uniform).floor() * step).to(dtype)
