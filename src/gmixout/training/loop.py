"""The training loop. It knows the protocol `Finetuning` and no method."""

import math
import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

from gmixout.data.batch import Batch, collate
from gmixout.errors import ConfigError, StateError, TrainingError
from gmixout.loading import make_loader, resident
from gmixout.methods.average import Averaged
from gmixout.methods.base import Finetuning
from gmixout.models.pretrained import Pretrained
from gmixout.regularizers import Regularizer
from gmixout.training.arguments import TrainingArguments
from gmixout.training.augmentation import Augmented
from gmixout.training.batches import Batches
from gmixout.training.checkpoint import (
    check_form,
    check_moments,
    is_there,
    load_checkpoint,
    save_checkpoint,
    taking_up,
)
from gmixout.training.faults import foreseen
from gmixout.training.interrupts import StopFlag, Stopped, interrupt_flag
from gmixout.training.layer_decay import LayerDecay
from gmixout.training.memory import PeakMemory
from gmixout.training.optimizers import OPTIMIZERS
from gmixout.training.steps import Passes, asks_of, started

Observe = Callable[[int, Finetuning, float], None]
"""Gets the number of steps done, the run, and its mean loss since the last observation."""


class TrainingInterrupted(Stopped):
    """A signal came during training; the message gives the state of the run."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. Times, losses and memory include the parts before a resume."""

    model: nn.Module
    """The finetuned model: plain, on the CPU, in eval mode."""
    trainable: int
    """Number of values the optimizer trained."""
    losses: list[float]
    """Training loss of every step."""
    seconds: float
    """Wall-clock seconds of the training steps, checkpoints excluded."""
    step_seconds: float
    """Median seconds of a step, over the intervals between two reads of the loss."""
    peak_memory_bytes: int
    """Peak memory of training above the loaded model (see `PeakMemory`)."""


def check_training_settings(
    pretrained: Pretrained,
    dataset: Dataset[Any],
    arguments: TrainingArguments,
    regularizers: Sequence[Regularizer] = (),
) -> None:
    """Check before training that settings fit the model, the data and the installation.

    Args:
        pretrained: The model, before a method is put on it.
        dataset: The training set.
        arguments: The settings.
        regularizers: Regularizers beside the method, see `train`.

    Raises:
        ConfigError: They do not.
        DataError: The training set is empty.
    """
    Batches.check(dataset, arguments.batch_size, arguments.batches)
    acting = (*arguments.beside, *regularizers)
    started(acting, pretrained.model, pretrained.heads, dataset, arguments)
    arguments.rule.make([nn.Parameter(torch.zeros(1))], arguments.lr, arguments.weight_decay)
    if arguments.layer_decay != 1:
        LayerDecay(pretrained.model, arguments.layer_decay)


