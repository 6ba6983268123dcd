"""`gmixout doctor`: show what is installed, what is missing for what, and the speed."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from statistics import median
from typing import NamedTuple

import psutil
import torch
from accelerate import PartialState
from packaging.requirements import Requirement
from rich.console import Console
from torch import nn

from gmixout.bench.code_version import versions
from gmixout.files import cache_folder

PURPOSES = {
    "vision": "models of timm and open_clip, images, linear probes",
    "train": "the command line and training runs",
    "report": "figures and the report page",
    "lora": "LoRA and other adapters",
    "hub": "models and data sets of Hugging Face",
    "photos": "photos in HEIC, and near-copies in `gmixout data check`",
    "real": "ImageNet weights that come as packages, without a hub",
    "export": "ONNX",
    "examples": "the scripts in `examples/`, MiniLM's weights included",
    "track": "experiment trackers",
    "slurm": "runs on a cluster",
}
"""What each extra is for; one that the package does not have is not shown."""
_SECONDS = 2.0
"""Time of the speed measurement."""
_IMAGES, _TOKENS, _WIDTH, _HEADS, _BLOCKS = 8, 197, 384, 6, 12
"""A batch for ViT-S/16 at 224 x 224 pixels, and its size."""


def doctor(speed: bool = True) -> None:
    """Show what is installed, what is missing for what, devices, and the speed of this machine.

    Args:
        speed: Measure the speed of training, which takes two seconds.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for title, lines in (("versions", _versions()), ("machine", _machine()), ("extras", _extras())):
        console.print(f"{title}:")
        for name, text in lines:
            console.print(f"  {name:<14}{text}")
    if speed:
        device = PartialState().device
        console.print("speed:")
        rate = images_per_second(device)
        console.print(
            f"  {'ViT-S/16':<14}{rate:.1f} images per second in full finetuning at 224 x 224 "
            f"pixels, {_IMAGES} at a time, float32, {device.type}: about "
            f"{1000 / rate / 60:.1f} minutes per 1,000 images and epoch"
        )


def images_per_second(device: torch.device, seconds: float = _SECONDS) -> float:
    """Measure the speed of finetuning a ViT-S/16, by one of its blocks.

    Args:
        device: Where to compute.
        seconds: Time that the measurement may take.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        block = nn.TransformerEncoderLayer(
            _WIDTH, _HEADS, 4 * _WIDTH, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        ).to(device)  # fmt: skip
        tokens = torch.randn(_IMAGES, _TOKENS, _WIDTH, device=device, requires_grad=True)
    optimizer = torch.optim.AdamW(block.parameters(), lr=1e-6)

    def step() -> None:
        block(tokens).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return _IMAGES / (_BLOCKS * _median_seconds(step, device, seconds))


def _median_seconds(step: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Return the median seconds of a step; the first ones warm up."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return median(times[len(times) // 4 :])


def _versions() -> Iterator[tuple[str, str]]:
    yield from versions().items()


def _machine() -> Iterator[tuple[str, str]]:
    device = PartialState().device
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if names:
        free, total = torch.cuda.mem_get_info(device)
        names[0] += f", {_gib(free)} of {_gib(total)} free"
    yield "device", device.type
    yield "GPUs", "; ".join(names) or "none"
    yield "bfloat16", "yes" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "slow"
    yield "CPU threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    memory = psutil.virtual_memory()
    yield "memory", f"{_gib(memory.available)} of {_gib(memory.total)} free"
    yield "disk here", f"{_gib(shutil.disk_usage('.').free)} free"
    yield "cache", f"{cache_folder()}"


class _Package(NamedTuple):
    name: str
    found: str | None
    """Its version, None if it is missing."""
    fits: bool


def _extras() -> Iterator[tuple[str, str]]:
    """Yield each extra with what it is for, and what it lacks."""
    known = metadata("gmixout").get_all("Provides-Extra") or []
    for extra in (name for name in PURPOSES if name in known):
        packages = list(_packages_of(extra))
        lacking = [each for each in packages if each.found is None or not each.fits]
        if not lacking:
            found = ", ".join(f"{each.name} {each.found}" for each in packages)
            yield extra, f"complete ({PURPOSES[extra]}): {found}"
            continue
        said = ", ".join(
            each.name if each.found is None else f"{each.name} ({each.found} is too old)"
            for each in lacking
        )
        yield extra, f"lacks {said} ({PURPOSES[extra]}): pip install 'gmixout[{extra}]'"


def _packages_of(extra: str) -> Iterator[_Package]:
    """Yield the packages of an extra, from the installed metadata."""
    for line in requires("gmixout") or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            try:
                found = version(requirement.name)
            except PackageNotFoundError:
                yield _Package(requirement.name, None, False)
                continue
            fits = requirement.specifier.contains(found, prereleases=True)
            yield _Package(requirement.name, found, fits)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
