"""`gmixout evaluate`: evaluate a saved model again, against its record or on other data."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from gmixout.bench.job import fitted, load_weights
from gmixout.bench.progress import say
from gmixout.bench.task import Task
from gmixout.bench.threads import few_threads
from gmixout.data import Benchmark, Source
from gmixout.data.base import DEV_PREFIX
from gmixout.data.source import ImageBenchmark
from gmixout.errors import DataError
from gmixout.evaluation.metrics import Scores, evaluate_sets, summarise_shifts
from gmixout.evaluation.official import METRICS, SUMMARIES
from gmixout.plain import printable
from gmixout.results.model_file import find_record, learning_task_of, load_model
from gmixout.results.record import by_group
from gmixout.tasks import DEFAULT_TASK, LearningTask


def evaluate(
    model: Path,
    benchmark: Source | None = None,
    data_root: Path | None = None,
    num_workers: int | None = None,
) -> dict[str, float]:
    """Evaluate a saved model again and compare it with its record.

    With other data, everything in it is a test set, for example a PACS folder with an unseen
    domain. Its classes may be a subset of the model's.

    Args:
        model: `gmixout evaluate RUN`: folder of a run, or a model.safetensors.
        benchmark: Another data set than the run's, with its options.
        data_root: Current folder of the data, or another folder of the same kind; domain folders
            and image folders may lack the training data.
        num_workers: Processes that load images; by default none on a CPU or for images in memory,
            else one per CPU thread, at most eight.

    Returns:
        Accuracy by data set, of other tasks the official metric; development sets are `dev/NAME`.

    Raises:
        StateError: There is no model, or it does not fit its benchmark.
        DataError: The data is unavailable, or has classes that the model does not know.
    """
    state, about = load_model(model)
    learned = learning_task_of(about)
    # the head is the file's, whatever text it was made from
    task = replace(Task.of(about["task"]).without_text(), num_workers=num_workers)
    asked = task.with_data(benchmark, data_root).benchmark
    elsewhere = asked if isinstance(asked, Source) and asked is not task.benchmark else None
    if elsewhere is not None and benchmark is None and _is_whole(elsewhere):
        task, elsewhere = replace(task, benchmark=elsewhere), None  # the data moved
    tests: Benchmark
    if elsewhere is None:
        network, tests = load_weights(task.load(), state), task.load().benchmark
        tests = replace(tests, task=learned)
    else:
        network, tests = _on_other_data(task, elsewhere, tuple(about["classes"]), learned)
        network = fitted(network, state, f"the model of {elsewhere}")
        if isinstance(task.benchmark, Source) and task.benchmark.root == elsewhere.root.absolute():
            tell_once = "these sets hold images that the model was trained on"
            say(f"{elsewhere}: {tell_once}")
    with few_threads(network):
        sets = {**tests.tests, **tests.dev_tests}
        if elsewhere is not None:  # which may lack the training sets
            sets = {name: images for name, images in sets.items() if len(images)}  # type: ignore[arg-type]
        scores = evaluate_sets(network, sets, tests.metrics, num_workers=num_workers, task=learned)
    console = Console(highlight=False, markup=False)
    told = about["benchmark"] if elsewhere is None else f"{elsewhere} at {elsewhere.root}"
    console.print(printable(f"{about['method']} {about['options']} on {told}"), soft_wrap=True)
    console.print(_table(scores, tests.metric))
    for line in _over_all(tests, scores):
        console.print(line, soft_wrap=True)
    main = "accuracy" if learned == DEFAULT_TASK else tests.metric
    found = {n: value for n, each in scores.items() if (value := each.of(main)) is not None}
    if elsewhere is None:
        _compare_with_record(model, about, found, main, console)
    return found


def _is_whole(source: Source) -> bool:
    """Return whether everything for a training is there."""
    try:
        source.load()
    except DataError:
        return False
    return True


def _on_other_data(
    task: Task,
    source: Source,
    classes: tuple[str, ...],
    learned: LearningTask = DEFAULT_TASK,
) -> tuple[nn.Module, ImageBenchmark]:
    """Return the model's architecture, and test sets with its preprocessing and labels."""
    tests, pretrained = source.load_tests(), task.load_model(classes, learned)
    if tests.task.name != learned.name:
        raise DataError(
            f"the data at {source.root} is {tests.task.name} ({tests.task.title}), and the model's "
            f"task is {learned.name}: --task {learned.name} reads a table so"
        )
    tests = (
        replace(tests, task=learned, metric=learned.metric, extra_metrics=learned.extra_metrics)
        if learned != DEFAULT_TASK
        else tests
    )
    there = tests.classes
    tests = tests.map(lambda images: images.transformed(pretrained.transform))
    if there == classes:
        return pretrained.model, tests
    positions = {name: label for label, name in enumerate(classes)}
    if unknown := [name for name in there if name not in positions]:
        raise DataError(
            f"{source.root} has classes that the model does not know: {', '.join(unknown[:5])}; "
            f"it knows: {', '.join(classes[:20])}"
        )
    if owners := [name for name, images in tests.sets.items() if images.space is not None]:
        raise DataError(f"{', '.join(owners)} of {source.root}: classes in another order")
    places = [positions[name] for name in there]
    tests = tests.map(
        lambda images: images.with_labels(learned.in_order(images.labels, places, len(classes)))
    )
    return pretrained.model, replace(tests, classes=classes)


def _table(scores: Mapping[str, Scores], official: str) -> Table:
    table = Table("set", box=None, pad_edge=False)
    have_accuracy = any(each.accuracy is not None for each in scores.values())
    first = "accuracy" if have_accuracy else official
    figures = list(dict.fromkeys(name for each in scores.values() for name in each.figures))
    figures = [name for name in figures if name != first]
    rest = [n for n in ("nll", "ece") if any(getattr(s, n) is not None for s in scores.values())]
    titles = [METRICS[name].title for name in (first, *figures)]
    for name in ("images", *titles, *map(str.upper, rest)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, each in scores.items():
        own = (str(each.examples), repr(each.of(first)))
        values = [*(each.figures.get(n) for n in figures), *(getattr(each, n) for n in rest)]
        others = ("" if value is None else f"{value:.4f}" for value in values)
        table.add_row(printable(name), *own, *others)
    return table


def _over_all(tests: Benchmark, scores: Mapping[str, Scores]) -> list[str]:
    """Return the mean over groups of shifts, and the benchmark's own summary."""
    shifts = {name: each for name, each in scores.items() if not name.startswith(DEV_PREFIX)}
    official = tests.metric
    every = {n: each.figures.get(official, each.accuracy) for n, each in shifts.items()}
    groups = by_group({n: value for n, value in every.items() if value is not None})
    lines = []
    if len(groups) > 1:
        mean = fmean(groups.values())
        lines.append(f"Mean over {len(groups)} shifts: {METRICS[official].title} {mean:.4f}")
    figures, notes = summarise_shifts(tests.summary, shifts)
    for name, value in figures.items():
        lines.append(f"{SUMMARIES[name].title} {100 * value:.2f}: {SUMMARIES[name].note}")
    return lines + notes


def _compare_with_record(
    model: Path, about: dict[str, Any], found: dict[str, float], metric: str, console: Console
) -> None:
    recorded = find_record(model, about)
    if recorded is None:
        console.print("No record of this model was found next to it.")
    elif recorded.of(metric).items() <= found.items():
        console.print("Equal to the recorded values, to the last digit.")
    else:
        console.print(f"Not equal to the recorded values: {recorded.of(metric)}", soft_wrap=True)
