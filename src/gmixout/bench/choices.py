"""Settings that follow from the model and the data, where the user does not give them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from gmixout.bench.progress import print_lines
from gmixout.bench.recipes import (
    CITATIONS,
    HEAD_LR,
    LEAST_STEPS,
    NO_LAYERS,
    RATES,
    RECIPES,
    SHORT_RUN,
    WARMUP_SHARE,
    WITHOUT_LAYERS,
    Recipe,
    Value,
    size_of,
)
from gmixout.bench.task import Task
from gmixout.data import Source
from gmixout.errors import ConfigError
from gmixout.losses import LOSSES
from gmixout.methods import Method
from gmixout.models import Pretrained
from gmixout.models.architectures import ARCHITECTURES, architecture_of
from gmixout.models.layers import has_layers
from gmixout.named import defaults_of
from gmixout.settings import check_settings, require
from gmixout.tasks import DEFAULT_TASK, single_label
from gmixout.training import TrainingArguments

RecipeName: TypeAlias = Literal[
    "auto", "none", "clip", "siglip", "dino", "convnext", "vit", "cnn", "other"
]
CHOSEN = (
    "steps", "batch_size", "lr", "head_lr", "weight_decay", "warmup_steps", "max_grad_norm",
    "layer_decay", "crop_scale", "flip",
)  # fmt: skip
"""Settings that a recipe may choose."""
FOLLOWING = ("warmup_steps",)
"""Those of them that follow from other settings, so that a config file should not fix them."""
PLAIN_RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates of a comparison without a recipe."""
_OF_ADAMW = ("lr", "head_lr", "weight_decay", "layer_decay")


@dataclass(frozen=True)
class Choices:
    """Settings of a command beside those of the training run."""

    epochs: float | None = None
    """Passes over the training images, instead of `steps`; fractions are allowed."""
    recipe: RecipeName = "auto"
    """Settings where you give none. auto: by the architecture of the model that you name and the
    number of images (docs/recipes.md); none: the defaults of this help; or one by name."""

    def __post_init__(self) -> None:
        """Refuse values of another type or out of range."""
        check_settings(self)
        require(self, "epochs", self.epochs is None or self.epochs > 0, "above 0, or None")

    def applies(self, benchmark: object, model: str | None) -> bool:
        """Return whether a recipe chooses settings: where the user names a model."""
        if self.recipe == "auto":
            return isinstance(benchmark, Source) and model is not None
        return self.recipe != "none"


@dataclass(frozen=True)
class ChosenSettings:
    """The settings of a run, and how they were chosen."""

    arguments: TrainingArguments
    lines: tuple[str, ...] = ()
    """What was chosen, and why; for the screen and for config.yaml."""
    rates: tuple[float, ...] = PLAIN_RATES
    """Learning rates of a comparison."""
    by_recipe: bool = False
    """True if a recipe chose the learning rates."""
    values: Mapping[str, Value] = field(default_factory=dict)
    """What a recipe chose, by setting, with sources."""
    method: Method | None = None
    """The method of the only run, with the options that follow from its number of steps."""

    def with_lines(self, arguments: TrainingArguments, lines: Iterable[str]) -> "ChosenSettings":
        """Return them with other settings of the run, and print and add how these were chosen."""
        lines = tuple(lines)
        print_lines(lines)
        return replace(self, arguments=arguments, lines=(*self.lines, *lines))

    def rates_of(self, methods: Iterable[Method]) -> dict[str, list[float]]:
        """Return other learning rates than `rates` for trained methods that need them, by name."""
        found = {}
        for method in methods if self.by_recipe else ():
            factor = lr_multiplier(method)
            if factor != 1 and method.trained is not None:
                found[method.trained.name] = [_rounded(factor * rate) for rate in self.rates]
        return found


