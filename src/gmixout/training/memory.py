"""Peak memory of a block of code."""

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil
import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Measure the peak memory inside a `with` block above that at its start.

    On a CUDA device: bytes of tensors (`torch.cuda.max_memory_allocated`). Otherwise: resident
    memory of this process. Linux keeps the high-water mark itself (`VmHWM`, reset at the start);
    elsewhere a thread samples every 2 ms and can miss a short peak. Memory that earlier code freed
    is given back to the system first, where the C library can, so that it does not hide new use;
    differences of a few MB are still noise.

    Args:
        device: The device to measure.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None
        self._start = 0
        self._sampled = 0

    def __enter__(self) -> "PeakMemory":
        """Start measuring."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._start = torch.cuda.memory_allocated(self._device)
            return self
        _give_back_freed_memory()
        self._start = _resident_bytes()
        try:
            _CLEAR_REFS.write_text("5")  # resets VmHWM (proc(5))
        except OSError:
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop measuring."""
        del kind, error, trace
        self._stop.set()
        if self._sampler is not None:
            self._sampler.join()

    def read(self) -> int:
        """Return the peak so far, in bytes above the start."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        elif self._sampler is not None:
            peak = max(self._sampled, _resident_bytes())
        else:
            match = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
            peak = int(match[1]) * 1024 if match else 0
        return max(0, peak - self._start)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude what happens inside: read the peak before, it starts anew afterwards.

        Memory that the block keeps beyond its end is counted.
        """
        yield
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        _give_back_freed_memory()
        if self._sampler is None:
            _CLEAR_REFS.write_text("5")
        else:
            self._sampled = 0

    def _sample(self) -> None:
        while not self._stop.wait(0.002):
            self._sampled = max(self._sampled, _resident_bytes())


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _give_back_freed_memory() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # not glibc
