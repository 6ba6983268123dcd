"""Batches of a data set's images for a device."""

import signal
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

MOST_PROCESSES = 8
"""Most loading processes by default: more rarely help, and each holds batches."""


def loading_processes(
    dataset: Dataset[Any], device: torch.device | str, asked: int | None = None
) -> int:
    """Return how many processes load images for a device.

    The requested number. By default, for a GPU one per CPU thread of this process, at most eight;
    none for a CPU, which would share its cores with them, or for a data set that is
    `in_memory`.
    """
    if asked is not None:
        return asked
    if torch.device(device).type == "cpu" or getattr(dataset, "in_memory", False):
        return 0
    return min(MOST_PROCESSES, torch.get_num_threads())


def resident(
    dataset: Dataset[Any], device: torch.device | str, num_workers: int | None = None
) -> Dataset[Any]:
    """Return a data set with its images on a GPU, if it is `in_memory` and has a method `on`.

    A batch is then put together there: nothing is pinned and copied in each step. The images are
    the same to the bit. Loading processes cannot share a GPU's memory: with any, images stay.

    Args:
        dataset: Items are (image, label).
        device: The target of the batches; for a CPU nothing changes.
        num_workers: See `loading_processes`.
    """
    device = torch.device(device)
    if device.type == "cpu" or loading_processes(dataset, device, num_workers):
        return dataset
    move = getattr(dataset, "on", None)
    return dataset if move is None else move(device)


def make_loader(
    dataset: Dataset[Any],
    device: torch.device | str,
    num_workers: int | None = None,
    **batching: Any,
) -> DataLoader[Any]:
    """Return a data set's batches for a device, without touching the global random state.

    Args:
        dataset: Items are (image, label).
        device: The target of the batches: for CUDA they are pinned, so that they are copied while
            it computes, or images are there already, see `resident`.
        num_workers: See `loading_processes`.
        **batching: Arguments of `DataLoader` on the composition of batches.
    """
    there = resident(dataset, device, num_workers)
    return DataLoader(
        there,
        num_workers=loading_processes(dataset, device, num_workers),
        pin_memory=torch.device(device).type == "cuda" and there is dataset,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator().manual_seed(0),  # without one it draws from the global one
        **batching,
    )


def _ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C, which goes to the whole process group: the parent ends its loaders."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
