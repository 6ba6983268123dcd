"""The parts of a record: facts on the method, the training, the benchmark and the machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

from annotated_types import Ge, Interval, MaxLen

from gmixout.evaluation.metrics import Amount, Count, Share

Name: TypeAlias = Annotated[str, MaxLen(4000)]


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """The method that made a model, by names and plain values."""

    name: Name
    """Name as on the command line; with regularizers "gmixout+sam"."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options of the method itself."""
    alpha: Share | None = None
    """Position on the line from the pretrained (0) to the finetuned weights (1), if any."""
    base: Name | None = None
    """The method without its regularizers; None without any."""
    regularizers: dict[Name, dict[str, Any]] = field(default_factory=dict)
    """The options of each regularizer by its name."""

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> "MethodFacts":
        """Return the facts of a method from its options as `Method.variants` yields them."""
        own = dict(options)
        alpha = own.pop("alpha", None)
        if "adds" not in own:
            return cls(name=name, options=own, alpha=alpha)
        base, adds = own["of"], own["adds"]
        return cls(
            name=name,
            options=base["init_args"],
            alpha=alpha,
            base=base["class_path"],
            regularizers={each["class_path"]: each["init_args"] for each in adds},
        )

    @property
    def spelled(self) -> dict[str, Any]:
        """The options as `Method.variants` yields them and model files have them."""
        place = {} if self.alpha is None else {"alpha": self.alpha}
        if self.base is None:
            return place | self.options
        adds = [_spec(name, options) for name, options in self.regularizers.items()]
        return place | {"of": _spec(self.base, self.options), "adds": adds}

    @property
    def settings(self) -> dict[str, Any]:
        """All options by name, those of regularizers as "sam.rho"; without alpha."""
        adds = {
            f"{name}.{option}": value
            for name, options in self.regularizers.items()
            for option, value in options.items()
        }
        return self.options | adds


def _spec(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": name, "init_args": options}


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training run behind a model, or all runs of a soup together."""

    lr: Amount | None
    """Learning rate as given by the user; None for a soup of several."""
    head_lr: Amount | None
    seed: Count
    step: Count
    """Optimizer steps done when the model was evaluated; `steps` at the end of training, also if
    it stopped early."""
    steps: Annotated[int, Ge(1)]
    """Optimizer steps of the whole run."""
    batch_size: Count | None
    settings: dict[str, Any] = field(default_factory=dict)
    """All other settings that determine the result."""
    loss: Annotated[float, Interval(ge=-1e100, le=1e100)] | None = None
    """Mean training loss of the steps before the evaluation."""
    trainable: Count = 0
    """Number of values with a gradient in a step."""
    seconds: Amount = 0.0
    """Wall time of the training run."""
    step_seconds: Amount | None = None
    """Median wall time of an optimizer step."""
    peak_memory_bytes: Count | None = None
    """Peak memory of training above the loaded model."""
    kept_step: Count | None = None
    """Step whose model the run kept, as the best on in-domain validation; None: its last."""
    done_steps: Count | None = None
    """Optimizer steps that were taken; fewer than `steps` after early stopping. None: all."""
    soup_steps: list[Count] | None = None
    """Steps of the run whose models are averaged in this one, as they joined; None: of one step."""

    @property
    def taken(self) -> int:
        """Optimizer steps that were taken."""
        return self.steps if self.done_steps is None else self.done_steps

    @property
    def selection(self) -> str:
        """Sentence on the step that was kept and on early stopping; empty without either."""
        if self.soup_steps:
            kind = self.settings.get("soup", "")
            steps = ", ".join(map(str, sorted(self.soup_steps)))
            return f"averaged its models of the steps {steps} ({kind} soup)"
        if self.kept_step is None:
            return ""
        early = f"; stopped early, {self.steps} were planned" if self.taken < self.steps else ""
        return (
            f"kept the model of step {self.kept_step} of {self.taken}, the best on ID validation"
            f"{early}"
        )

    @property
    def all_settings(self) -> dict[str, Any]:
        """All settings except the learning rate and the seed."""
        own = {name: getattr(self, name) for name in ("steps", "batch_size", "head_lr")}
        return self.settings | own


@dataclass(frozen=True, kw_only=True)
class BenchmarkFacts:
    """The data and the pretrained model."""

    name: Name
    """Display name; equal names are the same benchmark."""
    parts: dict[str, Any] = field(default_factory=dict)
    """Values behind the name: `data`, its options, `model`; empty if there is only a name."""
    metric: Name = "accuracy"
    """The official metric, a name in `official.METRICS`, which says whether lower is better."""
    digests: dict[Name, Name] = field(default_factory=dict)
    """Digests of `data`, all images with their labels, and of `pretrained`, the initial weights, if
    known."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Machine and code version of an evaluation."""

    device: Name
    threads: Count
    versions: dict[Name, Name]
    git: Name | None
