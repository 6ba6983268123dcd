"""The accelerator of a run; a run is one process."""

import os

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration

from gmixout.errors import ConfigError


def make_accelerator(mixed_precision: str) -> Accelerator:
    """Return the accelerator of a run.

    Raises:
        ConfigError: The device cannot compute in this precision, or this is one of several
            processes.
    """
    # Accelerate keeps the precision of a process's first run; a later run may want another
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed_precision:
        AcceleratorState._reset_state()
    try:
        accelerator = Accelerator(
            mixed_precision=mixed_precision,
            dataloader_config=DataLoaderConfiguration(non_blocking=True),
        )
    except ValueError as error:
        raise ConfigError(f"mixed_precision={mixed_precision}: {error}") from error
    refuse_several_processes()
    return accelerator


def refuse_several_processes() -> None:
    """Refuse to be one of several processes of a launcher.

    Raises:
        ConfigError: This is one.
    """
    # accelerate does not ask the launchers' variables where there is no GPU
    said = [os.environ.get(name, "") for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE")]
    counts = [int(each) for each in said if each.isdecimal()]
    if (count := max([PartialState().num_processes, *counts])) > 1:
        raise ConfigError(
            f"this is one of {count} processes, and a run writes one folder: start gmixout in one "
            "process, without a launcher. (The library works under DDP.)"
        )
