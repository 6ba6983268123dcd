"""GroupDRO: weight the domains with the highest loss most."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gmixout.errors import ConfigError
from gmixout.regularizers.base import Beginning, Hooks, Regularizer, Seen, Step
from gmixout.settings import require


@dataclass(frozen=True)
class group_dro(Regularizer):
    """GroupDRO (Sagawa et al., ICLR 2020, arXiv 1911.08731, algorithm 1): `sum_d q_d L_d`.

    The weights of the domains start even and grow by `exp(eta L_d)` in every step, as in DomainBed:
    of the domains in the batch alone, whose weights are then made to sum to 1 for this step's risk.
    Batches that are even over the domains (`--batches even_domains`) give every one its turn.

    Args:
        eta: Step size of the weights. 0: the mean of the domains' mean losses.
    """

    eta: float = 0.01

    asks: ClassVar[frozenset[str]] = frozenset({"domains"})

    def __post_init__(self) -> None:
        """Refuse a negative step size."""
        super().__post_init__()
        require(self, "eta", self.eta >= 0, "0 or more")

    def start(self, beginning: Beginning) -> Hooks:
        """Return the weights of the domains, even."""
        if not beginning.domains:
            raise ConfigError(f"{self.name} needs a training set that names its domains")
        return _Weighted(self.eta, len(beginning.domains))


class _Weighted(Hooks):
    def __init__(self, eta: float, domains: int) -> None:
        self._eta = eta
        self._logs = torch.zeros(domains).log_softmax(0)  # of the weights: exp(eta L) may overflow

    def risk(self, seen: Seen, step: Step) -> Tensor:
        losses, present = domain_means(seen)
        logs = self._logs.to(losses.device, copy=True)
        if step.passes == 0:  # a second pass of the same step adds no information
            logs[present] += self._eta * losses.detach().to(logs)
            self._logs = logs = logs.log_softmax(0)
        return losses @ logs[present].softmax(0).to(losses)

    def state_dict(self) -> dict[str, Any]:
        return {"log_weights": self._logs.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._logs = state["log_weights"]


def domain_means(seen: Seen) -> tuple[Tensor, Tensor]:
    """Return the mean loss of each domain in the batch, and the domains' indices, both `[D]`."""
    assert seen.batch.domains is not None
    present, own = torch.unique(seen.batch.domains, return_inverse=True)
    counts = own.bincount(minlength=len(present))
    sums = seen.losses.new_zeros(len(present)).index_add(0, own, seen.losses)
    return sums / counts, present
