"""The objects of one training run and the steps over them."""

import signal
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from gmixout.data.batch import Batch, collate
from gmixout.errors import ConfigError
from gmixout.loading import make_loader
from gmixout.methods.average import Averaged
from gmixout.methods.base import Finetuning
from gmixout.models.pretrained import Pretrained
from gmixout.ranks import current
from gmixout.regularizers import Regularizer
from gmixout.training.arguments import TrainingArguments
from gmixout.training.augmentation import Augmented
from gmixout.training.batches import Batches
from gmixout.training.best_model import BestModel
from gmixout.training.checkpoint import (
    check_form,
    check_groups,
    check_moments,
    is_there,
    load_checkpoint,
    save_checkpoint,
    taking_up,
)
from gmixout.training.interrupts import StopFlag, Stopped, interrupt_flag
from gmixout.training.layer_decay import LayerDecay
from gmixout.training.memory import PeakMemory
from gmixout.training.processes import check_sharing, tell_ddp
from gmixout.training.progress import Meter, Progress
from gmixout.training.run_soup import RunSoup
from gmixout.training.steps import Passes, asks_of
from gmixout.weightspace import State

Observe: TypeAlias = Callable[[int, Finetuning, float], None]
"""Gets the number of steps done, the run, and its mean loss since the last observation."""
Validate: TypeAlias = Callable[[State], float]
"""Returns the official metric of weights on in-domain validation data; higher is better."""


class TrainingInterrupted(Stopped):
    """A signal came during training; the message gives the state of the run."""


