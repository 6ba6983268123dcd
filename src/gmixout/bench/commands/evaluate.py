"""`gmixout evaluate`: evaluate a saved model again, against its record or on other data."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.table import Table
from torch import nn

from gmixout.bench.identity import digest_of_data
from gmixout.bench.job import load_weights
from gmixout.bench.kept import keep_predictions
from gmixout.bench.progress import say
from gmixout.bench.task import Task
from gmixout.bench.threads import few_threads
from gmixout.data import Benchmark, Source
from gmixout.data.base import DEV_PREFIX
from gmixout.data.common_corruptions import with_corruptions
from gmixout.data.recognition import recognized
from gmixout.data.source import ImageBenchmark
from gmixout.errors import ConfigError, DataError
from gmixout.evaluation.detection import Detecting, Detection
from gmixout.evaluation.metrics import Scores, evaluate_sets, summarise_shifts
from gmixout.evaluation.official import METRICS, SUMMARIES
from gmixout.plain import counted, printable
from gmixout.results import RunFolder
from gmixout.results.model_file import find_record, learning_task_of, load_model
from gmixout.results.other_classes import add_other_classes
from gmixout.results.record import by_group
from gmixout.tasks import DEFAULT_TASK
from gmixout.use.classifier import Classifier
from gmixout.use.forgetting import measure_other_classes
from gmixout.use.gathering import Gathering
from gmixout.use.loaded import load


def evaluate(
    model: Path,
    benchmark: Source | None = None,
    data_root: Path | None = None,
    num_workers: int | None = None,
    other_classes: Path | None = None,
    pretrained: str | None = None,
) -> dict[str, float]:
    """Evaluate a saved model again and compare it with its record.

    With other data, everything in it is a test set: every image of a folder of your own, or a PACS
    folder with an unseen domain. Its classes may be a subset of the model's. The run's own data,
    wherever it is now, is recognized, and scored on its test sets.

    Args:
        model: `gmixout evaluate RUN`: folder of a run, or a model.safetensors.
        benchmark: Another data set than the run's, with its options.
        data_root: Current folder of the data, or another folder of the same kind, all of whose
            images are tested.
        num_workers: Processes that load images; by default none on a CPU or for images in memory,
            else one per CPU thread, at most eight.
        other_classes: Only measure forgetting: for a CLIP, zero-shot accuracy on this folder or
            table of classes that finetuning never saw, by the pretrained and by the finetuned
            image tower.
        pretrained: Where the pretrained model is now, FAMILY:NAME@FILE, for its text tower; by
            default where it was.

    Returns:
        Accuracy by data set, of other tasks the official metric; development sets are `dev/NAME`,
        other classes `before` and `after`.

    Raises:
        StateError: There is no model, or it does not fit its benchmark.
        DataError: The data is unavailable, or has classes that the model does not know.
    """
    if other_classes is not None:
        if benchmark is not None or data_root is not None:
            raise ConfigError("--other-classes names the data: leave out --benchmark, --data-root")
        return _forgetting(model, other_classes, pretrained, num_workers)
    if pretrained is not None:
        raise ConfigError("--pretrained goes with --other-classes")
    state, about = load_model(model)
    learned = learning_task_of(about)
    # the head is the file's, whatever text it was made from
    task = replace(Task.of(about["task"]).without_text(), num_workers=num_workers)
    asked = task.with_data(benchmark, data_root).benchmark
    elsewhere = asked if isinstance(asked, Source) and asked is not task.benchmark else None
    if elsewhere is not None and benchmark is None and _has_moved(task, elsewhere, model, about):
        task, elsewhere = replace(task, benchmark=elsewhere), None
    tests: Benchmark
    if elsewhere is None:
        network, tests = load_weights(task.load(), state), task.load().benchmark
        tests = replace(tests, task=learned)
    else:
        network, tests = _on_other_data(load(model, PartialState().device), elsewhere)
        if isinstance(task.benchmark, Source) and task.benchmark.root == elsewhere.root.absolute():
            tell_once = "these sets hold images that the model was trained on"
            say(f"{elsewhere}: {tell_once}")
    with few_threads(network):
        sets = {**tests.tests, **tests.dev_tests}
        if elsewhere is not None:  # which may lack the training sets
            sets = {name: images for name, images in sets.items() if len(images)}  # type: ignore[arg-type]
        gathered = Gathering(learned)
        detecting = Detecting(gathered.see)
        scores = evaluate_sets(
            network,
            sets,
            tests.metrics,
            num_workers=num_workers,
            seen=detecting.see,
            task=learned,
        )
        # what is known is the in-domain test, which another folder does not have
        unknown = tests.unknown if "id_test" in sets else {}
        detected = detecting.measure(network, unknown, num_workers)
    console = Console(highlight=False, markup=False)
    told = about["benchmark"] if elsewhere is None else f"{elsewhere} at {elsewhere.root}"
    console.print(printable(f"{about['method']} {about['options']} on {told}"), soft_wrap=True)
    console.print(_table(scores, tests.metric))
    for line in (*_over_all(tests, scores), *detection_lines(detected)):
        console.print(line, soft_wrap=True)
    main = "accuracy" if learned == DEFAULT_TASK else tests.metric
    found = {n: value for n, each in scores.items() if (value := each.of(main)) is not None}
    if elsewhere is None:
        _compare_with_record(model, about, found, main, console)
        _keep_missing(model, about, task, gathered, num_workers)
    return found


def _keep_missing(
    model: Path, about: dict[str, Any], task: Task, gathered: Gathering, workers: int | None
) -> None:
    """Write the predictions that the page of the run needs, if an older version left none."""
    folder = RunFolder(model)
    if not model.is_dir() or not folder.log.path.exists() or folder.predictions.exists():
        return
    keep_predictions(model, about["digest"], task, gathered, workers)
    say(f"Written to {folder.predictions}; `gmixout report {model}` makes a page of it.")


def _forgetting(
    model: Path, place: Path, pretrained: str | None, workers: int | None
) -> dict[str, float]:
    """Measure, print and keep the accuracy on classes that finetuning never saw."""
    classifier, device = load(model), PartialState().device
    assert classifier.origin is not None
    kind, root = recognized(place.expanduser())
    source = kind(root).placed()
    name = source.root.name
    with few_threads(classifier):
        found = measure_other_classes(
            classifier, source.load_tests(), name, source.prompts, pretrained, device, workers
        )
    table = Table("other classes", box=None, pad_edge=False)
    for heading in ("classes", "images", "before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    before, after = found["before"], found["after"]
    row = (f"{found['classes']}", f"{found['images']:,}", f"{before:.4f}", f"{after:.4f}")
    table.add_row(printable(name), *row, f"{after - before:+.4f}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(
        "Zero-shot accuracy on classes that finetuning never saw: pretrained text tower, with the "
        "pretrained image tower (before) and the finetuned one (after).",
        soft_wrap=True,
    )
    folder = RunFolder(model if model.is_dir() else model.parent)
    if folder.config.exists():
        add_other_classes(folder.other_classes, classifier.origin.about["digest"], found)
        say(f"Kept in {folder.other_classes}; `gmixout report {folder.path}` shows it.")
    return {"before": before, "after": after}


def _has_moved(task: Task, source: Source, model: Path, about: dict[str, Any]) -> bool:
    """Return whether a folder holds the data of the run, which was elsewhere then.

    A user's own data is known by its digest in the record; published data by being complete.
    """
    try:
        found = source.load()
    except DataError:
        return False
    if not source.own:
        return True
    record = find_record(model, about)
    if task.corruptions != "none":
        found = with_corruptions(found, task.corruptions, task.corruption_share)
    digests = {name: images.digest() for name, images in found.sets.items()}
    digest = digest_of_data(digests, found.classes)
    if record is not None and record.benchmark.digests.get("data") == digest:
        return True
    say(f"{source} at {source.root} is not the data of the run: all of its images are tested")
    return False


def _on_other_data(classifier: Classifier, source: Source) -> tuple[nn.Module, ImageBenchmark]:
    """Return the model, and test sets with its preprocessing and labels."""
    tests, classes, learned = source.load_tests(), classifier.classes, classifier.task
    if tests.task.name != learned.name:
        raise DataError(
            f"the data at {source.root} is {tests.task.name} ({tests.task.title}), and the model's "
            f"task is {learned.name}: --task {learned.name} reads a table so"
        )
    if learned != DEFAULT_TASK:
        others = learned.extra_metrics
        tests = replace(tests, task=learned, metric=learned.metric, extra_metrics=others)
    there = tests.classes
    tests = tests.map(lambda images: images.transformed(classifier.transform))
    if there == classes:
        return classifier.model, tests
    positions = {name: label for label, name in enumerate(classes)}
    if unknown := [name for name in there if name not in positions]:
        raise DataError(
            f"{source.root} has classes that the model does not know: {', '.join(unknown[:5])}; "
            f"it knows: {', '.join(classes[:20])}"
        )
    if owners := [name for name, images in tests.tests.items() if images.space is not None]:
        raise DataError(f"{', '.join(owners)} of {source.root}: classes in another order")
    places = [positions[name] for name in there]
    known = replace(tests, unknown={}).map(
        lambda images: images.with_labels(learned.in_order(images.labels, places, len(classes)))
    )
    return classifier.model, replace(known, classes=classes, unknown=tests.unknown)


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


def detection_lines(found: Mapping[str, Mapping[str, Detection]]) -> list[str]:
    """Return a line for each set of unknown classes."""
    return [
        printable(
            f"Unknown classes, {name} ({counted(next(iter(each.values())).images, 'image')}): "
            + ", ".join(
                f"{score} AUROC {value.auroc:.4f} FPR95 {value.fpr95:.4f}"
                for score, value in each.items()
            )
        )
        for name, each in found.items()
    ]


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
