"""Loss and gradients of one step: batch, passes, risk, terms, backward."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from gmixout.data.batch import Batch
from gmixout.draws import draws_of, seed_of
from gmixout.errors import ConfigError, StateError
from gmixout.losses import Loss
from gmixout.ranks import current
from gmixout.regularizers import Beginning, Hooks, Regularizer, Weights
from gmixout.training.arguments import TrainingArguments
from gmixout.training.augmentation import Augmented
from gmixout.training.checkpoint import check_form

ASKS = {"domains", "places", "views", "features", "pretrained"}
"""What a regularizer may ask for."""


class Started(NamedTuple):
    """The regularizers of one run."""

    names: list[str]
    hooks: list[Hooks]
    risk: Hooks | None
    """The one that defines the risk."""
    gradients: Hooks | None
    """The one that makes the gradients."""


def started(
    regularizers: Sequence[Regularizer],
    model: nn.Module,
    heads: tuple[str, ...],
    dataset: Dataset[Any],
    arguments: TrainingArguments,
) -> Started:
    """Start the regularizers of a run; they must fit each other, the model, data and settings.

    Raises:
        ConfigError: They do not.
    """
    names = [each.name for each in regularizers]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"regularizer {', '.join(double)} is given twice; once is allowed")
    if unknown := sorted(asks_of(regularizers) - ASKS):
        raise ConfigError(
            f"a regularizer asks for {', '.join(unknown)}; it may ask for {', '.join(sorted(ASKS))}"
        )
    Augmented(dataset, arguments, asks_of(regularizers))
    domains = tuple(map(str, getattr(dataset, "group_names", ())))
    beginning = Beginning(model, heads, domains, arguments.seed)
    hooks = [each.start(beginning) for each in regularizers]
    found = Started(names, hooks, _only("risk", names, hooks), _only("gradients", names, hooks))
    for regularizer, own in zip(regularizers, hooks, strict=True):
        if regularizer.per_example or not _sees_batches(own):
            continue
        if arguments.accumulate > 1:
            raise ConfigError(
                f"accumulate={arguments.accumulate} cannot be combined with {regularizer.name}, "
                "whose loss is of the whole batch: use accumulate=1, with checkpointing or a "
                "smaller batch_size to save memory"
            )
        if (count := current().count) > 1:
            raise ConfigError(
                f"{count} processes cannot share a batch with {regularizer.name}, whose loss is of "
                "the whole batch: start gmixout in one process"
            )
    if found.gradients is not None and arguments.mixed_precision == "fp16":
        raise ConfigError(
            "a regularizer with several backward passes does not work with "
            "mixed_precision=fp16, whose loss is scaled: use bf16"
        )
    return found


def asks_of(regularizers: Sequence[Regularizer]) -> frozenset[str]:
    """Return the requests of all regularizers together."""
    return frozenset().union(*(each.asks for each in regularizers))


@dataclass
class _Seen:
    """See `regularizers.Seen`."""

    batch: Batch
    logits: Tensor
    loss: Loss
    given: Tensor | None

    @property
    def features(self) -> Tensor:
        if self.given is None:
            raise ConfigError(
                "the input of the classifier was not seen in the forward pass: the method has put "
                "another module in place of the model's head"
            )
        return self.given

    @cached_property
    def losses(self) -> Tensor:
        return self.loss.losses(self.logits, self.batch)

    def mean(self) -> Tensor:
        return self.loss.mean(self.logits, self.batch)


class _Net:
    """A model, with the input of its head if heads are named."""

    def __init__(self, model: nn.Module, heads: tuple[str, ...] | None) -> None:
        self.model = model
        self._given: Tensor | None = None
        self._handle: Any = None
        if heads == ():
            raise ConfigError("a regularizer needs the input of the head; no head was found")
        if heads is not None:
            self._handle = model.get_submodule(heads[0]).register_forward_pre_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._given = inputs[0]

    def __call__(self, batch: Batch, loss: Loss) -> _Seen:
        """Pass a batch through the model."""
        self._given = None
        logits = self.model(batch.images)
        return _Seen(batch, logits, loss, self._given)

    def close(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()


class Passes:
    """The model of a run with the hooks on its steps.

    Construct it before a method is put on the model, which regularizers see as pretrained; then
    call `ready` with what is trained.

    Args:
        accelerator: Runs backward.
        model: The pretrained model, on the training device.
        heads: Names of the modules that score the classes.
        dataset: The training set.
        regularizers: The regularizers, in this order.
        arguments: The settings.

    Raises:
        ConfigError: Two regularizers make the risk or the gradients, or one of them does not fit
            the model, the data or the settings.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        heads: tuple[str, ...],
        dataset: Dataset[Any],
        regularizers: Sequence[Regularizer],
        arguments: TrainingArguments,
    ) -> None:
        self._accelerator, self._arguments, self._ranks = accelerator, arguments, current()
        size = arguments.batch_size
        self._share = self._ranks.count * len(self._ranks.part(size)) / size
        self._plain = model
        self._weights: Weights | None = None
        self._loss = arguments.criterion.start(dataset)
        run = started(regularizers, model, heads, dataset, arguments)
        self._names, self._hooks, self._risk, self._gradients = run
        self._form = self.state_dict()
        asks = asks_of(regularizers)
        watched = heads if "features" in asks else None
        self._pretrained = None
        if "pretrained" in asks:
            start = copy.deepcopy(model).eval().requires_grad_(False)
            self._pretrained = _Net(start, watched)
        self._net = _Net(model, watched)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters that regularizers train beside the model."""
        return [parameter for hooks in self._hooks for parameter in hooks.parameters()]

    @property
    def suspects(self) -> str:
        """What else a loss that is not finite may come from, as the end of a sentence."""
        return f", and look at {' and '.join(self._names)}" if self._names else ""

    def ready(self, model: nn.Module, weights: Weights) -> None:
        """Set the model in training and its trained values."""
        self._net.model, self._weights = model, weights

    def close(self) -> None:
        """Remove the hooks from the model."""
        self._net.close()

    def take(self, batch: Batch, number: int) -> Tensor:
        """Compute the gradients of a step, in place; return its loss, detached.

        Args:
            batch: The batch from the loader.
            number: Number of the step, from 0.
        """
        if self._ranks.count > 1:  # dropout: ranks see other images, and a resume repeats it
            torch.manual_seed(seed_of(self._arguments.seed, f"rank {self._ranks.rank}", number))
        step = _Step(self, number)
        for hooks in self._hooks:
            batch = hooks.batch(batch, step)
        sites: dict[str, list[Callable[[Tensor], Tensor]]] = {}
        for hooks in self._hooks:
            batch, changes = hooks.inside(batch, step)
            for name, change in changes.items():
                sites.setdefault(name, []).append(change)
        loss = _Loss(self, batch, sites, step)
        if self._gradients is None:
            return loss()
        assert self._weights is not None
        return self._gradients.gradients(loss, self._weights)

    def forward(self, batch: Batch) -> _Seen:
        """Pass a batch through the model as it is trained."""
        return self._net(batch, self._loss)

    def pretrained(self, batch: Batch) -> _Seen:
        """Pass a batch through the pretrained model."""
        if self._pretrained is None:
            raise ConfigError('a regularizer that uses step.pretrained must ask for "pretrained"')
        with torch.no_grad(), self._accelerator.autocast():
            return self._pretrained(batch, self._loss)

    def loss(self, batch: Batch, sites: Mapping[str, Any], step: "_Step") -> Tensor:
        """Run the passes of a step, each with its backward; return the loss, detached."""
        *parts, last = batch.split(self._arguments.accumulate)
        losses = []
        with self._accelerator.no_sync(self._net.model) if parts else nullcontext():
            losses += [self._backward(part, len(part) / len(batch), sites, step) for part in parts]
        losses.append(self._backward(last, len(last) / len(batch), sites, step))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _backward(
        self, part: Batch, weight: float, sites: Mapping[str, Any], step: "_Step"
    ) -> Tensor:
        """Run a part of a batch forward and backward; return its share of the loss, detached."""
        with _changed_inside(self._plain, sites):
            seen = self.forward(part)
        total = self._total(seen, step)
        weight *= self._share  # gradients are averaged over ranks, whose parts may differ by one
        if weight != 1:
            total = total * weight
        self._accelerator.backward(total)
        return total.detach()

    def _total(self, seen: _Seen, step: "_Step") -> Tensor:
        """Return the risk and all terms."""
        total = seen.mean() if self._risk is None else self._risk.risk(seen, step)
        for name, hooks in zip(self._names, self._hooks, strict=True):
            term = hooks.term(seen, step)
            if term is not None:
                _check_scalar(term, f"the term of {name}")
                total = total + term
        _check_scalar(total, "the risk")
        return total

    def draws(self, kind: str, number: int) -> AbstractContextManager[None]:
        """Seed torch's CPU generator by the run's seed, a kind and a step, within the context."""
        return draws_of(self._arguments.seed, kind, number)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self._arguments.steps

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of each regularizer."""
        return [hooks.state_dict() for hooks in self._hooks]

    def check_state(self) -> None:
        """Check that the states have the form that they began with.

        Raises:
            ConfigError: One of them has not: its checkpoint could not be resumed.
        """
        for name, form, now in zip(self._names, self._form, self.state_dict(), strict=True):
            try:
                check_form(now, form, name)
            except StateError:
                raise ConfigError(
                    f"the state of regularizer {name} changes its names, shapes or types in "
                    "training, so that no checkpoint of it could be resumed: give state_dict() "
                    "one form from the start"
                ) from None

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Load what `state_dict` returned."""
        if len(states) != len(self._hooks):
            raise StateError(
                f"the state has {len(states)} regularizers, and this run {len(self._hooks)}"
            )
        for hooks, state in zip(self._hooks, states, strict=True):
            hooks.load_state_dict(state)


class _Step:
    """See `regularizers.Step`."""

    def __init__(self, of: Passes, number: int) -> None:
        self._of, self.number, self.passes = of, number, 0
        self.steps = of.steps
        self.forward, self.pretrained = of.forward, of.pretrained

    def draws(self, kind: str) -> AbstractContextManager[None]:
        return self._of.draws(kind, self.number)


class _Loss:
    """See `regularizers.StepLoss`."""

    def __init__(self, of: Passes, batch: Batch, sites: Mapping[str, Any], step: _Step) -> None:
        self._of, self.batch, self._sites, self._step = of, batch, sites, step
        self._device = batch.labels.device
        self._random = self._states() if of._gradients is not None else ()

    def _states(self) -> tuple[Tensor, ...]:
        on_gpu = self._device.type == "cuda"
        own = (torch.cuda.get_rng_state(self._device),) if on_gpu else ()
        return (torch.get_rng_state(), *own)

    def __call__(self, part: Batch | None = None) -> Tensor:
        if self._step.passes:
            cpu, *gpu = self._random
            torch.set_rng_state(cpu)
            for state in gpu:
                torch.cuda.set_rng_state(state, self._device)
        batch = self.batch if part is None else part
        loss = self._of.loss(batch, self._sites, self._step)
        self._step.passes += 1
        return loss


def _check_scalar(value: Tensor, what: str) -> None:
    if value.dim():
        raise ConfigError(f"{what} has shape {list(value.shape)}; it must be one number")


@contextmanager
def _changed_inside(model: nn.Module, sites: Mapping[str, Any]) -> Iterator[None]:
    """Change the outputs of modules, by name, while the context lasts."""
    handles = []
    try:
        for name, changes in sites.items():
            try:
                module = model.get_submodule(name)
            except AttributeError:
                text = f"a regularizer changes the output of a layer: there is no module {name!r}"
                raise ConfigError(text) from None
            for change in changes:
                hook = _output_through(change)
                handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output_through(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda module, inputs, output: change(output)


def _sees_batches(hooks: Hooks) -> bool:
    """Return whether hooks see the examples of a batch beside each other in a pass."""
    return any(
        getattr(type(hooks), name) is not getattr(Hooks, name)
        for name in ("inside", "risk", "term")
    )


def _only(hook: str, names: Sequence[str], hooks: Sequence[Hooks]) -> Hooks | None:
    """Return the hooks that override one; None if nobody does.

    Raises:
        ConfigError: Several do.
    """
    ones = [
        (name, each)
        for name, each in zip(names, hooks, strict=True)
        if getattr(type(each), hook) is not getattr(Hooks, hook)
    ]
    if len(ones) > 1:
        several = ", ".join(name for name, _ in ones)
        raise ConfigError(
            f"{several} cannot be combined: each of them defines the {hook} of a step"
        )
    return ones[0][1] if ones else None