def choose_settings(
    task: Task, given: Mapping[str, Any], method: Method | None = None
) -> ChosenSettings:
    """Return the settings of a run on a task.

    Args:
        task: Data and model; loaded only if settings follow from it.
        given: The settings that the user gave: fields of `TrainingArguments` and of `Choices`.
        method: The method of the only run, which may need another learning rate than full
            finetuning.

    Raises:
        ConfigError: A setting is wrong, or `epochs` and `steps` are both given.
        GmixoutError: The task cannot be loaded.
    """
    own = dict(given)
    choices = Choices(**{name: own.pop(name) for name in defaults_of(Choices) if name in own})
    if choices.epochs is not None and "steps" in own:
        raise ConfigError(
            f"--epochs {choices.epochs:g} and --steps {own['steps']} both set the length of a run: "
            "give one of them"
        )
    loss = {} if own.get("loss") is not None else _loss_of(task)
    own |= {name: value.value for name, value in loss.items()}
    told = tuple(f"{name} {each.value.name}: {each.note}" for name, each in loss.items())
    applies = choices.applies(task.benchmark, task.model)
    if not applies and choices.epochs is None:
        return ChosenSettings(TrainingArguments(**own), told, values=loss, method=method)
    _check_early(own)
    plan = _Plan(own, len(task.load().benchmark.train))  # type: ignore[arg-type]
    if applies:
        plan.follow(choices, task.load().pretrained, method)
    elif choices.epochs is not None:
        plan.set_epochs(choices.epochs)
    arguments = TrainingArguments(**plan.values)
    if applies and method is not None:
        method = plan.suit(method, arguments.steps)
    rated = applies and "lr" in plan.chosen
    rates = tuple(_rounded(factor * plan.full_lr) for factor in RATES) if rated else PLAIN_RATES
    lines = (*plan.lines, *told)
    return ChosenSettings(arguments, lines, rates, rated, plan.chosen | loss, method)


def _loss_of(task: Task) -> dict[str, Value]:
    """Return the loss of the data's task, if it has its own.

    Only data that may have another task than one class an image is loaded for it.
    """
    source = task.benchmark
    may = source.tasks != (single_label.__name__,) if isinstance(source, Source) else ":" in source
    learned = task.load().benchmark.task if may else DEFAULT_TASK
    if not learned.loss:
        return {}
    note = f"the data is {learned.name} ({learned.title})"
    return {"loss": Value(LOSSES[learned.loss](), "ours", note)}


def later_settings(values: Mapping[str, Any]) -> list[str]:
    """Return the settings of a command that `choose_settings` will choose.

    Args:
        values: The given options of a command.
    """
    choices = Choices(**{name: values[name] for name in defaults_of(Choices) if name in values})
    if choices.applies(values.get("benchmark"), values.get("model")):
        return [name for name in CHOSEN if name not in values]
    return ["steps"] if choices.epochs is not None else []


def lr_multiplier(method: Method) -> float:
    """Return the learning rate of a first run, relative to full finetuning's."""
    inner = vars(method).get("of")
    return lr_multiplier(inner) if isinstance(inner, Method) else method.lr_multiplier


