"""What experiment trackers get of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import PartialState

from gmixout.bench.progress import say
from gmixout.named import spec_of
from gmixout.results import Record, RecordLog, RunFolder
from gmixout.training.tracking import Tracking

if TYPE_CHECKING:
    from gmixout.bench.job import Job


def trackers_of(job: "Job", folder: Path, log: RecordLog) -> Tracking:
    """Return the trackers of a run, a context manager; none if it is finished or not of rank 0.

    Raises:
        ConfigError: A tracker is not installed.
    """
    names, own = job.arguments.tracker, RunFolder(folder)
    is_one = PartialState().is_main_process
    if job.method is None or not names or not is_one or job.is_finished(folder, log):
        return Tracking()
    settings = {**job.task.plain(), "method": spec_of(job.method), **job.arguments.plain()}
    title = f"{folder.name}: {job.title}"
    return Tracking(names, own.tracking, own.trackers, title, settings, say)


def tracked_scores(record: Record) -> dict[str, float]:
    """Return the scores of a record by names for trackers: "id_test/accuracy"."""
    found: dict[str, float] = {}
    for name, scores in record.scores.items():
        own = {"accuracy": scores.accuracy, "nll": scores.nll, "ece": scores.ece, **scores.figures}
        found |= {f"{name}/{metric}": value for metric, value in own.items() if value is not None}
    for name, scored in record.detection.items():
        found |= {f"unknown/{name}/{score}/auroc": each.auroc for score, each in scored.items()}
    return found


def finish_tracking(tracking: Tracking, record: Record) -> None:
    """Send the scores of a finished model to the trackers of its run."""
    values = tracked_scores(record)
    rows = [f"| {name} | {value:.4f} |" for name, value in values.items()]
    table = "\n".join(["| score | value |", "|---|---:|", *rows])
    steps = record.training.taken if record.training else 0
    tracking.finish(steps, values, table)
