"""Binary cross-entropy: each class by itself."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gmixout.data.batch import Batch
from gmixout.losses.base import Loss
from gmixout.tasks import multi_label


@dataclass(frozen=True)
class binary_cross_entropy(Loss):
    """Binary cross-entropy of a sigmoid for each class, mean over the classes.

    Targets are 0 and 1, or between them where images are mixed.
    """

    tasks: ClassVar[tuple[str, ...]] = (multi_label.__name__,)

    def each(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each example, `[B]`, in nats."""
        goal = batch.targets(logits.shape[1])
        losses = binary_cross_entropy_with_logits(logits.to(goal.dtype), goal, reduction="none")
        return losses.mean(1)