@dataclass
class _Plan:
    """Settings in the making."""

    values: dict[str, Any]
    """Given settings, then the chosen ones beside them."""
    images: int
    """Number of training images."""
    lines: list[str] = field(default_factory=list)
    chosen: dict[str, Value] = field(default_factory=dict)
    full_lr: float = 0.0
    """Learning rate of full finetuning."""

    def set(self, name: str, value: Value) -> None:
        """Choose a setting, unless the user gave it, and note the reason."""
        if name not in self.values:
            self.values[name], self.chosen[name] = value.value, value
            note = f" ({value.note})" if value.note else ""
            self.lines.append(f"  {name} {_shown(value.value)}: {value.source}{note}")

    def follow(self, choices: Choices, pretrained: Pretrained, method: Method | None) -> None:
        """Choose what the recipe chooses, and explain it."""
        given = [name for name in CHOSEN if name in self.values]
        kind = choices.recipe if choices.recipe != "auto" else architecture_of(pretrained)
        self._set_length(choices.epochs)
        self._set_rates(RECIPES[kind], pretrained, method)
        if not self.chosen:
            return
        title = f"recipe {kind} ({ARCHITECTURES[kind]}), {self.images:,} training images"
        self.lines.insert(0, f"{title}; any option overrides it, --recipe none leaves it out:")
        if given:
            self.lines.append(f"  given: {', '.join(given)}")
        if pretrained.head_from == "random":
            self.lines.append(
                f"  --head linear_probe trains the random head first: {CITATIONS['LP-FT']}"
            )
        for name in dict.fromkeys(value.source for value in self.chosen.values()):
            self.lines.append(f"  source {name}: {CITATIONS[name]}")

    def _set_length(self, epochs: float | None) -> None:
        size = size_of(self.images)
        batch = size.batch_size
        if batch.value > self.images > 0:
            batch = Value(self.images, "ours", "there are no more images")
        self.set("batch_size", batch)
        if epochs is not None:
            self.set_epochs(epochs)
        steps, counted = self._steps(size.epochs.value)
        length = _from(size.epochs, steps, counted)
        if steps < LEAST_STEPS.value:
            length = _from(LEAST_STEPS, LEAST_STEPS.value, f"not {steps}, {counted}")
        self.set("steps", length)
        share = WARMUP_SHARE.value
        warmup, counted = int(share * self.values["steps"]), f"{share:.0%} of the steps"
        if TrainingArguments(schedule=self.values.get("schedule", "cosine")).curve.has_warmup:
            warmup, counted = 0, "the schedule has its own"
        self.set("warmup_steps", _from(WARMUP_SHARE, warmup, counted))

    def _set_rates(self, recipe: Recipe, pretrained: Pretrained, method: Method | None) -> None:
        recipe = dict(recipe)
        if "layer_decay" in recipe and not has_layers(pretrained.model, pretrained.heads):
            recipe |= {"lr": WITHOUT_LAYERS, "layer_decay": NO_LAYERS}
        if self.values.get("optimizer", "adamw") != "adamw":
            self.lines.append(
                "  lr, head_lr and weight_decay are plain defaults: rates are AdamW's"
            )
            recipe = {name: value for name, value in recipe.items() if name not in _OF_ADAMW}
        else:
            self.full_lr = recipe["lr"].value
            recipe["lr"] = _for_method(recipe["lr"], method)
            self.set("head_lr", _head_lr(pretrained.head_from))
        for name, value in recipe.items():
            self.set(name, value)

    def suit(self, method: Method, steps: int) -> Method:
        """Return the method with the options that follow from the steps, and explain them."""
        suited = method.suited(steps)
        if suited != method:
            self.lines.append(f"  method {suited}: {SHORT_RUN.source} ({SHORT_RUN.note})")
        return suited

    def set_epochs(self, epochs: float) -> None:
        """Set the number of steps by that of epochs."""
        self.values["steps"], counted = self._steps(epochs)
        self.lines.append(f"  steps {self.values['steps']}: {counted}")

    def _steps(self, epochs: float) -> tuple[int, str]:
        """Return the steps of some epochs, and how they were counted."""
        batch = self.values.get("batch_size", defaults_of(TrainingArguments)["batch_size"])
        passes = f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
        text = f"{passes} x {self.images:,} images / {batch} a step"
        return max(1, round(epochs * self.images / batch)), text


def _from(value: Value, new: Any, note: str) -> Value:
    """Return a value computed from another one, with its source and both notes."""
    return Value(new, value.source, "; ".join(filter(None, (note, value.note))))


def _for_method(lr: Value, method: Method | None) -> Value:
    """Return the learning rate of a method's first run."""
    factor = 1.0 if method is None else lr_multiplier(method)
    if method is None or factor == 1:
        return lr
    name = (method.trained or method).name
    return _from(lr, _rounded(factor * lr.value), f"times {factor:g} for {name}")


def _head_lr(head_from: str) -> Value:
    if head_from == "random":
        return HEAD_LR
    return Value(None, "WiSE-FT", f"lr, that of the backbone: the head is {head_from}")


def _check_early(given: Mapping[str, Any]) -> None:
    """Check what can be checked before data and model are loaded.

    Raises:
        ConfigError: A setting is wrong.
    """
    # these two are compared with settings that are not known yet
    later = {"warmup_steps": "steps", "accumulate": "batch_size"}
    known = {name: v for name, v in given.items() if later.get(name, name) in given}
    TrainingArguments(**known)


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else f"{value}"
