"""The interface of regularizers: hooks on the batch, the layers, the loss and the gradients."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

from torch import Tensor, nn

from gmixout.data.batch import Batch
from gmixout.named import Named
from gmixout.settings import check_settings

Sites: TypeAlias = Mapping[str, Callable[[Tensor], Tensor]]
"""Functions of the outputs of modules in one pass, by module name."""


class Seen(Protocol):
    """The results of one pass of a batch through the model."""

    batch: Batch
    logits: Tensor
    """`[B, classes]`."""

    @property
    def features(self) -> Tensor:
        """Inputs of the head, `[B, ...]`; for regularizers that ask for "features"."""

    @property
    def losses(self) -> Tensor:
        """The loss of each example, `[B]`."""

    def mean(self) -> Tensor:
        """Return the mean of `losses`."""


class Step(Protocol):
    """One optimizer step, as the hooks see it."""

    number: int
    """Number of the step, from 0."""
    steps: int
    """Optimizer steps of the whole run."""
    passes: int
    """Previous evaluations of this step's loss: 0 at first, 1 in SAM's second pass."""

    def forward(self, batch: Batch) -> Seen:
        """Pass another batch through the model as it is trained, with gradient."""

    def pretrained(self, batch: Batch) -> Seen:
        """Pass a batch through the pretrained model: eval mode, no gradient.

        For regularizers that ask for "pretrained", as it takes a copy of the model.
        """

    def draws(self, kind: str) -> AbstractContextManager[None]:
        """Seed torch's CPU generator by the run's seed, a kind and the step, within the context."""


class Weights(Protocol):
    """The trained values, for rules that move them between two passes."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """All trained parameters."""

    def write(self) -> None:
        """Let the model see values that were moved by hand; it does not hold the masked ones."""


class StepLoss(Protocol):
    """The loss of a step, for rules that need its gradient more than once."""

    batch: Batch

    def __call__(self, part: Batch | None = None) -> Tensor:
        """Run the passes of the step and backward, which adds to the gradients.

        Every call repeats the first one's random draws.

        Args:
            part: A part of the batch, see `Batch.part`; None: the whole batch.

        Returns:
            The loss, detached.
        """


class Hooks:
    """Hooks of a step. Each does nothing here; a regularizer overrides the few it needs.

    They are called in this order. Of all regularizers of a run, at most one may override `risk`,
    and at most one `gradients`.
    """

    def batch(self, batch: Batch, step: Step) -> Batch:
        """Return the batch to train on instead of this one."""
        del step
        return batch

    def inside(self, batch: Batch, step: Step) -> tuple[Batch, Sites]:
        """Return the batch, whose targets may change, and functions of modules' outputs."""
        del step
        return batch, {}

    def risk(self, seen: Seen, step: Step) -> Tensor:
        """Return the risk, one scalar for the losses of all examples."""
        del step
        return seen.mean()

    def term(self, seen: Seen, step: Step) -> Tensor | None:
        """Return a scalar to add to the risk; None: nothing in this step."""
        del seen, step
        return None

    def gradients(self, loss: StepLoss, weights: Weights) -> Tensor:
        """Compute the gradients for the optimizer, in place, and return the loss to report.

        Args:
            loss: Computes the loss and adds its gradients, as often as it is called.
            weights: The trained values; their gradients are None before the first call.
        """
        del weights
        return loss()

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return extra trained parameters, at the head's learning rate; dropped after training."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs: tensors and plain values, always in the same form."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        del state


@dataclass(frozen=True)
class Beginning:
    """What regularizers are given when training begins."""

    model: nn.Module
    """The pretrained model, on the training device, before the method is applied."""
    heads: tuple[str, ...]
    """Names of the modules that score the classes."""
    domains: tuple[str, ...]
    """Names of the training set's domains; empty if it has none."""
    seed: int


class Regularizer(Named, Hooks):
    """A regularizer and its options.

    Subclasses are frozen dataclasses, named the way a user types it (`--methods gmixout+NAME`). One
    without state overrides hooks; one with state returns an object with hooks from `start`.

    Example:
        >>> from dataclasses import dataclass
        >>> from gmixout.regularizers import Regularizer
        >>> @dataclass(frozen=True)
        ... class spectral_decoupling(Regularizer):
        ...     weight: float = 0.1
        ...
        ...     def term(self, seen, step):
        ...         return self.weight * seen.logits.pow(2).mean()
        >>> print(spectral_decoupling(weight=0.2))
        spectral_decoupling(weight=0.2)
    """

    asks: ClassVar[frozenset[str]] = frozenset()
    """Its needs, of: "domains", "places" and "views" in the batch, "features", "pretrained"."""
    soft: ClassVar[bool] = False
    """True if it mixes labels."""
    tasks: ClassVar[tuple[str, ...]] = ()
    """Names of the tasks that it is for (`gmixout.tasks`); empty: any."""
    per_example: ClassVar[bool] = False
    """True if its loss of a batch is the mean over the examples, each by itself: then `accumulate`
    may compute the batch in parts. Not needed for one that only changes batches or gradients."""

    def __post_init__(self) -> None:
        """Check the options against their annotations; subclasses add their ranges."""
        check_settings(self)

    def start(self, beginning: Beginning) -> Hooks:
        """Return the hooks of one run.

        Raises:
            ConfigError: The options do not fit the model or the data.
        """
        del beginning
        return self