def train(
    pretrained: Pretrained,
    start: Callable[[Pretrained], Finetuning],
    dataset: Dataset[Any],
    arguments: TrainingArguments,
    checkpoint: Path | None = None,
    run: str = "",
    on_progress: Callable[[int, float], None] = lambda step, loss: None,
    observe: Observe | None = None,
    observe_at: Collection[int] = (),
    regularizers: Sequence[Regularizer] = (),
) -> TrainingResult:
    """Finetune a model in place.

    The result is a function of model, method, data and `arguments.identity()`. On one machine it is
    bit-identical, however often the run was stopped and resumed; on a GPU only if its libraries sum
    in a fixed order (attention's backward, for example, does not). The global random state
    of torch is left unchanged.

    Args:
        model: The pretrained model.
        start: Puts a method on the model, which is on its training device by then.
        dataset: Items are (image `[C, H, W]`, label). Its `labels`, `groups` (domains) and
            `weights`, `[N]` each, are needed by some settings.
        arguments: The settings.
        checkpoint: File that keeps the state; if it exists, training resumes from it.
        run: Hash of the run; a checkpoint of another run is refused.
        on_progress: Called every `log_every_steps` with the number of steps done and the loss.
        observe: Called after each of the steps `observe_at`, before a checkpoint of that step is
            written, so that a run that is killed and resumed may repeat an observation and never
            lacks one. Its time and memory are not counted in the result, and its changes to the
            modes of the model's modules and to torch's random state are undone.
        observe_at: Numbers of steps, counted from 1.
        regularizers: Regularizers of this method, after those of `arguments.beside`.

    Raises:
        ConfigError: The settings do not fit the machine or the data.
        StateError: The checkpoint cannot be used.
        TrainingError: The loss is not finite, or the machine lacks resources.
        TrainingInterrupted: After Ctrl-C, SIGTERM or SIGHUP, when the checkpoint is written.
    """
    accelerator = _make_accelerator(arguments.mixed_precision)
    device = accelerator.device
    with foreseen(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        _load_libraries(device)
        torch.manual_seed(arguments.seed)  # dropout; ends with the fork
        _train_mode(pretrained.model.to(device), arguments.freeze_batch_norm)
        acting = (*arguments.beside, *regularizers)
        # here, as a copy on the device is the data set's and not what training needs
        resident(Augmented(dataset, arguments, asks_of(acting)), device, arguments.num_workers)
        with PeakMemory(device) as memory:
            trainer = _Trainer(accelerator, pretrained, start, dataset, arguments, acting, memory)
            trainer.keep_state_in(checkpoint, run)
            trainer.run(on_progress, observe, observe_at)
        return trainer.finish()


def _train_mode(model: nn.Module, freeze_batch_norm: bool) -> None:
    """Set train mode; batch norms may stay in eval mode, or their statistics follow the source."""
    model.train()
    if freeze_batch_norm:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


@cache
def _load_libraries(device: torch.device) -> None:
    """Take a tiny step, so that what libraries load on first use is not counted as memory."""
    model = nn.Sequential(nn.Linear(1, 2), nn.LayerNorm(2), nn.GELU()).to(device)
    for make in OPTIMIZERS.values():
        optimizer = make().make(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
        LambdaLR(optimizer, float)
        data = TensorDataset(torch.ones(1, 1), torch.zeros(1, dtype=torch.long))
        loader: DataLoader[Any] = DataLoader(data, generator=torch.Generator())
        for images, labels in loader:
            loss: Any = functional.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()


@dataclass
class _Progress:
    """Progress of a run, as plain numbers."""

    step: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)  # one mean a stretch

    @classmethod
    def of(cls, values: Mapping[str, Any], steps: int) -> "_Progress":
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


class _Trainer:
    """The objects of one run and the steps over them."""

    def __init__(
        self,
        accelerator: Accelerator,
        pretrained: Pretrained,
        start: Callable[[Pretrained], Finetuning],
        dataset: Dataset[Any],
        arguments: TrainingArguments,
        regularizers: Sequence[Regularizer],
        memory: PeakMemory,
    ) -> None:
        model = pretrained.model
        self.accelerator, self.arguments, self.memory = accelerator, arguments, memory
        self.dataset = Augmented(dataset, arguments, asks_of(regularizers))
        self.plain_model = model
        heads = pretrained.heads
        self.passes = Passes(accelerator, model, heads, dataset, regularizers, arguments)
        layers = None if arguments.layer_decay == 1 else LayerDecay(model, arguments.layer_decay)
        self.finetuning = start(pretrained)
        if arguments.ema_decay is not None:
            self.finetuning = Averaged(self.finetuning, arguments.ema_decay)
        groups = self.finetuning.param_groups(lr=arguments.lr, head_lr=arguments.head_lr)
        if layers is not None:
            groups = layers.apply(groups, model)
        if own := self.passes.parameters:
            head_lr = arguments.lr if arguments.head_lr is None else arguments.head_lr
            groups.append({"params": own, "lr": head_lr, "name": "regularizers"})
        self.parameters: list[nn.Parameter] = [
            parameter for group in groups for parameter in group["params"]
        ]
        optimizer = arguments.rule.make(
            groups,
            arguments.lr,
            arguments.weight_decay,
            # accelerate tells a step that fp16 made the scaler skip by the call that it lacks; a
            # fused optimizer is called all the same
            fused=None if arguments.mixed_precision == "fp16" else True,
        )
        optimizer = self.finetuning.bind(optimizer)
        scheduler = LambdaLR(optimizer, arguments.lr_factor)
        self.model, self.optimizer, self.scheduler = accelerator.prepare(
            model, optimizer, scheduler
        )
        self.passes.ready(self.model, self)
        self.progress = _Progress()
        self.checkpoint: Path | None = None
        self.run_name = ""
        self._losses: list[Tensor] = []  # of the steps since the last look
        self._since = 0.0

    def write(self) -> None:
        """Let the model see values that were moved by hand."""
        self.finetuning.write()

    def keep_state_in(self, checkpoint: Path | None, run: str) -> None:
        """Set the checkpoint file and load its state."""
        self.checkpoint, self.run_name = checkpoint, run
        if checkpoint is None or not is_there(checkpoint):
            return
        state = load_checkpoint(checkpoint, run)
        with taking_up():
            self._take_up(state)

    def _take_up(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; check all that can be checked before changing anything."""
        progress = _Progress.of(state["progress"], self.arguments.steps)
        own = self._state()
        for name in ("model", "scheduler", "scaler", "rng", "regularizers"):
            check_form(state[name], own[name], name)
        saved, groups = state["optimizer"], own["optimizer"]["param_groups"]
        check_form(saved["param_groups"], groups, "optimizer.param_groups")
        check_moments(saved["state"], [p.shape for p in self.parameters])
        self.plain_model.load_state_dict(state["model"])
        self.finetuning.load_state_dict(state["method"])
        self.optimizer.load_state_dict(saved)
        self.scheduler.load_state_dict(state["scheduler"])
        self.passes.load_state_dict(state["regularizers"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress = progress
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.accelerator.device)

    def save(self) -> None:
        """Write the checkpoint."""
        if self.checkpoint is None:
            return
        self.passes.check_state()
        save_checkpoint(self.checkpoint, self.run_name, self._state())

    def _state(self) -> dict[str, Any]:
        device, scaler = self.accelerator.device, self.accelerator.scaler
        return {
            "model": self.plain_model.state_dict(),
            "method": self.finetuning.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
            "regularizers": self.passes.state_dict(),
            "progress": asdict(self.progress),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def run(
        self,
        on_progress: Callable[[int, float], None],
        observe: Observe | None,
        observe_at: Collection[int],
    ) -> None:
        """Train up to the last step."""
        settings, progress = self.arguments, self.progress
        with interrupt_flag() as stop:
            self._since = time.perf_counter()
            for batch in self._batches(stop):
                self._step(batch)
                done = progress.step == settings.steps
                stopping = stop.is_set()
                save = done or stopping or progress.step % settings.checkpoint_every_steps == 0
                log = save or progress.step % settings.log_every_steps == 0
                look_on = observe is not None and progress.step in observe_at
                if log or look_on:
                    self._look()
                if log:
                    on_progress(progress.step, progress.losses[-1])
                if observe is not None and look_on:
                    self._observe(observe, observe_at)
                if save:
                    with stop.shielded():
                        self.save()
                if save or look_on:
                    self._since = time.perf_counter()
                if stopping:
                    break
            if stop.number is not None:
                raise TrainingInterrupted(
                    f"stopped after step {progress.step} of {settings.steps}", stop.number
                )

    def _batches(self, stop: StopFlag) -> Iterator[Any]:
        """Yield the remaining batches; a signal may end the loading processes, too."""
        try:
            yield from self._loader()
        except RuntimeError:
            if not stop.is_set() or not self._losses:
                raise
            self._look()
            with stop.shielded():
                self.save()

    def _observe(self, observe: Observe, observe_at: Collection[int]) -> None:
        step = self.progress.step
        before = max((earlier for earlier in observe_at if earlier < step), default=0)
        modes = {module: module.training for module in self.plain_model.modules()}
        device = self.accelerator.device
        with (
            self.memory.paused(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            observe(step, self.finetuning, statistics.fmean(self.progress.losses[before:]))
        for module, mode in modes.items():
            module.training = mode

    def finish(self) -> TrainingResult:
        """Detach the method from the model and summarize the run."""
        self.passes.close()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.accelerator.free_memory()
        progress = self.progress
        return TrainingResult(
            model=self.finetuning.detach().to("cpu").eval(),
            trainable=sum(parameter.numel() for parameter in self.parameters),
            losses=progress.losses,
            seconds=progress.seconds,
            step_seconds=statistics.median(progress.step_seconds),
            peak_memory_bytes=progress.peak_memory_bytes,
        )

    def _loader(self) -> Any:
        settings = self.arguments
        batches = Batches(
            self.dataset,
            settings.batch_size,
            settings.steps,
            settings.seed,
            start=self.progress.step,
            order=settings.batches,
        )
        device, workers = self.accelerator.device, settings.num_workers
        loader = make_loader(
            self.dataset, device, workers, batch_sampler=batches, collate_fn=collate
        )
        return self.accelerator.prepare(loader)

    def _step(self, batch: Batch) -> None:
        loss = self.passes.take(batch, self.progress.step)
        if self.arguments.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.parameters, self.arguments.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self._losses.append(loss)
        self.progress.step += 1

    def _look(self) -> None:
        """Fetch the losses since the last call: the only place that waits for a GPU."""
        losses = torch.stack(self._losses).tolist()
        first = self.progress.step - len(losses) + 1
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} at step {step} of {self.arguments.steps} "
                    f"(lr={self.arguments.lr}, head_lr={self.arguments.head_lr}): try a smaller "
                    f"lr, warmup_steps, or max_grad_norm=1{self.passes.suspects}. Everything saved "
                    "is untouched"
                )
        now = time.perf_counter()
        progress = self.progress
        progress.seconds += now - self._since
        progress.step_seconds.append((now - self._since) / len(losses))
        progress.losses += losses
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, self.memory.read())
        self._losses, self._since = [], now


def _make_accelerator(mixed_precision: str) -> Accelerator:
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
