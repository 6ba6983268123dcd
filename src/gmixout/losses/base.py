"""The interface of a loss: the loss of each example, given the model's logits."""

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import Dataset

from gmixout.data.batch import Batch
from gmixout.errors import ConfigError
from gmixout.named import Named
from gmixout.settings import check_settings


class Loss(Named):
    """A loss and its options.

    Subclasses are frozen dataclasses, named the way a user types it (`--loss NAME`).

    Example:
        >>> from dataclasses import dataclass
        >>> from gmixout.losses import Loss
        >>> @dataclass(frozen=True)
        ... class focal(Loss):
        ...     gamma: float = 2.0
        ...
        ...     def each(self, logits, batch):
        ...         log_p = logits.log_softmax(1)
        ...         return -(batch.targets(logits.shape[1]) * (1 - log_p.exp()) ** self.gamma
        ...                  * log_p).sum(1)
    """

    soft: ClassVar[bool] = False
    """True if targets give every class a share, whatever the batch holds."""
    tasks: ClassVar[tuple[str, ...]] = ()
    """Names of the tasks that it is for (`gmixout.tasks`); empty: any."""

    def __post_init__(self) -> None:
        """Check the options against their annotations; subclasses add their ranges."""
        check_settings(self)

    def start(self, dataset: Dataset[Any]) -> "Loss":
        """Return the loss of a run, for options that need to know the training set.

        Raises:
            ConfigError: The data set lacks what is needed.
        """
        del dataset
        return self

    @abstractmethod
    def each(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each example, `[B]`.

        Args:
            logits: `[B, classes]`, or `[B, numbers]`.
            batch: Its examples; images may be mixtures (`Batch.targets`).
        """

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return `each`, `[B]`.

        Raises:
            ConfigError: It has another shape.
        """
        losses = self.each(logits, batch)
        if losses.shape != batch.labels.shape[:1]:
            raise ConfigError(
                f"loss {self.name} returns shape {list(losses.shape)}; each() must give one value "
                f"for each of the {len(batch)} examples"
            )
        return losses

    def mean(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean of `each`; override it where one kernel gives it at once."""
        return self.losses(logits, batch).mean()
