"""The link from a masking process to an optimizer: checks before binding, and hooks."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gmixout.core.config import GMixout
from gmixout.core.moments import make_policy
from gmixout.core.process import MaskedWeight
from gmixout.core.values import BOUND
from gmixout.errors import AttachError, StateError

logger = logging.getLogger(__name__)

STATE_KEY = "gmixout"
"""Key of the process's state in the optimizer's state dict."""


class Binding:
    """An optimizer that a masking process follows.

    Masks advance with the steps of the innermost optimizer: one that is built around another (SAM,
    Lookahead, accelerate's) makes its steps by it. The state dict of each holds the process's.

    Args:
        config: The process.
        weights: Its weights.
        optimizer: The optimizer, fresh.
        write: Writes the values into the layers.
        after: Called after each step that the optimizer made.
        state: Returns the process's state.
        load: Takes a state that `check` has accepted.
        check: Raises a StateError where a state cannot be loaded.

    Raises:
        AttachError: The optimizer lacks masked values, has stepped already, or keeps what cannot
            follow a redraw.
    """

    def __init__(
        self,
        config: GMixout,
        weights: Mapping[str, MaskedWeight],
        optimizer: torch.optim.Optimizer,
        *,
        write: Callable[[], None],
        after: Callable[[], None],
        state: Callable[[], dict[str, Any]],
        load: Callable[[dict[str, Any]], None],
        check: Callable[[Any], None],
    ) -> None:
        self.optimizer = optimizer
        self._chain = unwrap(optimizer)
        self.innermost = self._chain[-1]
        _check_holds(self.innermost, weights)
        redrawn = {n: m for n, m in weights.items() if m.redraws}
        for each in self._chain:
            _check_fresh(each, weights)
            if config.resample_every is not None:
                _check_copies(each, redrawn)
        _warn_of_rates(config, self.innermost, redrawn)
        self.moments = make_policy(config, weights, self._chain)
        self._write, self._after, self._load, self._check = write, after, load, check
        self._incoming: dict[str, Any] | None = None
        self.loaded = False
        """Whether the process has taken up a saved state since it was bound."""
        self.calls = 0
        """Calls of the optimizer's step, those that it skipped too."""
        self._hooks = [
            self.innermost.register_step_pre_hook(self._before_step),
            self.innermost.register_step_post_hook(self._after_step),
        ]
        for each in self._chain:
            # Some wrappers are optimizers by their class alone, without hooks, and hand on the
            # inner optimizer's steps and state.
            if each is not self.innermost and hasattr(each, "_optimizer_step_post_hooks"):
                self._hooks.append(each.register_step_post_hook(lambda *_: write()))
            if hasattr(each, "_optimizer_state_dict_post_hooks"):
                self._hooks += [
                    each.register_state_dict_post_hook(
                        lambda _, saved: {**saved, STATE_KEY: state()}
                    ),
                    each.register_load_state_dict_pre_hook(self._before_load),
                    each.register_load_state_dict_post_hook(self._after_load),
                ]
            BOUND.add(each)

    def release(self) -> None:
        """Leave the optimizer as it was."""
        for hook in self._hooks:
            hook.remove()
        for each in self._chain:
            BOUND.discard(each)

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Make a closure, which an optimizer calls after moving the values, see what it moved."""
        del optimizer
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            return None

        def reevaluate() -> Any:
            self._write()
            return closure()

        return args[:1], {**kwargs, "closure": reevaluate}

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.calls += 1
        # A fused optimizer is called in a skipped step too, and told so by its GradScaler. Asking
        # waits for the device, as GradScaler itself does for an optimizer that is not fused.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not float(found_inf) > 0:
            self._after()

    def _before_load(self, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
        state = saved.get(STATE_KEY)
        if state is not None:
            self._check(state)
        elif saved.get("state") and not self.loaded:
            raise StateError(
                f"This state of {type(optimizer).__name__} was saved by an optimizer that no "
                "masking process followed, so the masks' state is not in it. Load it with "
                "masked.load_state_dict(...) first, or start with a fresh optimizer."
            )
        self._incoming = state

    def _after_load(self, optimizer: torch.optim.Optimizer) -> None:
        del optimizer
        state, self._incoming = self._incoming, None
        if state is not None:
            self._load(state)


def unwrap(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """Return an optimizer and those that it is built around, the innermost last.

    Raises:
        AttachError: It is not a torch optimizer, or is built around several.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise AttachError(f"bind() takes a torch.optim optimizer, not {optimizer!r}.")
    chain = [optimizer]
    while inner := [each for each in _optimizers_in(chain[-1]) if each not in chain]:
        if len(inner) > 1:
            kinds = ", ".join(type(each).__name__ for each in inner)
            raise AttachError(
                f"{type(optimizer).__name__} is built around several optimizers ({kinds}), and one "
                "process follows one. Bind the one that holds the masked values."
            )
        chain.append(inner[0])
    return chain


def _optimizers_in(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """Return the optimizers that one has among its attributes, in lists, too."""
    found = []
    for value in vars(optimizer).values():
        several = isinstance(value, (list, tuple, Mapping))
        parts = value.values() if isinstance(value, Mapping) else value if several else [value]
        found += [each for each in parts if isinstance(each, torch.optim.Optimizer)]
    return found


def _check_holds(optimizer: torch.optim.Optimizer, weights: Mapping[str, MaskedWeight]) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, masked in weights.items() if id(masked.values) not in held]
    if missing:
        raise AttachError(
            f"This optimizer does not hold the masked values of {len(missing)} of {len(weights)} "
            f"weights, {missing[0]!r} for one. Make it after attach(), from "
            "masked.param_groups(lr=...) or with masked.parameters() among its parameters."
        )


def _check_fresh(optimizer: torch.optim.Optimizer, weights: Mapping[str, MaskedWeight]) -> None:
    """Raise if it has stepped: state made with the optimizer has step counts, all of them 0."""
    for name, masked in weights.items():
        state = getattr(optimizer, "state", {}).get(masked.values, {})
        counts = [float(value) for key, value in state.items() if "step" in str(key)]
        if state and (not counts or max(counts) > 0):
            raise AttachError(
                f"The optimizer has already stepped the values of {name!r}. Bind it right after "
                "making it, and load saved states afterwards."
            )


def _check_copies(optimizer: torch.optim.Optimizer, weights: Mapping[str, MaskedWeight]) -> None:
    """Raise if it keeps copies of parameters where a redraw does not reach them."""
    groups = getattr(optimizer, "param_groups", [])
    own = {id(p) for group in groups for p in group["params"]}
    shapes = {masked.values.shape for masked in weights.values()}
    places = {k: v for k, v in vars(optimizer).items() if k not in ("state", "param_groups")}
    for group in groups:
        places |= {k: v for k, v in group.items() if k != "params"}
    for place, value in places.items():
        if any(t.shape in shapes and t.numel() > 1 and id(t) not in own for t in _tensors(value)):
            raise AttachError(
                f"{type(optimizer).__name__} keeps copies of its parameters in {place!r}, which "
                "would belong to other entries once masks are redrawn. Use an optimizer that "
                "keeps them in its state, or resample_every=None."
            )


def _tensors(value: Any, depth: int = 4) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, (Mapping, list, tuple)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each, depth - 1)


def _warn_of_rates(
    config: GMixout, optimizer: torch.optim.Optimizer, weights: Mapping[str, MaskedWeight]
) -> None:
    """Warn if the groups give masked values the learning rate of dense parameters."""
    ours = {id(masked.values) for masked in weights.values()}
    rates: dict[bool, set[float]] = {True: set(), False: set()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rate = group.get("initial_lr", group.get("lr", 0))  # before any warm-up
            rates[id(parameter) in ours].add(float(rate))
    if same := sorted(rates[True] & rates[False] - {0.0}):
        scale = config.lr_scale
        if abs(scale - 1) > 1e-9:
            logger.warning(
                "The optimizer's groups give masked values the learning rate of dense parameters, "
                "%g, where masked.param_groups(lr=%g) gives %g (see GMixout.lr_scale). Make "
                "the optimizer from masked.param_groups(), which takes weight_decay, too.",
                same[0],
                same[0],
                same[0] * scale,
            )
