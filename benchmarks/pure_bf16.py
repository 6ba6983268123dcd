"""The digits benchmark with a model whose weights and activations are bfloat16.

    cd benchmarks
    gmixout compare --benchmark pure_bf16:digits --methods "full,gmixout(biases=masked)"

Only the head stays in float32, as the README recommends: its gradients are small, and logits want
the digits. Masked values are float32 in any model; what full finetuning trains is bfloat16.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gmixout.data import Benchmark
from gmixout.data.digits import digits as load_digits
from gmixout.models import Pretrained, digits_vit

__all__ = ["digits"]


def digits() -> tuple[Benchmark[Any], Pretrained]:
    """Return digits and its small vision transformer in bfloat16."""
    pretrained = digits_vit()
    model: Any = pretrained.model.bfloat16()
    model.head.float()
    model.register_forward_pre_hook(_to_bfloat16)
    model.head.register_forward_pre_hook(_to_float32)
    return replace(load_digits(), name="digits in bfloat16"), pretrained


def _to_bfloat16(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    del module
    return (inputs[0].to(torch.bfloat16),)


def _to_float32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    del module
    return (inputs[0].float(),)
