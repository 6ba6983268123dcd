"""The training loop. It knows the protocol `Finetuning` and no method."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

from gmixout.loading import resident
from gmixout.methods.base import Finetuning
from gmixout.models.pretrained import Pretrained
from gmixout.ranks import current
from gmixout.regularizers import Regularizer
from gmixout.training.arguments import TrainingArguments
from gmixout.training.augmentation import Augmented
from gmixout.training.batches import Batches
from gmixout.training.checkpointing import checkpointed
from gmixout.training.faults import foreseen
from gmixout.training.layer_decay import LayerDecay
from gmixout.training.memory import PeakMemory
from gmixout.training.optimizers import OPTIMIZERS
from gmixout.training.processes import make_accelerator
from gmixout.training.steps import asks_of, started
from gmixout.training.trainer import Callbacks, Observe, Trainer, TrainingResult, Validate


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
    if arguments.checkpointing:
        with checkpointed(pretrained, arguments.freeze_batch_norm):
            pass


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
    validate: Validate | None = None,
    track: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
) -> TrainingResult:
    """Finetune a model in place.

    The result is a function of model, method, data and `arguments.identity()`. On one machine it is
    bit-identical, however often the run was stopped and resumed; on a GPU only if its libraries sum
    in a fixed order (attention's backward, for example, does not). The global random state
    of torch is left unchanged.

    Processes that work together (`ranks.together`) share each batch and average their gradients;
    they start from rank 0's weights, which alone writes the checkpoint. The result is the same up
    to rounding, and up to dropout, whose draws differ with the number of processes.

    Args:
        pretrained: The pretrained model.
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
        validate: Returns the official metric of weights on in-domain validation data; needed by
            `select=id_validation`. Its time and memory are not counted.
        track: Called with the number of steps done, and values by name for experiment trackers.

    Raises:
        ConfigError: The settings do not fit the machine or the data.
        StateError: The checkpoint cannot be used.
        TrainingError: The loss is not finite, or the machine lacks resources.
        TrainingInterrupted: After Ctrl-C, SIGTERM or SIGHUP, when the checkpoint is written.
    """
    accelerator = make_accelerator(arguments.mixed_precision)
    device = accelerator.device
    with foreseen(arguments), torch.random.fork_rng([device] if device.type == "cuda" else []):
        _load_libraries(device)
        torch.manual_seed(arguments.seed)  # dropout; ends with the fork
        set_train_mode(pretrained.model.to(device), arguments.freeze_batch_norm)
        state = [*pretrained.model.parameters(), *pretrained.model.buffers()]
        current().hand_on(state)
        acting = (*arguments.beside, *regularizers)
        # here, as a copy on the device is the data set's and not what training needs
        resident(Augmented(dataset, arguments, asks_of(acting)), device, arguments.num_workers)
        callbacks = Callbacks(on_progress, observe, observe_at, validate, track)
        frozen = arguments.freeze_batch_norm
        saving = checkpointed(pretrained, frozen) if arguments.checkpointing else nullcontext()
        with saving, PeakMemory(device) as memory:
            trainer = Trainer(
                accelerator, pretrained, start, dataset, arguments, acting, memory, callbacks
            )
            trainer.keep_state_in(checkpoint, run)
            trainer.run()
            return trainer.finish()


def set_train_mode(model: nn.Module, freeze_batch_norm: bool) -> None:
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
