"""Observations of `gmixout diagnose` during a training run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from gmixout.bench.job import Job
from gmixout.core.handle import Masked
from gmixout.evaluation import ensemble
from gmixout.methods import Finetuning, Method
from gmixout.methods.average import Averaged
from gmixout.models import Pretrained
from gmixout.weightspace import State

GROUPS = ("snapshots", "subnetworks")


@dataclass(frozen=True)
class Plan:
    """Observations and their steps."""

    snapshots: list[int]
    """Steps of the snapshots."""
    drifts: list[int]
    """Steps at which the drift is measured: those, and as many in the first half of the run."""
    drift_of: str
    parameters: frozenset[str]
    """Names of the parameters whose drift is measured."""
    what: str
    """Description of the snapshots."""
    no_subnetworks: str
    """Reason if there are no subnetworks, or empty."""


def plan(job: Job, members: int) -> Plan:
    """Decide what to observe in a training run.

    Snapshots are the last members that a process with periods trained. With residual="reset" they
    are the weights one step before a period ends, when Phi is the period's subnetwork: after the
    last step the anchor takes its share and the rest is lost.
    """
    assert job.method is not None
    steps, pretrained = job.arguments.steps, job.loaded.pretrained.copy()
    parameters = frozenset(
        n for n, p in pretrained.model.named_parameters() if p.is_floating_point()
    )
    process = process_of(job.method.start(pretrained, job.arguments.seed))
    every, before, drift_of = None, 0, "weights"
    what = "weights after a step"
    no_subnetworks = f"{job.method.name} draws no masks"
    if process is not None:
        config, every = process.config, process.config.resample_every
        what, no_subnetworks = "the mean over masks, after a step", ""
        if config.residual == "reset":
            what = "subnetworks of one mask after another" if every else "weights after a step"
            before = 1 if every else 0
            no_subnetworks = (
                'with residual="reset" nothing is learned outside the current mask, so fresh masks '
                "around the final anchor all give the anchor"
            )
        if every and config.anchor_decay < 1:
            drift_of = "anchor"
            parameters = frozenset(weight.name for weight in process.summary().weights)
    late = [step for step in range(1, steps + 1) if step > steps / 2]
    ends = [step - before for step in late if every and step % every == 0]
    snapshots = spread(sorted({max(1, end) for end in ends}) or late, members)
    drifts = sorted({*spread(range(1, steps // 2 + 1), members), *snapshots})
    return Plan(snapshots, drifts, drift_of, parameters, what, no_subnetworks)


def spread(steps: Sequence[int], count: int) -> list[int]:
    """Choose `count` of the steps (or all), evenly spaced, including the last one."""
    places = {math.ceil((i + 1) * len(steps) / count) - 1 for i in range(count)}
    return [steps[place] for place in sorted(places) if place >= 0]


def process_of(finetuning: Finetuning) -> Masked | None:
    """Return the masking process of a run, if it has one."""
    while isinstance(finetuning, Averaged):
        finetuning = finetuning.finetuning
    return finetuning if isinstance(finetuning, Masked) else None


@dataclass
class Watch:
    """Keep the observations of a training run at the steps of a plan."""

    plan: Plan
    last: int
    """The last step of the run."""
    members: int
    pretrained: State
    states: dict[str, list[State]] = field(default_factory=lambda: {name: [] for name in GROUPS})
    drift: dict[str, list[float]] = field(default_factory=dict)
    """Drift by layer, one value per step of the plan."""
    start: State = field(default_factory=dict)

    def begin(self, method: Method, pretrained: Pretrained, seed: int) -> Finetuning:
        """Put the method on the model."""
        finetuning = method.start(pretrained, seed)
        self.start = _copy(self._followed(finetuning))
        return finetuning

    def __call__(self, step: int, finetuning: Finetuning, loss: float) -> None:
        """Observe a step; called by `train`."""
        del loss
        if step in self.plan.drifts:
            drift = ensemble.drift(_copy(self._followed(finetuning)), self.start, self.pretrained)
            for layer, value in drift.items():
                self.drift.setdefault(layer, []).append(value)
        if step in self.plan.snapshots:
            self.states["snapshots"].append(_copy(finetuning.snapshot()))
        process = process_of(finetuning)
        if step == self.last and process is not None and not self.plan.no_subnetworks:
            periods = range(process.period + 1, process.period + 1 + self.members)
            self.states["subnetworks"] += [_copy(process.subnetwork(each)) for each in periods]

    def _followed(self, finetuning: Finetuning) -> State:
        process = process_of(finetuning) if self.plan.drift_of == "anchor" else None
        state = finetuning.snapshot() if process is None else process.anchor()
        return {name: value for name, value in state.items() if name in self.plan.parameters}


def _copy(state: State) -> State:
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
