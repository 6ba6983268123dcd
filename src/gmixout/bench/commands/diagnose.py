"""`gmixout diagnose`: train a run again, observe it, and measure its implicit ensemble."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gmixout.bench.checks import require_one_class
from gmixout.bench.folder import at_work, read_run_config
from gmixout.bench.job import Job, method_of
from gmixout.bench.progress import bars
from gmixout.bench.task import Task
from gmixout.bench.threads import few_threads
from gmixout.bench.watch import Watch, plan
from gmixout.errors import ConfigError, StateError
from gmixout.evaluation import ensemble
from gmixout.evaluation.ensemble import Diagnosis, Line, Measures, Members
from gmixout.evaluation.metrics import predict, score
from gmixout.files import write_atomically, write_text
from gmixout.methods import Method
from gmixout.named import spec_of
from gmixout.reports.diagnosis import print_diagnosis
from gmixout.results import RunFolder
from gmixout.results.folder import DiagnosisFolder
from gmixout.results.model_file import load_model
from gmixout.results.record import ID_SETS
from gmixout.training import TrainingArguments
from gmixout.training.loop import train
from gmixout.weightspace import State, fingerprint, interpolate, uniform_soup

POSITIONS = [place / 20 for place in range(21)]
"""Points on the line from the pretrained (0) to the final weights (1)."""
VERSION = 1
"""Version of the files of finished repeats; others are measured again."""

Show = Callable[[str, int, int], None]
"""Gets the current activity, the amount done, and the total."""


def diagnose(run: Path, members: int = 8, repeats: int = 3, data_root: Path | None = None) -> None:
    """Measure the implicit ensemble of a finished run: its members, their averages, its basin.

    Trains the run again, and once more with each of the next seeds, and observes snapshots from the
    second half of the run and, for the Mixout family, subnetworks around the final anchor. Writes
    diagnosis.json, diagnosis.png and diagnosis.svg to a folder `diagnosis` in the run folder, where
    finished repeats are kept and reused. The run's own files are not changed.

    Args:
        run: `gmixout diagnose RUN`: folder of a run that finetune wrote, or one of a comparison,
            FOLDER/runs/HASH.
        members: Snapshots, and subnetworks, of each repeat.
        repeats: Trainings, the first with the run's own seed.
        data_root: Current folder of the data, if it has moved.

    Raises:
        ConfigError: `members` or `repeats` is below 1, or a `data_root` is given for a benchmark
            that includes its data.
        StateError: The folder holds no trained run, or none that can be trained again.
    """
    # matplotlib is loaded for a figure, not with the command line
    from gmixout.reports.diagnosis_figure import save_diagnosis_figure

    for name, value in (("members", members), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(f"diagnose({name}={value}): it must be at least 1")
    known, folder = find_run(run, data_root), RunFolder(run).diagnosis
    require_one_class(known.job.loaded.benchmark.task, "diagnose")
    folder.path.mkdir(exist_ok=True)
    found: list[Repeat] = []
    try:
        with (
            at_work(folder.path),
            bars() as progress,
            few_threads(known.job.loaded.pretrained.model),
        ):
            for number in range(repeats):
                task = progress.add_task(f"seed {known.seed(number)}", total=None)
                show = partial(_show, progress.update, task, known.seed(number))
                found.append(_obtain(known, number, members, folder, show))
    except KeyboardInterrupt:
        Console(stderr=True).print(
            f"{len(found)} of {repeats} repeats are finished and kept; the same command continues."
        )
        raise KeyboardInterrupt from None
    diagnosis = combine(known, members, found)
    text = json.dumps(asdict(diagnosis), indent=1, allow_nan=False) + "\n"
    file = write_text(folder.found, text)
    pictures = [save_diagnosis_figure(diagnosis, folder.picture(e)) for e in ("png", "svg")]
    console = Console()
    print_diagnosis(diagnosis, console)
    console.print("Written:", file, *pictures, soft_wrap=True, highlight=False)


def _show(update: Any, task: Any, seed: int, what: str, done: int, total: int) -> None:
    update(task, description=f"seed {seed}: {what}", completed=done, total=total)


@dataclass(frozen=True)
class KnownRun:
    """A finished run with everything needed to train it again."""

    job: Job
    method: Method
    """The requested method, which may build on the run of another one."""
    saved: State
    about: dict[str, Any]
    """Metadata of the model file."""

    def seed(self, number: int) -> int:
        """Return the seed of a repeat, counted from 0."""
        return self.job.arguments.seed + number

    def repeat(self, number: int) -> Job:
        """Return the training run of a repeat."""
        return replace(self.job, arguments=replace(self.job.arguments, seed=self.seed(number)))

    def difference(self, final: State) -> float:
        """Return the largest difference of an entry between the saved and the repeated model."""
        if self.method.name == self.about["method"]:
            pretrained = self.job.pretrained()
            for options, state, _ in self.method.models(pretrained, self.job.runs(final)):
                if options == self.about["options"]:
                    final = state
        return max(
            float((value.double() - final[name].double()).abs().max())
            for name, value in self.saved.items()
            if value.numel()
        )


def find_run(folder: Path, data_root: Path | None = None) -> KnownRun:
    """Reconstruct a run from its model file, its record and its config.

    Args:
        folder: Of the run.
        data_root: Current folder of its data; None: unchanged.

    Raises:
        StateError: There is no run, it trained nothing, or its files describe another run.
    """
    if folder.is_file():
        raise StateError(f"{folder} is a file; diagnose takes the folder of a run")
    saved, about = load_model(folder)
    # A comparison keeps records and config two levels above its runs.
    for place in (RunFolder(folder), RunFolder(folder).comparison):
        records = place.log.read(about["run"])
        if records and place.config.exists():
            break
    else:
        raise StateError(
            f"{folder} is not the folder of a run: its records and its config are missing, which "
            f"are needed to train it again. Give one that finetune wrote, or FOLDER/runs/HASH"
        )
    training = records[0].training
    if training is None or training.lr is None or training.batch_size is None:
        raise StateError(
            f"{folder} holds a model of {about['method']}, which was not trained: there is no run "
            "to diagnose"
        )
    if training.taken < training.steps:
        raise StateError(
            f"the run of {folder} stopped early, at step {training.taken} of {training.steps}: a "
            "diagnosis follows a run to its end. Train it without patience"
        )
    config = read_run_config(place.path)
    task = Task.of(config).with_data(root=data_root)
    try:
        arguments = TrainingArguments(
            lr=training.lr,
            head_lr=training.head_lr,
            seed=training.seed,
            steps=training.steps,
            batch_size=training.batch_size,
            num_workers=task.num_workers,
            **training.settings,
        )
    except TypeError as error:
        raise StateError(f"the record of {folder} has other settings than this version") from error
    for spec in _specs(config, about):
        method = method_of(spec)
        job = Job(task, method.trained if method else None, arguments)
        if method is not None and job.method is not None and job.run == about["run"]:
            return KnownRun(job, method, saved, about)
    raise StateError(
        f"no method in {place.config} makes the run {about['run']} of {folder}: it was trained "
        "by another version of gmixout or on other data, or the config was changed. Train it again"
    )


def _specs(config: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[Any]:
    """Yield specs of the methods that may have made a run.

    A config may lack the options of a sweep and the methods of a resumed comparison; the model file
    has them.
    """
    listed = config.get("methods", [config["method"]] if "method" in config else [])
    listed = listed if isinstance(listed, list) else []
    yield from listed
    for spec in (about["method"], *listed):
        path = spec.get("class_path") if isinstance(spec, Mapping) else spec
        yield {"class_path": path, "init_args": about["options"]}


@dataclass(frozen=True)
class Repeat:
    """Measurements of one training, enough to combine several."""

    tensors: dict[str, Tensor]
    """Probabilities "GROUP members SET" `[M, N, C]` and "GROUP average SET" `[N, C]`, float32, and
    "labels SET" `[N]`."""
    facts: dict[str, Any]
    """Plain values."""


def _obtain(
    known: KnownRun, number: int, members: int, folder: DiagnosisFolder, show: Show
) -> Repeat:
    """Load a finished repeat, or train, measure and save it."""
    job = known.repeat(number)
    file = folder.repeat(job.arguments.seed)
    # The saved model is part of it: `difference` compares with it.
    what = {"version": VERSION, "run": job.run, "members": members}
    what["saved"] = fingerprint(known.saved)
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {}).get("gmixout", "{}"))
            if about.get("what") == what:
                show("found", 1, 1)
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                return Repeat(tensors, about["facts"])
    except (SafetensorError, OSError, ValueError):
        pass  # missing or incomplete: made again
    repeat = _train_and_measure(known, job, members, show)
    metadata = {"gmixout": json.dumps({"what": what, "facts": repeat.facts})}
    content = save(repeat.tensors, metadata)
    write_atomically(file, lambda unfinished: unfinished.write_bytes(content))
    return repeat


def _train_and_measure(known: KnownRun, job: Job, members: int, show: Show) -> Repeat:
    assert job.method is not None
    arguments, pretrained = job.arguments, job.pretrained()
    what = plan(job, members)
    watch = Watch(what, arguments.steps, members, pretrained)
    result = train(
        job.loaded.pretrained.copy(),
        partial(watch.begin, job.method, seed=arguments.seed),
        job.loaded.benchmark.train,
        arguments,
        on_progress=lambda step, loss: show(f"training, loss={loss:.3f}", step, arguments.steps),
        observe=watch,
        observe_at={*what.snapshots, *what.drifts, arguments.steps},
        regularizers=job.method.regularizers,
        validate=job.validate,
    )
    final = result.model.state_dict()
    groups = {name: states for name, states in watch.states.items() if states}
    models = sum(len(states) + 1 for states in groups.values()) + len(POSITIONS)
    look = _Look(job, lambda done: show("measuring", done, models))
    facts: dict[str, Any] = {
        "difference": known.difference(final) if job.run == known.job.run else None,
        "drift": watch.drift,
        "line": _line(look, pretrained, final),
    }
    tensors: dict[str, Tensor] = {}
    trained = {n: pretrained[n] for n, _ in result.model.named_parameters()}
    for name, states in groups.items():
        each = [look.probabilities(state) for state in states]
        average = look.probabilities(uniform_soup(states))
        for test in average:
            tensors[f"{name} members {test}"] = torch.stack([one[test] for one in each])
            tensors[f"{name} average {test}"] = average[test]
        own = [{n: state[n] for n in trained} for state in states]
        apart = ensemble.mean_pairwise_distance(own)
        facts[name] = {
            "distance": [ensemble.relative_distance(state, trained) for state in own],
            "spread": None if apart is None else apart / ensemble.norm(trained),
        }
    tensors |= {f"labels {test}": labels for test, labels in look.labels.items()}
    return Repeat(tensors, facts)


class _Look:
    """Evaluate states on the test sets, in one model."""

    def __init__(self, job: Job, show: Callable[[int], None]) -> None:
        loaded, self._workers = job.loaded, job.arguments.num_workers
        benchmark = loaded.benchmark
        self.model = loaded.pretrained.copy().model.to(PartialState().device)
        self.tests = {"id_test": benchmark.id_test, **benchmark.shifts}
        self.sets = {"id_val": benchmark.id_val, **self.tests}
        self.labels: dict[str, Tensor] = {}
        self._show, self._done = show, 0

    def logits(self, state: State, sets: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
        self.model.load_state_dict(state)
        workers = self._workers
        found = {n: predict(self.model, self.sets[n], num_workers=workers) for n in sets}
        self._done += 1
        self._show(self._done)
        return found

    def probabilities(self, state: State) -> dict[str, Tensor]:
        found = self.logits(state, self.tests)
        self.labels = {name: labels for name, (_, labels) in found.items()}
        return {name: logits.softmax(1) for name, (logits, _) in found.items()}


def _line(look: _Look, pretrained: State, final: State) -> dict[str, dict[str, list[float]]]:
    """Return loss and accuracy by set at all positions."""
    line: dict[str, dict[str, list[float]]] = {n: {"loss": [], "accuracy": []} for n in look.sets}
    for place in POSITIONS:
        for name, found in look.logits(interpolate(pretrained, final, place), look.sets).items():
            scores = score(*found)
            line[name]["loss"].append(scores.nll or 0.0)
            line[name]["accuracy"].append(scores.accuracy or 0.0)
    return line


def combine(known: KnownRun, members: int, repeats: Sequence[Repeat]) -> Diagnosis:
    """Combine the repeats of a run."""
    facts, arguments = [repeat.facts for repeat in repeats], known.job.arguments
    assert known.job.method is not None
    what = plan(known.job, members)
    sets = list(facts[0]["line"])
    subnetworks = None
    if not what.no_subnetworks:
        name = f"anchor and residual under {members} fresh masks"
        subnetworks = _members("subnetworks", name, repeats, sets)
    return Diagnosis(
        run={
            "benchmark": known.about["benchmark"],
            "run": known.job.run,
            "method": spec_of(known.job.method),
            **arguments.identity(),
        },
        seeds=[known.seed(number) for number in range(len(repeats))],
        reproduced=facts[0]["difference"] == 0,
        difference=facts[0]["difference"],
        steps=what.snapshots,
        snapshots=_members("snapshots", what.what, repeats, sets),
        subnetworks=subnetworks,
        no_subnetworks=what.no_subnetworks,
        drift_of=what.drift_of,
        drift_steps=what.drifts,
        drift={layer: [fact["drift"][layer] for fact in facts] for layer in facts[0]["drift"]},
        alphas=POSITIONS,
        line={
            group: _mean_line([[fact["line"][part] for fact in facts] for part in parts])
            for group, parts in _parts(sets).items()
        },
    )


def _members(group: str, what: str, repeats: Sequence[Repeat], sets: Iterable[str]) -> Members:
    def stacked(kind: str, test: str) -> Tensor:
        return torch.stack([repeat.tensors[f"{group} {kind} {test}"] for repeat in repeats])

    def one(test: str) -> Measures:
        labels = repeats[0].tensors[f"labels {test}"]
        return ensemble.measure(stacked("members", test), stacked("average", test), labels)

    spreads = [repeat.facts[group]["spread"] for repeat in repeats]
    return Members(
        what=what,
        sets={
            shift: ensemble.mean_measures([one(part) for part in parts])
            for shift, parts in _parts(name for name in sets if name != "id_val").items()
        },
        distance=[repeat.facts[group]["distance"] for repeat in repeats],
        spread=None if None in spreads else spreads,
    )


def _mean_line(parts: Sequence[Sequence[Mapping[str, list[float]]]]) -> Line:
    """Return the line of a shift: the mean over its parts, `[repeat][position]` each."""

    def mean(kind: str) -> list[list[float]]:
        each = [[repeat[kind] for repeat in part] for part in parts]
        return [[fmean(p) for p in zip(*same, strict=True)] for same in zip(*each, strict=True)]

    loss = mean("loss")
    return Line(loss, mean("accuracy"), [ensemble.barrier(POSITIONS, each) for each in loss])


def _parts(sets: Iterable[str]) -> dict[str, list[str]]:
    """Return the test sets by in-domain set or group of shifts, as records group them."""
    parts: dict[str, list[str]] = {}
    for name in sets:
        parts.setdefault(name if name in ID_SETS else name.split("/")[0], []).append(name)
    return parts