@dataclass(frozen=True)
class Callbacks:
    """Functions that a run calls."""

    on_progress: Callable[[int, float], None] = lambda step, loss: None
    observe: Observe | None = None
    observe_at: Collection[int] = ()
    validate: Validate | None = None
    track: Callable[[int, Mapping[str, float]], None] = lambda step, values: None


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. Times, losses and memory include the parts before a resume."""

    model: nn.Module
    """The finetuned model: plain, on the CPU, in eval mode."""
    step: int
    """Optimizer steps done; fewer than asked for after early stopping."""
    kept_step: int
    """Optimizer steps that led to `model`; fewer than `step` if an earlier one was better."""
    soup_steps: tuple[int, ...]
    """Steps whose models are averaged in `model`; empty if it is of one step."""
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


class Trainer:
    """One run.

    Args:
        accelerator: Places the model, and runs backward.
        pretrained: The model in training mode, on the accelerator's device.
        start: Puts a method on the model.
        dataset: The training set.
        arguments: The settings.
        regularizers: All regularizers that act in the run.
        memory: Measures the run.
        callbacks: Called during the run.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        pretrained: Pretrained,
        start: Callable[[Pretrained], Finetuning],
        dataset: Dataset[Any],
        arguments: TrainingArguments,
        regularizers: Sequence[Regularizer],
        memory: PeakMemory,
        callbacks: Callbacks = Callbacks(),
    ) -> None:
        model = pretrained.model
        self.accelerator, self.arguments, self.memory = accelerator, arguments, memory
        self.callbacks, self.ranks = callbacks, current()
        self.dataset = Augmented(dataset, arguments, asks_of(regularizers))
        self.plain_model = model
        heads = pretrained.heads
        self.passes = Passes(accelerator, model, heads, dataset, regularizers, arguments)
        layers = (
            None if arguments.layer_decay == 1 else LayerDecay(model, arguments.layer_decay, heads)
        )
        self.finetuning = start(pretrained)
        if arguments.ema_decay is not None:
            self.finetuning = Averaged(self.finetuning, arguments.ema_decay)
        groups = self._param_groups(layers)
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
        self.lr_factors = arguments.lr_factors()
        scheduler = LambdaLR(optimizer, partial(_entry, self.lr_factors))
        if self.ranks.count > 1:
            check_sharing(model, self.parameters)
            tell_ddp(accelerator, self.finetuning.skips_layers)
        self.model, self.optimizer, self.scheduler = accelerator.prepare(
            model, optimizer, scheduler
        )
        self.passes.ready(self.model, self)
        self.meter = Meter(arguments, memory)
        self.best = _keeper(arguments, callbacks)
        self.checkpoint: Path | None = None
        self._stopped = False  # this process or another one was asked to stop
        self.run_name = ""

    def _param_groups(self, layers: LayerDecay | None) -> list[dict[str, Any]]:
        arguments = self.arguments
        groups = self.finetuning.param_groups(lr=arguments.lr, head_lr=arguments.head_lr)
        if layers is not None:
            groups = layers.apply(groups, self.plain_model)
        if own := self.passes.parameters:
            head_lr = arguments.lr if arguments.head_lr is None else arguments.head_lr
            groups.append({"params": own, "lr": head_lr, "name": "regularizers"})
        return groups

    @property
    def progress(self) -> Progress:
        """Steps, losses, time and memory so far."""
        return self.meter.progress

    @property
    def is_finished(self) -> bool:
        """True after the last step, or when patience is exhausted."""
        settled = self.best is not None and self.best.is_settled
        return settled or self.progress.step == self.arguments.steps

    def write(self) -> None:
        """Let the model see values that were moved by hand."""
        self.finetuning.write()

    def keep_state_in(self, checkpoint: Path | None, run: str) -> None:
        """Set the checkpoint file and load its state."""
        self.checkpoint, self.run_name = checkpoint, run
        there = checkpoint if checkpoint is not None and is_there(checkpoint) else None
        state = self.ranks.from_leader(lambda: load_checkpoint(there, run) if there else None)
        if state is not None:
            with taking_up():
                self._take_up(state)

    def _take_up(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; check all that can be checked before changing anything."""
        progress = Progress.of(state["progress"], self.arguments.steps)
        own = self._state()
        for name in ("model", "scheduler", "scaler", "rng", "regularizers"):
            check_form(state[name], own[name], name)
        saved, groups = state["optimizer"], own["optimizer"]["param_groups"]
        check_groups(saved["param_groups"], groups)
        check_moments(saved["state"], [p.shape for p in self.parameters])
        self.plain_model.load_state_dict(state["model"])
        self.finetuning.load_state_dict(state["method"])
        self.optimizer.load_state_dict(saved)
        self.scheduler.load_state_dict(state["scheduler"])
        self.passes.load_state_dict(state["regularizers"])
        if self.best is not None:
            self.best.load_state_dict(state["best"], self.finetuning.snapshot(), progress.step)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.meter.progress = progress
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.accelerator.device)

    def save(self) -> None:
        """Write the checkpoint."""
        self.passes.check_state()
        if self.checkpoint is None or not self.ranks.leads:
            return
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
            "best": {} if self.best is None else self.best.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def run(self) -> None:
        """Train up to the last step, or until patience is exhausted.

        Raises:
            TrainingError: A loss is not finite.
            TrainingInterrupted: After a signal, when the checkpoint is written.
        """
        with interrupt_flag() as stop:
            self.meter.start_clock()
            for batch in self._batches(stop):
                self._step(batch)
                if self._after_step(stop):
                    break
            if self._stopped or stop.number is not None:
                raise TrainingInterrupted(
                    f"stopped after step {self.progress.step} of {self.arguments.steps}",
                    stop.number or signal.SIGTERM,  # of another process
                )

    def _step(self, batch: Batch) -> None:
        loss = self.passes.take(batch, self.progress.step)
        if self.arguments.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.parameters, self.arguments.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.meter.add(loss)

    def _after_step(self, stop: StopFlag) -> bool:
        """Report, observe, validate and save, as is due; return True if training ends."""
        settings, calls, step = self.arguments, self.callbacks, self.progress.step
        stopping = self._stopped = self.ranks.any(stop.is_set())
        save = stopping or step == settings.steps or step % settings.checkpoint_every_steps == 0
        log = save or step % settings.log_every_steps == 0
        observe = calls.observe if step in calls.observe_at else None
        best = self.best if self.best is not None and self.best.is_due(step) else None
        if log or observe or best:
            self._read()
        if log:
            calls.on_progress(step, self.progress.losses[-1])
        if observe:
            with self._aside():
                observe(step, self.finetuning, self._loss_since_observed(step))
        if best:
            with self._aside():
                best.consider(step, self.finetuning.snapshot())
        save = save or self.is_finished
        if observe or best or self.is_finished or step % settings.log_every_steps == 0:
            calls.track(step, self._tracked(step, validated=best is not None))
        if save:
            with stop.shielded():
                self.save()
        if save or observe or best:
            self.meter.start_clock()
        return stopping or self.is_finished

    def _tracked(self, step: int, validated: bool) -> dict[str, float]:
        """Return the values of a step for trackers: the same, however often a run was resumed."""
        settings, found = self.arguments, {}
        if self.is_finished or step % settings.log_every_steps == 0:
            since = (step - 1) // settings.log_every_steps * settings.log_every_steps
            factor = self.lr_factors[step - 1]
            found["train/loss"] = statistics.fmean(self.progress.losses[since:step])
            found["train/lr"] = factor * settings.lr
            if settings.head_lr is not None:
                found["train/head_lr"] = factor * settings.head_lr
        if validated and isinstance(self.best, BestModel):
            found["id_val"] = self.best.latest
        return found

    def _read(self) -> None:
        self.meter.read(self.passes.suspects)

    def _batches(self, stop: StopFlag) -> Iterator[Any]:
        """Yield the remaining batches; a signal may end the loading processes, too."""
        if self.is_finished:
            return
        try:
            yield from self._loader()
        except RuntimeError:
            if not stop.is_set() or not self.meter.unread:
                raise
            self._read()
            with stop.shielded():
                self.save()

    def _loss_since_observed(self, step: int) -> float:
        earlier = [each for each in self.callbacks.observe_at if each < step]
        return statistics.fmean(self.progress.losses[max(earlier, default=0) :])

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Undo what happens inside to modes and random state; do not count its memory."""
        modes = {module: module.training for module in self.plain_model.modules()}
        device = self.accelerator.device
        with (
            self.memory.paused(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            yield
        for module, mode in modes.items():
            module.training = mode

    def finish(self) -> TrainingResult:
        """Detach the method from the model and summarize the run."""
        self.passes.close()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.accelerator.free_memory()
        model, progress = self.finetuning.detach().to("cpu").eval(), self.progress
        kept = progress.step
        members: tuple[int, ...] = ()
        if isinstance(self.best, RunSoup):
            mean, members = self.best.made()
            model.load_state_dict(mean)
        elif self.best is not None and self.best.step != kept:
            kept = self.best.step
            model.load_state_dict(self.best.state)
        return TrainingResult(
            model=model,
            step=progress.step,
            kept_step=kept,
            soup_steps=members,
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
        # as of one process: `Batches` gives this rank its part
        return prepare_data_loader(
            loader, device, num_processes=1, process_index=0, put_on_device=True, non_blocking=True
        )


def _entry(values: Sequence[float], place: int) -> float:
    return values[place]


def _keeper(arguments: TrainingArguments, callbacks: Callbacks) -> BestModel | RunSoup | None:
    """Return the keeper of earlier models than the last one, if the run is to keep some.

    Raises:
        ConfigError: Nothing measures in-domain validation.
    """
    kind = RunSoup if arguments.soup != "none" else BestModel
    if kind is BestModel and arguments.select == "last":
        return None
    if callbacks.validate is None:
        what = f"soup={arguments.soup}" if kind is RunSoup else f"select={arguments.select}"
        raise ConfigError(f"{what} needs train(..., validate=FUNCTION)")
    return kind(arguments, callbacks.validate)
