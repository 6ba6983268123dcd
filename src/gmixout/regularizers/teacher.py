"""Distance to the pretrained model in function space."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from gmixout.regularizers.base import Regularizer, Seen, Step
from gmixout.settings import require
from gmixout.tasks import single_label


@dataclass(frozen=True)
class teacher(Regularizer):
    """Distillation from the pretrained model: `weight T^2 KL(p_0 || p)`, softened by T.

    Learning without Forgetting (Li and Hoiem, ECCV 2016, arXiv 1606.09282) with the pretrained
    model's outputs on the same images, for the same classes, in the form of Hinton et al. (arXiv
    1503.02531). It needs a meaningful initial head: zero-shot or probed. It costs a copy of the
    model and its forward pass.

    Args:
        weight: Weight of the term.
        temperature: Logits are divided by it, the paper's T.
    """

    weight: float = 1.0
    temperature: float = 2.0

    asks: ClassVar[frozenset[str]] = frozenset({"pretrained"})
    per_example: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = (single_label.__name__,)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require(self, "weight", self.weight >= 0, "0 or more")
        require(self, "temperature", self.temperature > 0, "above 0")

    def term(self, seen: Seen, step: Step) -> Tensor | None:
        """Return the weighted divergence, in nats, mean over the batch."""
        if not self.weight:
            return None
        own = (seen.logits / self.temperature).log_softmax(1)
        goal = (step.pretrained(seen.batch).logits / self.temperature).log_softmax(1)
        divergence = functional.kl_div(own, goal, reduction="batchmean", log_target=True)
        return self.weight * self.temperature**2 * divergence
