"""Steps of the training loop, traced for a GPU that is not there."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gmixout.cost_model import Trace, bytes_of, gpu_autocast, imagined, trace_steps
from gmixout.data.batch import collate
from gmixout.errors import ConfigError
from gmixout.methods.base import Finetuning
from gmixout.models.pretrained import Pretrained
from gmixout.regularizers import Regularizer
from gmixout.training.arguments import TrainingArguments
from gmixout.training.loop import set_train_mode
from gmixout.training.memory import PeakMemory
from gmixout.training.trainer import Trainer

_AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def trace_training(
    pretrained: Pretrained,
    start: Callable[[Pretrained], Finetuning],
    dataset: Dataset[Any],
    arguments: TrainingArguments,
    regularizers: Sequence[Regularizer] = (),
) -> tuple[Trace, int]:
    """Trace a step of `train` as it would be on a GPU; nothing is computed, no weight changes.

    Args:
        pretrained: A copy of the model, which cannot be used afterwards.
        start: Puts a method on the model.
        dataset: At least one training image, see `train`; a batch repeats its first ones.
        arguments: The settings.
        regularizers: Regularizers of this method.

    Returns:
        The trace of one step, and the number of values that it trains.

    Raises:
        ConfigError: The step cannot be traced, as it looks at values and not only at shapes, or
            recomputes activations.
    """
    if arguments.checkpointing:
        raise ConfigError(
            "checkpointing cannot be predicted for another device: leave it out here (it takes "
            "less memory and about a third more time), or measure it: --dry-run without "
            "--device-spec"
        )
    set_train_mode(pretrained.model, arguments.freeze_batch_norm)
    before = bytes_of(pretrained.model)
    accelerator: Any = _ImaginedAccelerator(arguments.mixed_precision)
    acting = (*arguments.beside, *regularizers)
    memory = PeakMemory(accelerator.device)
    trainer = Trainer(accelerator, pretrained, start, dataset, arguments, acting, memory)
    count = len(dataset)  # type: ignore[arg-type]
    places = [(number, number % count) for number in range(arguments.batch_size)]
    batch = collate([trainer.dataset[place] for place in places])
    kept = bytes_of(pretrained.model) - before
    trained = sum(parameter.numel() for parameter in trainer.parameters)
    with torch.random.fork_rng([]), imagined():
        try:
            return trace_steps(lambda _: trainer._step(batch), kept_bytes=kept), trained
        except RuntimeError as error:
            if "DataDependent" not in type(error).__name__:
                raise
            raise ConfigError(
                f"a step cannot be predicted, as it depends on values ({error}). Measure it: "
                "--dry-run without --device-spec"
            ) from error
        finally:
            trainer.passes.close()


def trace_evaluation(model: nn.Module, images: Tensor) -> Trace:
    """Trace the forward pass of an evaluation, `images [B, C, H, W]`."""
    model.eval()
    with imagined(), torch.no_grad():
        return trace_steps(lambda _: model(images))


class _ImaginedAccelerator:
    """What the training loop asks of Accelerate, on a GPU that is not there."""

    scaler = None
    device = torch.device("cpu")

    def __init__(self, mixed_precision: str) -> None:
        self._dtype = _AUTOCAST[mixed_precision]

    def autocast(self) -> AbstractContextManager[None]:
        return gpu_autocast(self._dtype)

    def prepare(self, model: nn.Module, *others: Any) -> tuple[Any, ...]:
        forward = model.forward

        def in_precision(*args: Any, **kwargs: Any) -> Any:
            with self.autocast():
                output = forward(*args, **kwargs)
            return output.float() if self._dtype is not None else output

        model.forward = in_precision
        return model, *others

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        del model  # which one process does not share
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> None:
        nn.utils.clip_grad_norm_(parameters, max_norm)
