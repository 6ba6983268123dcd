"""Model cards: what a model is, what was measured, and what was not."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gmixout.plain import listed, printable
from gmixout.reports.run_facts import measured
from gmixout.results.folder import RunFolder
from gmixout.results.model_file import find_record
from gmixout.results.predictions import load_predictions
from gmixout.results.record import Record
from gmixout.tasks import LearningTask
from gmixout.use.classifier import Classifier

LIBRARIES = {"timm": "timm", "open_clip": "open_clip", "hf": "transformers", "onnx": "onnx"}
"""Names that hubs know the libraries by."""
_MARKUP = str.maketrans({character: f"\\{character}" for character in "\\`*[]<>#|&"})


def card_of(classifier: Classifier, to: str, usage: str, picture: str = "") -> str:
    """Return a model card in Markdown.

    Args:
        classifier: The model.
        to: The form that it was exported to.
        usage: How to use it, in Markdown.
        picture: File beside the card with the picture of `draw_accuracy`; empty: there is none.
    """
    origin = classifier.origin
    about: Mapping[str, Any] = {} if origin is None else origin.about
    record = None if origin is None else find_record(origin.path, about)
    classes = [_plain(name) for name in classifier.classes]
    task = classifier.task
    kind = "classification" if task.has_classes else "regression"
    lines = ["---", "tags:", f"- image-{kind}", "- gmixout"]
    if to in LIBRARIES:
        lines.append(f"library_name: {LIBRARIES[to]}")
    lines += ["---", "", f"# {_title(about)}", ""]
    lines += [
        f"- Task: {task.name}, {task.title}",
        f"- {'Classes' if task.has_classes else 'Numbers'} ({len(classes)}), in the order of the "
        f"outputs: {listed(classes, 100)}",
        f"- Finetuned from: {_plain(str(_pretrained(about)))}",
        f"- Method: {_plain(str(about.get('method', 'unknown')))}",
        f"- Data: {_plain(str(about.get('benchmark', 'unknown')))}",
        f"- Preprocessing: {_plain(preprocessing_of(classifier))}",
        f"- Temperature of its probabilities: {classifier.temperature:.4g} "
        f"({task.reading()} divided by it)"
        if task.has_classes
        else f"- From its outputs to numbers: {task.reading()}",
        *["", "## Use", "", usage, "", "## Measured", ""],
        *([f"![Accuracy before and after finetuning]({picture})", ""] if picture else []),
        *(_table(record) if record else ["No record of this model was found beside it."]),
        *["", "## Limits", "", *_limits(record, task)],
    ]
    return "\n".join(lines) + "\n"


def draw_accuracy(classifier: Classifier, place: Path) -> bool:
    """Draw accuracy before and after finetuning into a file, and return whether it is there.

    Without a record of the model, without accuracy or without matplotlib, there is no picture.
    """
    origin = classifier.origin
    record = None if origin is None else find_record(origin.path, origin.about)
    if origin is None or record is None or not record.of("accuracy"):
        return False
    if find_spec("matplotlib") is None:
        return False
    from gmixout.reports.figure import save_figure
    from gmixout.reports.run_figure import run_figure

    folder = origin.path if origin.path.is_dir() else origin.path.parent
    found = load_predictions(RunFolder(folder).predictions)
    if found is not None and found.model != origin.about["digest"]:
        found = None
    save_figure(lambda: run_figure(record, found), place)
    return True


def preprocessing_of(classifier: Classifier) -> str:
    """Return the preprocessing in words, as far as it is known."""
    mean, std = classifier.normalization
    size = " x ".join(map(str, classifier.size or ())) or "unknown size"
    scaled = f"minus mean {mean}, over standard deviation {std}" if mean else "scaled to [0, 1]"
    return f"RGB, {size} pixels ({classifier.interpolation or 'default interpolation'}), {scaled}"


def _title(about: Mapping[str, Any]) -> str:
    return _plain(f"{_pretrained(about)}, finetuned")


def _pretrained(about: Mapping[str, Any]) -> Any:
    """Return the name of the pretrained model, without the folders of this machine."""
    task = about.get("task") or {}
    name = str(task.get("model") or task.get("benchmark") or "an own model")
    return "/".join(name.split("/")[-2:]) if name.count("/") > 1 else name


def _table(record: Record) -> list[str]:
    """Return the values of the record as a table."""
    columns = measured(record)
    rows = [
        f"| {_plain(name)} | {each.examples:,} | "
        + "".join(f"{column.values.get(name, '')} | " for column in columns).rstrip()
        for name, each in record.scores.items()
    ]
    trained = record.training
    facts = [] if trained is None else [f"{trained.steps:,} steps", f"seed {trained.seed}"]
    if trained is not None and trained.lr is not None:
        facts.append(f"learning rate {trained.lr:g}")
    return [
        "| set | images | " + " | ".join(column.title for column in columns) + " |",
        "|---|---|" + "---|" * len(columns),
        *rows,
        "",
        f"One run ({', '.join([*facts, record.time])}), by gmixout "
        f"{record.machine.versions.get('gmixout', '')}, before calibration.",
    ]


def _limits(record: Record | None, task: LearningTask) -> list[str]:
    shifts = [name for name in (record.scores if record else ()) if not name.startswith("id_")]
    lines = [
        *(f"- {each}" for each in task.limits()),
        "- Use of its data and of its pretrained model may be restricted by their licences.",
    ]
    if shifts:
        lines.insert(0, "- Nothing was measured on other shifts than those in the table.")
    else:
        lines.insert(0, "- Nothing was measured out of domain.")
    return lines


def _plain(text: str) -> str:
    """Return a text without markup."""
    return printable(text).translate(_MARKUP)
