"""`gmixout doctor`: show installed packages and devices."""

from importlib.metadata import PackageNotFoundError, requires, version

import torch
from accelerate import PartialState
from packaging.requirements import Requirement
from rich.console import Console

from gmixout.bench.code_version import versions


def doctor() -> None:
    """Show installed packages and available devices."""
    console = Console(highlight=False, markup=False)
    for name, value in versions().items():
        console.print(f"{name:<20}{value}")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    console.print(f"{'device':<20}{PartialState().device.type}, GPUs: {', '.join(gpus) or 'none'}")
    console.print(f"{'CPU threads':<20}{torch.get_num_threads()}")
    for package, extra in _optional_packages().items():
        try:
            found = version(package)
        except PackageNotFoundError:
            found = f"missing: pip install 'gmixout[{extra}]'"
        console.print(f"{package:<20}{found}")


def _optional_packages() -> dict[str, str]:
    """Return the extra of each optional package, from the installed metadata."""
    found: dict[str, str] = {}
    for extra in ("vision", "train", "report", "lora", "hub"):
        for line in requires("gmixout") or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
                found.setdefault(requirement.name, extra)
    return found
