"""How the images of a data set come to a device."""

import signal
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

MOST_PROCESSES = 8
"""Loading processes that a run gets of itself: more seldom help, and each holds batches."""


def loading_processes(
    dataset: Dataset[Any], device: torch.device | str, asked: int | None = None
) -> int:
    """Return how many processes load images for a device.

    As many as are asked for. When nobody says: for a GPU one a CPU thread of this process, eight
    at most; none where the device is a CPU itself, which would have to share its cores with them,
    nor for a data set that says it is `in_memory`.
    """
    if asked is not None:
        return asked
    if torch.device(device).type == "cpu" or getattr(dataset, "in_memory", False):
        return 0
    return min(MOST_PROCESSES, torch.get_num_threads())


def make_loader(
    dataset: Dataset[Any],
    device: torch.device | str,
    num_workers: int | None = None,
    **batching: Any,
) -> DataLoader[Any]:
    """Return a data set's batches for a device; the global random state is left alone.

    Args:
        dataset: Items are (image, label).
        device: Where the batches will go: for CUDA they wait in pinned memory, so that they can be
            copied while it computes.
        num_workers: See `loading_processes`.
        **batching: Which items make a batch, as `DataLoader` has it.
    """
    return DataLoader(
        dataset,
        num_workers=loading_processes(dataset, device, num_workers),
        pin_memory=torch.device(device).type == "cuda",
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator().manual_seed(0),  # without one it draws from the global one
        **batching,
    )


def _ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C, which goes to the whole process group: the parent ends its loaders."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
