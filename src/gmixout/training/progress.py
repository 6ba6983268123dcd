"""Progress of a run: steps, losses, time and memory."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gmixout.errors import FollowedError, StateError, TrainingError
from gmixout.ranks import current
from gmixout.training.arguments import TrainingArguments
from gmixout.training.memory import PeakMemory


@dataclass
class Progress:
    """Progress of a run, as plain numbers."""

    step: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)  # one mean a stretch

    @classmethod
    def of(cls, values: Mapping[str, Any], steps: int) -> "Progress":
        """Return the progress in a checkpoint of a run of `steps` steps.

        Raises:
            StateError: It is inconsistent.
        """
        found = cls(**values)
        numbers = [found.seconds, *found.losses, *found.step_seconds]
        fits = (
            isinstance(found.step, int)
            and 1 <= found.step <= steps
            and isinstance(found.peak_memory_bytes, int)
            and len(found.losses) == found.step
            and 1 <= len(found.step_seconds) <= found.step
            and all(isinstance(value, float) and math.isfinite(value) for value in numbers)
        )
        if not fits:
            raise StateError(
                f"the checkpoint says that {found.step!s:.20} of {steps} steps are done, with "
                f"{len(found.losses)} losses. Start over with --overwrite."
            )
        return found


class Meter:
    """Keep the progress of a run; losses stay on the device until they are read.

    Args:
        arguments: The settings, for the error of a loss that is not finite.
        memory: Measures the run.
    """

    def __init__(self, arguments: TrainingArguments, memory: PeakMemory) -> None:
        self.progress = Progress()
        self._arguments, self._memory = arguments, memory
        self._losses: list[Tensor] = []  # of the steps since the last read
        self._since = 0.0

    @property
    def unread(self) -> bool:
        """True if steps were taken since the last read."""
        return bool(self._losses)

    def start_clock(self) -> None:
        """Count time from now on: what came before was not training."""
        self._since = time.perf_counter()

    def add(self, loss: Tensor) -> None:
        """Count a step."""
        self._losses.append(loss)
        self.progress.step += 1

    def read(self, suspects: str = "") -> None:
        """Fetch the losses since the last call: the only place that waits for a GPU.

        Args:
            suspects: Further causes of a loss that is not finite, as the end of a sentence.

        Raises:
            TrainingError: A loss is not finite.
        """
        if not self._losses:
            return
        progress, arguments = self.progress, self._arguments
        losses = current().mean(torch.stack(self._losses)).tolist()
        first = progress.step - len(losses) + 1
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                if not current().leads:
                    raise FollowedError("the loss is not finite")
                raise TrainingError(
                    f"the loss is {loss} at step {step} of {arguments.steps} "
                    f"(lr={arguments.lr}, head_lr={arguments.head_lr}): try a smaller "
                    f"lr, warmup_steps, or max_grad_norm=1{suspects}. Everything saved "
                    "is untouched"
                )
        now = time.perf_counter()
        progress.seconds += now - self._since
        progress.step_seconds.append((now - self._since) / len(losses))
        progress.losses += losses
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, self._memory.read())
        self._losses, self._since = [], now
