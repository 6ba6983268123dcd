"""Losses of numbers that a model gives in standard deviations of the training set."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import Dataset

from gmixout.data.batch import Batch
from gmixout.errors import ConfigError
from gmixout.losses.base import Loss
from gmixout.tasks import regression


@dataclass(frozen=True)
class Distance(Loss):
    """A loss of the differences between outputs and standardized numbers, mean over the numbers."""

    tasks: ClassVar[tuple[str, ...]] = (regression.__name__,)

    @abstractmethod
    def of(self, outputs: Tensor, goal: Tensor) -> Tensor:
        """Return the loss of each entry, `[B, numbers]`.

        Args:
            outputs: `[B, numbers]`, of the model.
            goal: `[B, numbers]`, in standard deviations from the mean.
        """

    def start(self, dataset: Dataset[Any]) -> Loss:
        """Return the loss, which knows mean and standard deviation of the training set.

        Raises:
            ConfigError: The data set does not say its numbers as a tensor `labels`, `[N, numbers]`.
        """
        labels = getattr(dataset, "labels", None)
        if not isinstance(labels, Tensor) or labels.dim() != 2:
            raise ConfigError(
                f"loss={self.name} needs a training set that says its examples' numbers, as a "
                "tensor `labels` [N, numbers]"
            )
        return _Standardized(self, regression.of(labels))

    def each(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each example, `[B]`, whose numbers are standardized already."""
        goal = batch.targets(logits.shape[1])
        return self.of(logits.to(goal.dtype), goal).mean(1)


class _Standardized(Loss):
    """A loss that standardizes numbers; of a mixture it takes the mixed numbers."""

    def __init__(self, plain: Distance, task: regression) -> None:
        self._plain, self._task = plain, task

    def each(self, logits: Tensor, batch: Batch) -> Tensor:
        # in the precision of the numbers: in half precision 3,000 and 3,001 are one
        goal = self._task.encoded(batch.targets(logits.shape[1]))
        return self._plain.of(logits.to(goal.dtype), goal).mean(1)
