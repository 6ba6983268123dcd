"""`gmixout interpolate` and `gmixout soup`: models from the weights of finished runs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from gmixout import weightspace
from gmixout.bench.commands.report import show_report
from gmixout.bench.folder import run_folder
from gmixout.bench.identity import hash_of, identity_of
from gmixout.bench.job import id_validation_worth, make_record
from gmixout.bench.progress import say
from gmixout.bench.task import Task
from gmixout.bench.threads import few_threads
from gmixout.errors import StateError
from gmixout.methods import Runs, get_method
from gmixout.results import MethodFacts, Record, RunFolder
from gmixout.results.model_file import about_model, load_model, save_model
from gmixout.weightspace import State


def interpolate(
    a: Path,
    b: Path,
    alpha: float = 0.5,
    out: Path = Path("runs/interpolate"),
    overwrite: bool = False,
    num_workers: int | None = None,
) -> list[Record]:
    """Interpolate between the weights of two runs and evaluate the result.

    Args:
        a: Folder of the run at alpha 0.
        b: Folder of the run at alpha 1.
        alpha: Share of b, from 0 to 1.
        out: Folder for the result.
        overwrite: Delete the run in the folder first.
        num_workers: Processes that load images; by default none on a CPU or for images in memory,
            else one per CPU thread, at most eight.

    Raises:
        GmixoutError: A folder holds no model, the models do not share their pretrained start, or
            alpha is out of range.
    """
    (state_a, state_b), task = _load_models([a, b], num_workers)
    state = weightspace.interpolate(state_a, state_b, alpha)
    options = {"alpha": alpha, "a": str(a), "b": str(b)}
    return _write(out, task, "interpolate", options, state, overwrite)


def soup(
    models: list[Path],
    kind: Literal["greedy", "uniform"] = "greedy",
    out: Path = Path("runs/soup"),
    overwrite: bool = False,
    num_workers: int | None = None,
) -> list[Record]:
    """Average the weights of several runs and evaluate the result.

    Args:
        models: `gmixout soup RUN RUN [...]`: folders of the runs.
        kind: All of them, or greedily those that do not lower in-domain validation accuracy.
        out: Folder for the result.
        overwrite: Delete the run in the folder first.
        num_workers: Processes that load images; by default none on a CPU or for images in memory,
            else one per CPU thread, at most eight.

    Raises:
        GmixoutError: A folder holds no model, or the models do not share their pretrained start.
    """
    states, task = _load_models(models, num_workers)
    pretrained = task.load().pretrained.copy().model
    with few_threads(pretrained):
        runs = Runs(states, partial(id_validation_worth, task.load(), num_workers=num_workers))
        made = get_method(f"{kind}_soup").models(pretrained.state_dict(), runs)
        ((_, state, members),) = made
    kept = ", ".join(str(models[member]) for member in members)
    say(f"Of {len(models)} models the soup has: {kept}")
    options = {"models": [str(model) for model in models]}
    return _write(out, task, f"{kind}_soup", options, state, overwrite)


def _load_models(paths: Sequence[Path], num_workers: int | None) -> tuple[list[State], Task]:
    """Return the weights of several runs, and their benchmark and model."""
    loaded = [load_model(path) for path in paths]
    for what, says in (("benchmark", "are of"), ("pretrained", "were finetuned from")):
        found = {about[what]: path for path, (_, about) in zip(paths, loaded, strict=True)}
        if len(found) != 1:
            each = ", ".join(f"{path} {value}" for value, path in found.items())
            raise StateError(
                f"the models {says} different {what}s ({each or 'no model given'}); weights can "
                "be averaged only over runs of one benchmark that share their pretrained start"
            )
    task = replace(Task.of(loaded[0][1]["task"]), num_workers=num_workers)
    return [state for state, _ in loaded], task


def _write(
    out: Path,
    task: Task,
    method: str,
    options: dict[str, Any],
    state: State,
    overwrite: bool,
) -> list[Record]:
    loaded, facts = task.load(), MethodFacts.of(method, options)
    run = hash_of({**identity_of(loaded), "method": method, **options})
    with few_threads(loaded.pretrained.model):
        record = make_record(loaded, run, facts, state, None, task.num_workers)
    with run_folder(out, options, resume=False, overwrite=overwrite):
        save_model(RunFolder(out).model, state, about_model(record) | task.about())
        RunFolder(out).log.append(record)
        return show_report(out)
