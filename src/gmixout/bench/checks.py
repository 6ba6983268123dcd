"""Checks before training that settings fit the data, whatever the method."""

from collections.abc import Sequence
from typing import Any

from gmixout.bench.task import LoadedTask
from gmixout.errors import ConfigError
from gmixout.losses import LOSSES, Loss
from gmixout.losses.cross_entropy import class_counts
from gmixout.regularizers import Regularizer
from gmixout.tasks import DEFAULT_TASK, LearningTask
from gmixout.training.arguments import TrainingArguments
from gmixout.training.loop import check_training_settings


def check_training(
    task: LoadedTask, arguments: TrainingArguments, regularizers: Sequence[Regularizer] = ()
) -> None:
    """Check before training that settings fit a task, whatever the method.

    Args:
        task: Data and pretrained model.
        arguments: The settings.
        regularizers: Regularizers beside the method.

    Raises:
        ConfigError: They do not.
        DataError: The training set is empty.
    """
    benchmark, train = task.benchmark, task.benchmark.train
    _check_task(benchmark.task, arguments, regularizers)
    check_training_settings(task.pretrained, train, arguments, regularizers)
    if arguments.logit_adjustment:
        counts = class_counts(train, len(benchmark.classes))
        acting: tuple[Any, ...] = (arguments.criterion, *arguments.beside, *regularizers)
        if counts.min() == 0 and (soft := [each.name for each in acting if each.soft]):
            empty = benchmark.classes[int(counts.argmin())]
            raise ConfigError(
                f"logit_adjustment: class {empty} has no training image, and its loss would be "
                f"infinite with the soft targets of {', '.join(soft)}: leave these out"
            )


def _check_task(
    task: LearningTask, arguments: TrainingArguments, regularizers: Sequence[Regularizer]
) -> None:
    """Check that the loss and all regularizers are for what the model is to say.

    Raises:
        ConfigError: One is not.
    """
    loss: Loss = arguments.criterion
    if loss.tasks and task.name not in loss.tasks:
        fitting = [name for name, kind in LOSSES.items() if task.name in kind.tasks]
        raise ConfigError(
            f"loss={loss.name} is for {' and '.join(loss.tasks)}, and this data is {task.name} "
            f"({task.title}): use --loss {' or '.join(fitting)}"
        )
    for each in (*arguments.beside, *regularizers):
        if each.tasks and task.name not in each.tasks:
            raise ConfigError(
                f"{each.name} is for {' and '.join(each.tasks)}, and this data is {task.name} "
                f"({task.title}): leave it out"
            )


def require_one_class(task: LearningTask, command: str) -> None:
    """Check that the data has one class an image, for a command on such models alone.

    Raises:
        ConfigError: It has not.
    """
    if task != DEFAULT_TASK:
        raise ConfigError(
            f"{command} is for one class an image, and this data is {task.name} ({task.title})"
        )
