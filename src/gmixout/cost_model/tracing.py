"""Steps of training that are traced and not run, as they would be on a GPU.

Tensors are fake: they have shapes and types and no data (`FakeTensorMode`), so that a step of any
size takes a second and no memory. What is traced is what autograd and autocast make of the step,
backward and optimizer too, by torch's own code for CPUs, whose operations are those of CUDA but
for some that are corrected here:

* Python code that asks for a tensor's device sees a GPU, so that it decides as it would there;
* under autocast, layers of which CUDA's autocast makes float32 (norms, softmax, powers) get it;
* attention is one operation in both, under different names.

A whole number that Python reads from a tensor is 0: it is an index, and any place costs the same.
Sparse tensors have no fake form in torch: they are traced as dense ones, which is an upper bound.
Not corrected: dropout (one operation on CUDA, three here) and the libraries' working memory.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from gmixout.cost_model.operations import Operation, describe

_BLOCK = 512
"""torch's allocator hands out multiples of this many bytes."""
_GPU = torch.device("cuda", 0)
_FLOAT32 = {
    "layer_norm", "group_norm", "rms_norm", "exp", "expm1", "log", "log10", "log1p", "log2",
    "logsumexp", "pow", "__pow__", "rsqrt", "reciprocal", "softplus", "norm", "cosine_similarity",
    "cdist", "dist",
}  # fmt: skip
"""Functions whose inputs CUDA's autocast casts to float32, and that of CPUs does not."""
_INTO_FLOAT32 = {"softmax", "log_softmax", "sum", "prod", "cumsum", "cumprod"}
"""Functions that CUDA's autocast tells to return float32."""


@dataclass
class Trace:
    """The operations of some steps, and the memory that they take."""

    steps: int
    calls: list[Operation | None] = field(default_factory=list)
    """All calls in their order; None: one that only the host has work with, such as a view."""
    peak_bytes: int = 0
    """Most bytes at a time of what training made."""

    @property
    def operations(self) -> Counter[Operation]:
        """How often each operation was called, in all steps."""
        return Counter(each for each in self.calls if each is not None)

    def every(self, period: int, other: "Trace") -> "Trace":
        """Return steps of which every `period`-th is one of another trace; both have one step."""
        return Trace(
            period,
            self.calls * (period - 1) + other.calls,
            max(self.peak_bytes, other.peak_bytes),
        )


@contextmanager
def imagined() -> Iterator[None]:
    """Compute nothing inside the context: tensors made there have no data.

    Tensors of outside, for example weights, are read as if they were such; they never change.
    """
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # heavy

    own: Any = FakeTensor.device

    def device(tensor: Any) -> torch.device:
        """Return the device of a fake tensor, which none of torch's modes is asked for."""
        found: torch.device = own.__get__(tensor)
        modes: Any = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        return on_gpu.shown(found) if on_gpu in modes else found

    engine: Any = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def backward(*args: Any, **kwargs: Any) -> Any:
        """Run backward with the mode, which functions of Python in it need as in forward."""
        with on_gpu:
            return engine(*args, **kwargs)

    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        _OnGpu(mode) as on_gpu,
        patch.object(FakeTensor, "device", property(device)),
        patch.object(torch.autograd, "_engine_run_backward", backward),
    ):
        yield


@contextmanager
def gpu_autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Run the forward pass inside the context as CUDA's autocast would; None: without it.

    Args:
        dtype: bfloat16 or float16.
    """
    if dtype is None:
        yield
        return
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        with torch.autocast("cpu", dtype):
            yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def bytes_of(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers."""
    tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return sum(each.nbytes for each in tensors.values())


def trace_steps(step: Callable[[int], Any], steps: int = 1, kept_bytes: int = 0) -> Trace:
    """Trace steps of training, inside `imagined`.

    A first step is not counted, which makes the optimizer's state; its memory is.

    Args:
        step: Takes one step of training, given its number: forward, backward, optimizer. The
            uncounted one is -1.
        steps: How many to count.
        kept_bytes: What training keeps beside the model, made before: a method's own tensors.
    """
    trace = Trace(steps)
    with _Recorder(trace, kept_bytes):
        step(-1)
        trace.calls.clear()
        for number in range(steps):
            step(number)
    return trace


class _OnGpu(TorchFunctionMode):
    """Let Python code see tensors on a GPU, which are on the CPU for torch."""

    def __init__(self, fake: Any) -> None:
        super().__init__()
        self._fake = fake

    def shown(self, device: torch.device) -> torch.device:
        """Return the device that who asks is to see: a GPU, and the CPU inside of torch's code."""
        outside = self._fake in _get_current_dispatch_mode_stack()
        return _GPU if outside and device.type == "cpu" else device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _DEVICE:
            return self.shown(func(*args))
        if func == _IS_CUDA:
            return args[0].device.type == "cpu"
        args, kwargs = tree_map(_here, args), tree_map(_here, kwargs)
        if func is torch.sparse_coo_tensor:
            return _dense(*args, **kwargs)
        if torch.is_autocast_enabled("cuda"):
            name = getattr(func, "__name__", "")
            if name in _FLOAT32:
                args, kwargs = tree_map(_widened, args), tree_map(_widened, kwargs)
            elif name in _INTO_FLOAT32 and args[0].is_floating_point():
                kwargs = {"dtype": torch.float32} | kwargs
        return func(*args, **kwargs)


_DEVICE = torch.Tensor.device.__get__
_IS_CUDA = torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]


def _here(value: Any) -> Any:
    """Return the CPU where the GPU is meant."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "cuda" else value
    return "cpu" if isinstance(value, str) and value in ("cuda", "cuda:0") else value


def _dense(indices: Tensor, values: Tensor, size: Any, **options: Any) -> Tensor:
    """Return the dense tensor that is equal to a sparse one."""
    dense = torch.zeros(size, dtype=options.get("dtype", values.dtype))
    return dense.index_put(tuple(indices), values, accumulate=True)


def _widened(value: Any) -> Any:
    narrow = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if narrow else value


def _real_valued(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.dtype == torch.bool


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Write every operation, and the memory of what it makes, into a trace."""

    def __init__(self, trace: Trace, kept_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trace = trace
        self._bytes = trace.peak_bytes = kept_bytes
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and not _real_valued(args[0]):
            return 0  # an index: any place costs the same
        out = func(*args, **kwargs)
        if func.namespace in ("prim", "profiler"):
            return out
        self._trace.calls.append(describe(func, args, kwargs, out))
        self._hold(out)
        return out

    def _hold(self, out: Any) -> None:
        """Count the memory of new tensors, until the last view of them is gone."""
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
                continue
            storage = tensor.untyped_storage()
            if storage in self._known:
                continue
            size = -(-storage.nbytes() // _BLOCK) * _BLOCK
            self._known[storage] = size
            self._bytes += size
            weakref.finalize(storage, self._release, size)
            self._trace.peak_bytes = max(self._trace.peak_bytes, self._bytes)

    def _release(self, size: int) -> None:
        self._bytes -= size
