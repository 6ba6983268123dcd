"""What the benchmarks share: clocks, turns, the machine they ran on, and how figures are shown."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track

Name = TypeVar("Name")
Record = dict[str, Any]
PACKAGES = ("torch", "torchvision", "triton", "timm", "peft", "accelerate", "gmixout")


class Stopwatch:
    """Marks points in time on a device.

    On CUDA a mark is an event in the stream: nothing waits for the device between two marks, so
    that they cost nothing and the device stays as busy as it is in training.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []
        synchronize(device)

    def mark(self) -> None:
        """Marks the end of all work given to the device so far."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def read(self) -> list[float]:
        """Returns the seconds from each mark to the next; waits for the device."""
        synchronize(self._device)
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._device.type == "cuda":
            return [start.elapsed_time(end) / 1000 for start, end in pairs]
        return [end - start for start, end in pairs]


def synchronize(device: torch.device) -> None:
    """Waits for a CUDA device; does nothing on others."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(names: Sequence[Name], turns: int) -> Iterator[Name]:
    """All names, `turns` times; the order moves on by one a turn, so none always follows another.

    What else the machine does meanwhile then hits all of them alike.
    """
    for turn in range(turns):
        for place in range(len(names)):
            yield names[(turn + place) % len(names)]


def time_rounds(
    tasks: Mapping[str, Callable[[range], list[Record]]],
    rounds: int,
    steps: int,
    device: torch.device,
    title: str,
) -> dict[str, list[list[Record]]]:
    """Steps of several trainers in turn; by name: `rounds` lists of `steps` records.

    On the CPU they take turns step by step. On CUDA round by round: a step then begins while the
    device still works on the one before, as in training.

    Args:
        tasks: By name, what takes the numbers of some steps, runs and times them.
        rounds: How many rounds.
        steps: How many steps a round has.
        device: Where the tasks run.
        title: What the progress bar says.
    """
    at_once = steps if device.type == "cuda" else 1
    turns = rounds * steps // at_once
    times: dict[str, list[list[Record]]] = {name: [] for name in tasks}
    order = enumerate(in_turn(list(tasks), turns))
    console = Console(stderr=True)
    for i, name in track(order, title, total=turns * len(tasks), console=console):
        step = i // len(tasks) * at_once
        if step % steps == 0:
            times[name].append([])
        times[name][-1] += tasks[name](range(step, step + at_once))
    return times


def spread(values: Sequence[float]) -> str:
    """The median, with the range where there is one."""
    low, high = min(values), max(values)
    return f"{median(values):.2f}" + (f" [dim]{low:.2f}-{high:.2f}[/dim]" if low < high else "")


def describe_run(device: torch.device, threads: int) -> dict[str, Any]:
    """What figures depend on: versions and the machine, without the machine's name."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = named[0] if named else processor
    return {
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda}
        | {package: found for package in PACKAGES if (found := _version(package))},
        "machine": {
            "processor": processor,
            "cores": os.cpu_count(),
            "threads": threads,
            "system": f"{platform.system()} {platform.release()}",
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        },
    }


def _version(package: str) -> str | None:
    """The version of an installed package; gmixout need not be one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
