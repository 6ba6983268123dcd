"""Puts a masking process on a model, runs it behind an optimizer, and takes it off again."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gmixout.core.config import GMixout
from gmixout.core.depth import Depth, count_layers_below
from gmixout.core.layers import child_name, is_lean, mask_module, unmask_module
from gmixout.core.moments import MomentPolicy, make_policy
from gmixout.core.process import MaskedWeight
from gmixout.core.selection import Select, choose, dense_groups, find_head
from gmixout.core.summary import Summary, summarize
from gmixout.errors import AttachError, ConfigError, StateError

OptimizerT = TypeVar("OptimizerT", bound=torch.optim.Optimizer)

STATE_VERSION = 1
PARALLEL = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")
"""Classes of torch that spread a model over devices."""
_IGNORED_BY_DDP = "_ddp_params_and_buffers_to_ignore"
"""An attribute of a model by which DistributedDataParallel is told names to leave alone."""


def attach(
    model: nn.Module,
    config: GMixout,
    *,
    select: Select | None = None,
    head: str | Iterable[str] | None = None,
) -> "Masked":
    """Puts a masking process on a model, in place; do it before the optimizer is made.

    Args:
        model: Any model. Its modules keep their identity, `isinstance`, hooks and state-dict keys;
            until `detach()` they belong to subclasses of their classes (so evaluate averaged
            weights in a deepcopy, and save a `state_dict`: pickle asks for plain classes).
            Weights loaded into the model meanwhile are a new start: they become the anchor.
        config: The process.
        select: `select(name, parameter)` says which parameters are masked. By default the weights
            of linear and convolutional layers and of attention projections, without the head.
            Parameters with `requires_grad=False` are left alone, whatever it says.
        head: Name(s) of the classifier's module, which is trained densely, with a learning rate of
            its own. By default timm's `get_classifier()`, else the last linear layer of a top-level
            module called head, heads, head_dist, fc or classifier, if there is one.

    Returns:
        The handle: `param_groups`, `bind`, `state_dict`, `load_state_dict`, `summary`, `detach`.

    Raises:
        ConfigError: `config` is no `GMixout`, or `head` names no module of the model.
        AttachError: Nothing was selected, or a process is on the model already.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> masked = attach(model, GMixout(mask_rate=0.5))
        >>> optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-3)))
        >>> model(torch.ones(3, 4)).sum().backward()
        >>> optimizer.step()
        >>> masked.detach() is model
        True
    """
    if not isinstance(config, GMixout):
        raise ConfigError(
            f"attach(config={config!r}) must be a gmixout.GMixout, or one of the presets, "
            "gmixout.mixout() say."
        )
    if not isinstance(model, nn.Module):
        raise AttachError(f"attach() takes a torch.nn.Module, not {model!r}.")
    if wrapped := [m for m in model.modules() if type(m).__name__ in PARALLEL]:
        raise AttachError(
            f"attach() takes the model before it is wrapped in {type(wrapped[0]).__name__}: the "
            "wrapper keeps the parameters that it met, and would not exchange masked values' "
            "gradients. Attach, then wrap."
        )
    if any(isinstance(module, MaskedWeight) for module in model.modules()):
        raise AttachError(
            "This model carries a masking process already. Call detach() on its handle first."
        )
    heads = find_head(model, head)
    chosen = choose(model, select, heads)
    if not chosen:
        trainable = sum(1 for p in model.parameters() if p.requires_grad)
        rule = "select=" if select else "being a linear, convolutional or attention weight"
        raise AttachError(
            f"Nothing to mask: of the model's {trainable} parameters with requires_grad=True none "
            f"was selected by {rule} (head: {', '.join(heads) or 'none'}). Pass "
            "select=lambda name, parameter: ..., or set requires_grad=True on what to train."
        )
    return Masked(model, config, chosen, heads)


class Masked:
    """The handle of a masking process on a model; `attach` makes it."""

    def __init__(
        self,
        model: nn.Module,
        config: GMixout,
        chosen: dict[str, list[tuple[nn.Module, str]]],
        heads: tuple[str, ...],
    ) -> None:
        self._model: nn.Module | None = model
        self.config = config
        self.heads = heads
        self.steps = 0
        """Optimizer steps so far."""
        self._weights: dict[str, MaskedWeight] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._moments: MomentPolicy | None = None
        self._hooks: list[Any] = []
        self._lean: dict[str, bool] = {}
        by_module: dict[nn.Module, dict[str, MaskedWeight]] = {}
        below = count_layers_below(model, chosen, heads)
        trained = {
            parameter: below[name]
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and name not in chosen
        }
        for name, places in chosen.items():
            owner, attribute = places[0]
            self._weights[name] = MaskedWeight(name, owner, attribute, config)
            trained[self._weights[name].values] = below[name]
            for module, attribute in places:
                by_module.setdefault(module, {})[attribute] = self._weights[name]
                # A gradient left over would let weight decay move what is held.
                module._parameters[attribute].grad = None  # type: ignore[union-attr]
                module._parameters[attribute].requires_grad_(False)  # type: ignore[union-attr]
            self._lean[name] = all(is_lean(module, attribute) for module, attribute in places)
        self._modules = list(by_module)
        self._depth = Depth(config, len({n.rpartition(".")[0] for n in chosen}), trained)
        for module, weights in by_module.items():
            mask_module(module, weights)
        # Every process draws its own, the same as the others: DDP is to leave them alone.
        ours = {id(b) for masked in self._weights.values() for b in masked.buffers()}
        self._ignored: list[str] = getattr(model, _IGNORED_BY_DDP, [])
        buffers = [name for name, buffer in model.named_buffers() if id(buffer) in ours]
        # of the model itself: a compiled one would hand an attribute on to what it wraps
        vars(model)[_IGNORED_BY_DDP] = [*self._ignored, *buffers]

    @property
    def model(self) -> nn.Module:
        """The model that the process is on.

        Raises:
            AttachError: The process has been taken off.
        """
        if self._model is None:
            raise AttachError(
                "This masking process was taken off its model by detach(). Call attach() again "
                "for a new one."
            )
        return self._model

    @property
    def period(self) -> int:
        """Index of the masking period in force, from 0."""
        every = self.config.resample_every
        return 0 if every is None else self.steps // every

    def parameters(self) -> list[nn.Parameter]:
        """The masked weights' trainable values, float32 or wider, one tensor a weight."""
        self.model  # noqa: B018 - raises after detach()
        return [masked.values for masked in self._weights.values()]

    def param_groups(self, lr: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """Parameter groups for any `torch.optim` optimizer: "masked", "dense" and "head".

        With `residual="persist"`, weights too small to hold anything back are a group "whole".

        Args:
            lr: The learning rate that is right for full finetuning. The masked values get it times
                `config.rate_scale`, which makes up for what the process takes away; all else that
                is trained (biases, norms, embeddings) gets it as it is.
            head_lr: The head's learning rate; None: `lr`.

        Raises:
            ConfigError: A rate is negative or no number.
        """
        rest = dense_groups(self.model, self.heads, lr, head_lr, leave_out=self.parameters())
        # Apart, as fused SGD wants momentum of all of a group's parameters or of none.
        parts = {
            "masked": [m.values for m in self._weights.values() if m.redraws],
            "whole": [m.values for m in self._weights.values() if not m.redraws],
        }
        rate = lr * self.config.rate_scale
        return [{"params": p, "lr": rate, "name": n} for n, p in parts.items() if p] + rest

    def bind(self, optimizer: OptimizerT) -> OptimizerT:
        """Lets the masks advance by themselves after each `optimizer.step()`.

        Steps that a `GradScaler` skips do not count. Bind a fresh optimizer; load saved states
        afterwards. (LBFGS keeps one curvature history over all its parameters: give it the masked
        values alone if that is to start anew with every mask.)

        Returns:
            The optimizer itself.

        Raises:
            AttachError: The optimizer lacks masked values, has stepped already, or one is bound.
        """
        self.model  # noqa: B018 - raises after detach()
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise AttachError(f"bind() takes a torch.optim optimizer, not {optimizer!r}.")
        if isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            self.bind(inner)  # accelerate's wrapper has no hooks of its own
            return optimizer
        if self._optimizer is not None:
            raise AttachError(
                "An optimizer is bound already, and one process follows one optimizer. Make one "
                "that holds everything, from param_groups(), or detach() and attach() again."
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [name for name, m in self._weights.items() if id(m.values) not in held]
        if missing:
            raise AttachError(
                f"This optimizer does not hold the masked values of {len(missing)} of "
                f"{len(self._weights)} weights, {missing[0]!r} for one. Make it after attach(), "
                "from masked.param_groups(lr=...) or with masked.parameters() among its parameters."
            )
        self._moments = make_policy(self.config, self._weights, optimizer)
        self._optimizer = optimizer
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._depth.begin(self.period)
        return optimizer

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Makes a closure, which an optimizer calls after moving the values, see what it moved."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            return None

        def reevaluate() -> Any:
            self._write()
            return closure()

        return args[:1], {**kwargs, "closure": reevaluate}

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A fused optimizer is called in a skipped step too, and told so by its GradScaler. Asking
        # waits for the device, as GradScaler itself does for an optimizer that is not fused.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and float(found_inf) > 0:
            return
        self._write()
        self.steps += 1
        every = self.config.resample_every
        if every is not None and self.steps % every == 0:
            self._resample(optimizer)

    def _write(self) -> None:
        for masked in self._weights.values():
            if masked.values.requires_grad:  # else it lies below the period's start
                masked.write_()

    def _resample(self, optimizer: torch.optim.Optimizer) -> None:
        assert self._moments is not None  # bind() made it
        for masked in self._weights.values():
            if masked.redraws:
                self._moments.before(masked, optimizer)
                masked.end(self.period - 1)
                masked.begin(self.period)
                self._moments.after(masked, optimizer, self.steps)
        self._depth.begin(self.period)

    def state_dict(self) -> dict[str, Any]:
        """The process's state: with the model's and the optimizer's own, an exact resume.

        Tensors are shared with the process, as in a module's state dict. Masks are not in it: they
        follow from the config and the count of steps.
        """
        self.model  # noqa: B018 - raises after detach()
        return {
            "version": STATE_VERSION,
            "config": asdict(self.config),
            "steps": self.steps,
            "weights": {name: masked.export_state() for name, masked in self._weights.items()},
            "moments": {} if self._moments is None else self._moments.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a saved state; before or after the model's and the optimizer's own.

        Raises:
            StateError: The state is of another model, config or version; nothing was changed.
        """
        self.model  # noqa: B018 - raises after detach()
        keys = {"version", "config", "steps", "weights", "moments"}
        if not isinstance(state, dict) or set(state) != keys or state["version"] != STATE_VERSION:
            raise StateError(
                f"This is no state of a masking process of version {STATE_VERSION}; expected what "
                "masked.state_dict() returned."
            )
        ours, theirs = asdict(self.config), {**asdict(GMixout()), **state["config"]}
        differing = [key for key in ours if ours[key] != theirs[key]]
        if differing:
            raise StateError(
                "The saved process has another config: "
                + ", ".join(f"{k}={theirs[k]!r} (here {ours[k]!r})" for k in differing)
                + ". Attach with the saved config, GMixout(**state['config'])."
            )
        if set(state["weights"]) != set(self._weights):
            odd = sorted(set(state["weights"]) ^ set(self._weights))
            raise StateError(
                f"The saved process masks other weights: {odd[0]!r} is only on one side "
                f"({len(odd)} such). Load it into the model it was saved from, with its select=."
            )
        for name, masked in self._weights.items():
            masked.check_state(state["weights"][name])
        if self._moments is None and state["moments"]:
            raise StateError("Bind the optimizer before loading a state that carries moments.")
        self.steps = int(state["steps"])
        for name, masked in self._weights.items():
            masked.import_state(state["weights"][name], self.period if masked.redraws else 0)
        if self._moments is not None:
            self._moments.load_state(state["moments"])
            self._depth.begin(self.period)

    def snapshot(self) -> dict[str, Tensor]:
        """The final model's weights as of now: what `detach()` would leave, without ending it.

        Phi for residual="reset"; for "persist" the mean of Phi over masks: A + D when rescaling,
        A + (1-p) * D when not. Everything outside the masked weights is as it is.

        Returns:
            A state under the model's own keys. Tensors may be the model's own: copy what is to
            outlast the next step.
        """
        if self.config.residual == "reset":
            return self._state({})  # the model holds just that
        return self._state(self._each(MaskedWeight.plain))

    def anchor(self) -> dict[str, Tensor]:
        """The weights that masked entries are held at: A in place of every masked weight's Phi.

        Returns:
            A state under the model's own keys; what is not masked may share memory with the model.
        """
        return self._state(self._each(MaskedWeight.anchor))

    def subnetwork(self, period: int) -> dict[str, Tensor]:
        """A member of the implicit ensemble: A + c * M' * D with the mask M' of another period.

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
        """One tensor for each masked parameter."""
        self.model  # noqa: B018 - raises after detach()
        return {masked.parameter: form(masked) for masked in self._weights.values()}

    def _state(self, weights: dict[nn.Parameter, Tensor]) -> dict[str, Tensor]:
        """The model's state with other values in place of some parameters, tied ones too."""
        state = dict(self.model.state_dict())
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if parameter in weights and name in state:
                state[name] = weights[parameter]
        return state

    def summary(self) -> Summary:
        """What is masked, how, and the memory of each kind of state."""
        values = self.parameters()
        taken = {id(v) for v in values}
        state = self._optimizer.state if self._optimizer is not None else {}
        return summarize(
            self._weights,
            self._lean,
            heads=self.heads,
            dense=[p for p in self._depth.parameters if id(p) not in taken],
            optimizer=[t for v in values for t in state.get(v, {}).values() if torch.is_tensor(t)],
            carried={} if self._moments is None else self._moments.state(),
        )

    @torch.no_grad()
    def detach(self) -> nn.Module:
        """Takes the process off and leaves the plain model, with its final weights.

        Returns:
            The model itself: original classes and state-dict keys, nothing of ours left behind.

        Raises:
            AttachError: The process was taken off before, or values were trained by an optimizer
                that is not bound: nothing of that has reached the model.
        """
        model = self.model
        if self._optimizer is None:
            for name, masked in self._weights.items():
                if not masked.is_written():
                    raise AttachError(
                        f"The masked values of {name!r} were trained, but no optimizer is bound, "
                        "so the model never saw it. Call masked.bind(optimizer) before training."
                    )
        for hook in self._hooks:
            hook.remove()
        self._depth.end()
        for masked in self._weights.values():
            weight = masked.weight
            weight.copy_(masked.plain())
        for module in self._modules:
            for attribute in list(module._parameters):
                if child_name(attribute) in module._modules:
                    module._parameters[attribute].requires_grad_(True)  # type: ignore[union-attr]
            unmask_module(module)
        del vars(model)[_IGNORED_BY_DDP]
        if self._ignored:
            vars(model)[_IGNORED_BY_DDP] = self._ignored
        self._model, self._optimizer, self._moments = None, None, None
        self._weights.clear()
        self._modules.clear()
        return model
