"""`gmixout evaluate`: a saved model once more, against its record."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gmixout.bench.folder import RECORDS, load_model
from gmixout.bench.job import about_model, load_weights
from gmixout.bench.threads import few_threads
from gmixout.data import load_benchmark
from gmixout.evaluation import metrics
from gmixout.evaluation.records import Record, RecordLog


def evaluate(model: Path) -> dict[str, float]:
    """Evaluates a saved model again and says whether the recorded figures come out.

    Args:
        model: `gmixout evaluate RUN`: folder of a run, or a model.safetensors.

    Returns:
        Accuracy by data set.

    Raises:
        StateError: There is no model, or it is not of its benchmark.
    """
    state, about = load_model(model)
    benchmark = load_benchmark(about["benchmark"])
    with few_threads(benchmark):
        scores = metrics.evaluate(load_weights(benchmark, state), benchmark)
    table = Table("set", box=None, pad_edge=False)
    for name in ("images", "accuracy", "NLL", "ECE"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, each in scores.items():
        table.add_row(
            name, str(each.examples), repr(each.accuracy), f"{each.nll:.4f}", f"{each.ece:.4f}"
        )
    console = Console(highlight=False)
    console.print(f"{about['method']} {about['options']} on {about['benchmark']}", soft_wrap=True)
    console.print(table)
    accuracy = {name: each.accuracy for name, each in scores.items()}
    recorded = _find_record(model, about)
    if recorded is None:
        console.print("No record of this model was found beside it.")
    elif recorded.accuracy == accuracy:
        console.print("Equal to the recorded figures, to the last digit.")
    else:
        console.print(f"Not equal to the recorded figures: {recorded.accuracy}", soft_wrap=True)
    return accuracy


def _find_record(model: Path, about: dict[str, Any]) -> Record | None:
    """The latest record of a model file, from its own folder or that of its comparison."""
    folder = model if model.is_dir() else model.parent
    for place in (folder, folder.parent.parent):
        for record in reversed(RecordLog(place / RECORDS).read()):
            if record.final and about_model(record).items() <= about.items():
                return record
    return None
