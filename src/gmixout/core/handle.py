"""The handle of a masking process on a model: run it behind an optimizer, then detach it."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gmixout.core.binding import Binding
from gmixout.core.config import GMixout
from gmixout.core.layers import child_name, expose, has_fast_path, mask_module, unmask_module
from gmixout.core.placing import place
from gmixout.core.process import MaskedWeight, redraw
from gmixout.core.saved import STATE_VERSION, check_state
from gmixout.core.schedule import (
    ActiveLayers,
    RandomStart,
    Schedule,
)
from gmixout.core.selection import Places, dense_groups, with_decay
from gmixout.core.summary import Summary, summarize
from gmixout.core.values import Phi, watch_optimizers
from gmixout.errors import AttachError, StateError

OptimizerT = TypeVar("OptimizerT", bound=torch.optim.Optimizer)

_IGNORED_BY_DDP = "_ddp_params_and_buffers_to_ignore"
"""Attribute of a model that lists names for DistributedDataParallel to ignore."""


class Masked:
    """The handle of a masking process on a model; `attach` makes it."""

    def __init__(
        self,
        model: nn.Module,
        config: GMixout,
        chosen: Places,
        heads: tuple[str, ...],
        higher_order: bool,
        schedule: Schedule | None,
    ) -> None:
        self._model: nn.Module | None = model
        self.config = config
        self.heads = heads
        self.steps = 0
        """Optimizer steps so far."""
        self._bound: Binding | None = None
        placed = place(model, config, chosen, heads)
        self._weights = placed.weights
        self._held = placed.held
        if config.mean_start_depth > config.min_start_depth:
            lowest = config.min_start_depth
            schedule = RandomStart((config.mean_start_depth - lowest) / (1 - lowest))
        self._layers = ActiveLayers(schedule, placed.layers, placed.depths, config.seed)
        by_module = placed.by_module()
        self._modules = list(by_module)
        for module, weights in by_module.items():
            mask_module(module, weights, fast=not higher_order)
        self._fast = {
            name: not higher_order and all(has_fast_path(*home) for home in homes)
            for name, homes in placed.homes.items()
        }
        self._watch()
        # Every rank draws the same masks itself: DDP must ignore them.
        ours = {id(b) for masked in self._weights.values() for b in masked.buffers()}
        self._ignored: list[str] = getattr(model, _IGNORED_BY_DDP, [])
        buffers = [name for name, buffer in model.named_buffers() if id(buffer) in ours]
        # of the model itself: a compiled one would hand an attribute on to what it wraps
        vars(model)[_IGNORED_BY_DDP] = [*self._ignored, *buffers]

    def _watch(self) -> None:
        """Detect values that are trained by others, or that a compiled model did not see."""
        watch_optimizers()
        for masked in self._weights.values():
            masked.values.process = self._count_calls
            if isinstance(parameter := masked.parameter, Phi):
                parameter.process = self._count_calls
            masked.values.register_post_accumulate_grad_hook(_check_seen(weakref.ref(masked)))

    def _count_calls(self) -> int | None:
        """Return the bound optimizer's steps; None if none are needed (the mask never changes)."""
        if self.config.resample_every is None:
            return None
        return 0 if self._bound is None else self._bound.calls

    def __getstate__(self) -> dict[str, Any]:
        """Drop the optimizer: bind one to a copy or an unpickled handle."""
        return {**vars(self), "_bound": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._model is not None:
            self._watch()

    @property
    def model(self) -> nn.Module:
        """The model that the process is on.

        Raises:
            AttachError: The process has been removed.
        """
        if self._model is None:
            raise AttachError(
                "detach() has removed this masking process from its model. Call attach() again "
                "for a new one."
            )
        return self._model

    @property
    def skips_layers(self) -> bool:
        """True if, in some steps, some trained values get no gradient: DDP must be told so."""
        return self._layers.schedule is not None

    @property
    def period(self) -> int:
        """Index of the masking period in force, from 0."""
        return self._period_after(self.steps)

    def _period_after(self, steps: int) -> int:
        every = self.config.resample_every
        return 0 if every is None else steps // every

    def parameters(self) -> list[nn.Parameter]:
        """Return the masked weights' trainable values, float32 or wider, one tensor a weight."""
        self.model  # noqa: B018 - raises after detach()
        return [masked.values for masked in self._weights.values()]

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the model's parameters by their own names, masked weights as Phi with its graph.

        Use it instead of `named_parameters()` for penalties on weights: their gradient reaches the
        masked values.
        """
        weights = {masked.parameter: masked for masked in self._weights.values()}
        ours = {id(masked.values) for masked in self._weights.values()}
        for name, parameter in self.model.named_parameters():
            if parameter in weights:
                weights[parameter].agreement.settle()
                yield name, expose(weights[parameter])
            elif id(parameter) not in ours:
                yield name, parameter

    def param_groups(
        self,
        lr: float,
        head_lr: float | None = None,
        weight_decay: float | None = None,
        no_decay: bool = True,
    ) -> list[dict[str, Any]]:
        """Return parameter groups for any `torch.optim` optimizer: "masked", "dense" and "head".

        With `residual="persist"`, weights too small to mask form a group "whole".

        Args:
            lr: The learning rate you would use for full finetuning. Masked values get it times
                `config.lr_scale`, which compensates for masking; everything else that is trained
                (biases, norms, embeddings) gets it unscaled.
            head_lr: The head's learning rate; None: `lr`.
            weight_decay: Decay of every group; None: the optimizer's own.
            no_decay: With a `weight_decay`, leave vectors (biases, norms) out of it: they are
                groups of their own, "dense_no_decay" and "head_no_decay".

        Raises:
            ConfigError: A learning rate or the decay is negative or not a number.
        """
        self._layers.end()  # layers that this period skips belong to the groups as well
        rest = dense_groups(self.model, self.heads, lr, head_lr, leave_out=self.parameters())
        if self._bound is not None:
            self._layers.begin(self.period)
        # Apart, as fused SGD wants momentum of all of a group's parameters or of none.
        parts = {
            "masked": [m.values for m in self._weights.values() if m.redraws],
            "whole": [m.values for m in self._weights.values() if not m.redraws],
        }
        rate = lr * self.config.lr_scale
        groups = [{"params": p, "lr": rate, "name": n} for n, p in parts.items() if p] + rest
        return groups if weight_decay is None else with_decay(groups, weight_decay, no_decay)

    def bind(self, optimizer: OptimizerT) -> OptimizerT:
        """Let the masks advance by themselves after each `optimizer.step()`.

        Steps that a `GradScaler` skips do not count. Bind a fresh optimizer; load saved states
        afterwards: the optimizer's state dict holds the process's from now on, so whatever saves
        and loads model and optimizer resumes exactly. An optimizer that is built around another
        (SAM, Lookahead) is bound with it. Another optimizer takes the place of the one before;
        the process goes on where it is, its moments start anew. (LBFGS keeps one curvature history
        over all its parameters: give it the masked values alone if that is to start anew with
        every mask.)

        Returns:
            The optimizer itself.

        Raises:
            AttachError: The optimizer lacks masked values, has stepped already, or keeps copies of
                its parameters that a redraw does not reach.
        """
        self.model  # noqa: B018 - raises after detach()
        if self._bound is not None and self._bound.optimizer is optimizer:
            return optimizer
        bound = Binding(
            self.config,
            self._weights,
            optimizer,
            write=self._write,
            after=self._after_step,
            state=self.state_dict,
            load=self._load,
            check=self._check_state,
        )
        self.unbind()
        self._bound = bound
        self._layers.begin(self.period)
        return optimizer

    def unbind(self) -> None:
        """Let go of the optimizer: its steps are no longer followed, and another can be bound."""
        if self._bound is not None:
            self._bound.release()
            self._bound = None
            self._layers.end()

    def reset(self) -> None:
        """Start anew from the weights that the model would be left with now, as `attach` does.

        They are the pretrained weights from then on; steps and periods count from 0, and the
        optimizer is unbound (make a fresh one and bind it).
        """
        self.model  # noqa: B018 - raises after detach()
        self.unbind()
        self.steps = 0
        for masked in self._weights.values():
            masked.restart()
        self._layers.begin(self.period)

    @torch.no_grad()
    def write(self) -> None:
        """Write values that were moved outside of `optimizer.step()` into the layers.

        They win over weights that others changed in the meantime. The model calls this itself in a
        forward pass, `train()`, `eval()` and `state_dict()`. A compiled model cannot, and raises in
        backward if it was forgotten.
        """
        self.model  # noqa: B018 - raises after detach()
        for masked in self._weights.values():
            masked.agreement.put()

    def _after_step(self) -> None:
        self._write()
        self.steps += 1
        every = self.config.resample_every
        if every is not None and self.steps % every == 0:
            self._resample()

    def _write(self) -> None:
        for masked in self._weights.values():
            if masked.values.requires_grad:  # else it lies below the period's start
                masked.write_()

    def _resample(self) -> None:
        assert self._bound is not None  # whose step it is
        due = [m for m in self._weights.values() if m.redraws and not self._is_frozen(m)]
        for masked in due:
            self._bound.moments.before(masked)
        redraw(due, self.period)
        for masked in due:
            self._bound.moments.after(masked, self.steps)
        self._layers.begin(self.period)

    def _is_frozen(self, masked: MaskedWeight) -> bool:
        """Return whether the user (not a schedule) froze a weight, which keeps it and its mask."""
        values = masked.values
        return not (values.requires_grad or values in self._layers.resting)

    def state_dict(self) -> dict[str, Any]:
        """Return the process's state: with the model's and the optimizer's own, an exact resume.

        The state dict of a bound optimizer holds it, too, under the key "gmixout". Tensors are
        shared with the process, as in a module's state dict. Masks are not in it: they follow from
        the config and the count of steps. Nor is a schedule: attach with the same one.
        """
        self.model  # noqa: B018 - raises after detach()
        return {
            "version": STATE_VERSION,
            "config": asdict(self.config),
            "steps": self.steps,
            "layers": self._layers.names(self.period),
            "periods": {  # of masks that are not this period's, since their weights were frozen
                name: masked.period
                for name, masked in self._weights.items()
                if masked.redraws and masked.period != self.period
            },
            "weights": {name: masked.export_state() for name, masked in self._weights.items()},
            "moments": {} if self._bound is None else self._bound.moments.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state; before or after the model's and the optimizer's own.

        Raises:
            StateError: The state is of another model, config, schedule or version, or damaged;
                nothing was changed.
        """
        self._check_state(state)
        self._load(state)

    def _check_state(self, state: Any) -> None:
        self.model  # noqa: B018 - raises after detach()
        check_state(state, self.config, self._weights, self._layers_after, self._check_moments)

    def _layers_after(self, steps: int) -> list[str] | None:
        return self._layers.names(self._period_after(steps))

    def _check_moments(self, saved: Any) -> None:
        if self._bound is not None:
            self._bound.moments.check_state(saved)
        elif saved != {}:
            raise StateError("Bind the optimizer before loading a state that carries moments.")

    def _load(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, masked in self._weights.items():
            period = state["periods"].get(name, self.period if masked.redraws else 0)
            masked.import_state(state["weights"][name], period)
        if self._bound is not None:
            self._bound.moments.load_state(state["moments"])
            self._bound.loaded = True
            self._layers.begin(self.period)

    def snapshot(self) -> dict[str, Tensor]:
        """Return the weights that `detach()` would leave now, without ending the process.

        Phi for residual="reset"; for "persist" the mean of Phi over masks: A + D when rescaling,
        else A + s * D with the share s of a weight's units that is trained (1-p but for rounding).
        Everything outside the masked weights is unchanged.

        Returns:
            A state under the model's own keys. Tensors may be the model's own: copy what is to
            outlast the next step.
        """
        return self._state(self._each(MaskedWeight.plain))

    def anchor(self) -> dict[str, Tensor]:
        """Return the anchor weights: A in place of every masked weight's Phi.

        Returns:
            A state under the model's own keys; what is not masked may share memory with the model.
        """
        return self._state(self._each(MaskedWeight.anchor))

    def subnetwork(self, period: int) -> dict[str, Tensor]:
        """Return a member of the implicit ensemble: A + c * M' * D with another period's mask M'.

        The anchor A and the residual D are the present ones; M' is the mask that `period` draws, so
        the present `period` gives Phi. With residual="reset" D lives on the mask M in force alone,
        and the member is A + c * (M' and M) * D; at the start of a period it is A, whatever M'.

        Args:
            period: Index of a masking period, from 0; it may lie beyond the end of training.

        Returns:
            A state under the model's own keys; what is not masked may share memory with the model.
        """
        return self._state(self._each(lambda masked: masked.subnetwork(period)))

    def _each(self, form: Callable[[MaskedWeight], Tensor]) -> dict[nn.Parameter, Tensor]:
        """Return one tensor for each masked parameter."""
        self.model  # noqa: B018 - raises after detach()
        for masked in self._weights.values():
            masked.agreement.settle()
        return {masked.parameter: form(masked) for masked in self._weights.values()}

    def _state(self, weights: dict[nn.Parameter, Tensor]) -> dict[str, Tensor]:
        """Return the model's state with other values in place of some parameters, tied ones too."""
        state = dict(self.model.state_dict())
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if parameter in weights and name in state:
                state[name] = weights[parameter]
        return state

    def summary(self) -> Summary:
        """Return what is masked and how, with the memory of each kind of state."""
        values = self.parameters()
        taken = {id(v) for v in values}
        state = self._bound.innermost.state if self._bound is not None else {}
        return summarize(
            self._weights,
            self._fast,
            heads=self.heads,
            dense=[p for p in self._layers.parameters if id(p) not in taken],
            held=self._held,
            optimizer=[t for v in values for t in state.get(v, {}).values() if torch.is_tensor(t)],
            carried={} if self._bound is None else self._bound.moments.state(),
        )

    @torch.no_grad()
    def detach(self) -> nn.Module:
        """Remove the process and leave the plain model, with its final weights.

        Returns:
            The model itself, with its original classes and state-dict keys.

        Raises:
            AttachError: The process has already been removed.
        """
        model = self.model
        self.unbind()
        self._layers.end()
        for masked in self._weights.values():
            masked.agreement.look()
            masked.weight.copy_(masked.plain())
            masked.release()
        for module in self._modules:
            for attribute in list(module._parameters):
                if child_name(attribute) in module._modules:
                    module._parameters[attribute].requires_grad_(True)  # type: ignore[union-attr]
            unmask_module(module)
        for parameter in self._held:
            parameter.requires_grad_(True)
        del vars(model)[_IGNORED_BY_DDP]
        if self._ignored:
            vars(model)[_IGNORED_BY_DDP] = self._ignored
        self._model = None
        self._weights.clear()
        self._modules.clear()
        self._held.clear()
        return model


def _check_seen(masked: "weakref.ref[MaskedWeight]") -> Callable[[Tensor], None]:
    """Return a hook that torch holds beyond the reach of Python's garbage collector."""

    def check(values: Tensor) -> None:
        del values
        if (found := masked()) is not None:
            found.agreement.check()

    return check
