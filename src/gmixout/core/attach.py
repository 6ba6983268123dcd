"""Attach a masking process to a model."""

from collections.abc import Iterable

from torch import nn

from gmixout.core.config import GMixout
from gmixout.core.handle import Masked
from gmixout.core.process import MaskedWeight
from gmixout.core.schedule import Schedule
from gmixout.core.selection import Select, choose, find_head
from gmixout.errors import AttachError, ConfigError

PARALLEL = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")
"""Torch classes that distribute a model over devices."""


def attach(
    model: nn.Module,
    config: GMixout,
    *,
    select: Select | None = None,
    head: str | Iterable[str] | None = None,
    higher_order: bool = False,
    schedule: Schedule | None = None,
) -> Masked:
    """Attach a masking process to a model, in place; call it before making the optimizer.

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
            its own; `()` if there is none. By default it is searched for, see `find_head`.
        higher_order: Let gradients be differentiated again (`create_graph=True`), at the price of
            dense weight gradients; without it such a backward pass raises an error.
        schedule: Says which layers each period trains, see `Schedule`. By default it is the
            `RandomStart` of `config.mean_start_depth`, or all layers where that is 0.

    Returns:
        The handle: `param_groups`, `bind`, `state_dict`, `load_state_dict`, `summary`, `detach`.

    Raises:
        ConfigError: `config` is not a `GMixout`, `head` names no module of the model, or `schedule`
            has no method `active` or contradicts `config.mean_start_depth`.
        AttachError: No classifier was found, and neither `head` nor `select` is given; nothing was
            selected; or the model already has a process.

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
            "gmixout.mixout() for example."
        )
    if schedule is not None and not callable(getattr(schedule, "active", None)):
        raise ConfigError(
            f"attach(schedule={schedule!r:.200}) must be an object with a method "
            "active(period, layers, seed) that returns the names of the layers to train."
        )
    if schedule is not None and config.mean_start_depth > 0:
        raise ConfigError(
            f"attach() takes either a schedule or GMixout(mean_start_depth="
            f"{config.mean_start_depth!r}), which is a schedule of its own. Set mean_start_depth=0."
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
            "This model already has a masking process. Call detach() on its handle first."
        )
    # what is taken for a part of the body would be held
    needed = select is None or config.biases != "dense" or config.min_start_depth > 0
    heads = find_head(model, head, needed=needed)
    chosen = choose(model, select, heads)
    if not chosen:
        trainable = sum(1 for p in model.parameters() if p.requires_grad)
        rule = "select=" if select else "being a linear, convolutional or attention weight"
        raise AttachError(
            f"Nothing to mask: of the model's {trainable} parameters with requires_grad=True none "
            f"was selected by {rule} (head: {', '.join(heads) or 'none'}). Pass "
            "select=lambda name, parameter: ..., or set requires_grad=True on what to train."
        )
    return Masked(model, config, chosen, heads, higher_order, schedule)
