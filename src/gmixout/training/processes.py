"""The accelerator of a run, and the processes that share it."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs
from torch import distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gmixout.errors import ConfigError
from gmixout.ranks import ALONE, Ranks

_PATIENCE = timedelta(days=7)
"""How long a process waits for the others at work; if one ends, the rest know at once."""
_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE")
"""Variables by which launchers say how many processes there are."""


def make_accelerator(mixed_precision: str) -> Accelerator:
    """Return the accelerator of a run.

    Raises:
        ConfigError: The device cannot compute in this precision.
    """
    # Accelerate keeps the precision of a process's first run; a later run may want another
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed_precision:
        AcceleratorState._reset_state()
    try:
        return Accelerator(
            mixed_precision=mixed_precision,
            dataloader_config=DataLoaderConfiguration(
                non_blocking=True,
                split_batches=True,  # else a schedule takes a step for each process
            ),
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    except ValueError as error:
        raise ConfigError(f"mixed_precision={mixed_precision}: {error}") from error


def check_sharing(model: nn.Module, trained: Iterable[nn.Parameter]) -> None:
    """Check that processes can share a run: they average the gradients of its parameters.

    Args:
        model: The model in training mode, with the method on it.
        trained: All that the optimizer trains.

    Raises:
        ConfigError: The method or the model does not allow it.
    """
    if not all(parameter.requires_grad for parameter in trained):
        raise ConfigError(
            "the method trains parameters that are frozen at first, which processes cannot share: "
            "start gmixout in one process"
        )
    norms = (each for each in model.modules() if isinstance(each, _BatchNorm))
    if any(each.training and each.track_running_stats for each in norms):
        raise ConfigError(
            "freeze_batch_norm=False cannot be combined with several processes, each of which "
            "would take the statistics of its part of a batch: start gmixout in one process"
        )


def tell_ddp(accelerator: Accelerator, skips_layers: bool) -> None:
    """Tell DistributedDataParallel whether, in some steps, some values get no gradient."""
    accelerator.ddp_handler.find_unused_parameters = skips_layers


def launched() -> int:
    """Return how many processes a launcher started for this job, this one included."""
    # accelerate does not ask the launchers' variables where there is no GPU
    said = [os.environ.get(name, "") for name in _COUNTS]
    counts = [int(each) for each in said if each.isdecimal()]
    return max([1, *counts])


def refuse_several_processes(what: str = "this command") -> None:
    """Refuse to be one of several processes of a launcher.

    Args:
        what: What cannot be shared.

    Raises:
        ConfigError: This is one.
    """
    if (count := max(launched(), PartialState().num_processes)) > 1:
        raise ConfigError(
            f"this is one of {count} processes of a launcher, and {what} works in one: start it "
            "without a launcher"
        )


@contextmanager
def launched_ranks() -> Iterator[Ranks]:
    """Join the processes that a launcher (torchrun, `accelerate launch`) started for this run.

    Raises:
        ConfigError: They cannot be joined.
    """
    if launched() == 1:
        yield ALONE
        return
    try:
        state = PartialState(cpu=not torch.accelerator.is_available())
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the processes of the launcher cannot be joined: {error}") from error
    if state.num_processes != launched():
        raise ConfigError(
            f"a launcher started {launched()} processes, of which {state.num_processes} were "
            "joined: use torchrun or `accelerate launch`"
        )
    # on the CPU, whatever the gradients go through: small values that every step waits for
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield Ranks(state.process_index, state.num_processes, group)
    except BaseException:
        # a launcher ends the others when one has ended: let this one say why before it goes
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    finally:
        state.destroy_process_group()
