"""The report on a single run: one self-contained page without scripts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gmixout.data.base import UNKNOWN_PREFIX
from gmixout.plain import printable
from gmixout.reports import run_facts
from gmixout.reports.names import Names, names_of, title_of
from gmixout.reports.run_facts import Reliability
from gmixout.reports.templates import filled
from gmixout.reports.thumbnails import jpeg_uri
from gmixout.results.other_classes import OtherClasses
from gmixout.results.predictions import RunPredictions
from gmixout.results.record import ID_SETS, Record

DIAGRAMS = 8
"""Sets whose reliability is drawn; the table has all of them."""
SHOWN_CLASSES = 25
"""Classes that are shown at once; the others fold out."""
LISTED_CLASSES = 2000
"""Classes that the page lists."""
BEFORE, AFTER = "#5b8db8", "#d9772b"
"""Colours of the start and of the result."""


def run_page(
    record: Record,
    found: RunPredictions,
    config: str,
    other: Sequence[OtherClasses] = (),
    beside: str = "",
) -> str:
    """Return the report on one run as a self-contained HTML document of less than 3 MB.

    Of other tasks than one class an image it has the metrics of each set, and the costs.

    Args:
        record: The record of its model.
        found: The predictions of its model.
        config: Text of its config.yaml.
        other: Accuracy on classes that finetuning never saw.
        beside: Name of the page with all models of the run beside this one; empty: there is none.
    """
    rows, names = run_facts.set_rows(record, found), names_of(record)
    known = {n: each for n, each in found.sets.items() if not n.startswith(UNKNOWN_PREFIX)}
    reliabilities = [run_facts.reliability(name, each) for name, each in known.items()]
    classes = run_facts.class_rows(found)[:LISTED_CLASSES]
    return filled(
        "single.html",
        {"printable": printable, "percent": _percent, "signed": _signed, "set_name": set_title},
        record=record,
        found=found,
        rows=rows,
        names=names,
        shown_official=partial(_official, names),
        lower=", lower is better" if names.official.lower else "",
        measured=run_facts.measured(record),
        means=run_facts.mean_change(rows),
        official="" if record.benchmark.metric == "accuracy" else title_of(record.benchmark.metric),
        has_start=any(row.before for row in rows),
        classes=classes,
        shown=SHOWN_CLASSES,
        confusions=run_facts.confusions(found),
        mistakes=_mistakes(found),
        reliabilities=reliabilities,
        diagrams=[_diagram(each) for each in reliabilities[:DIAGRAMS]],
        detection=record.detection,
        other=other,
        costs=run_facts.costs(record),
        config=config,
        beside=beside,
        before=BEFORE,
        after=AFTER,
    )


def set_title(name: str) -> str:
    """Return the display name of a set."""
    titles = dict(zip(ID_SETS, ("in-domain validation", "in-domain test"), strict=True))
    if name.startswith(UNKNOWN_PREFIX):
        return f"unknown classes: {name.removeprefix(UNKNOWN_PREFIX)}"
    return titles.get(name, f"shift {name}")


def _mistakes(found: RunPredictions) -> list[dict[str, Any]]:
    """Return the mistakes of each set with their pictures."""
    shown = []
    for name, each in found.sets.items():
        if name == "id_val" or not each.mistakes:
            continue
        own = each.classes or found.classes
        # predictions are the model's classes, but for a shift with classes of its own
        predicted = found.classes if name.startswith(UNKNOWN_PREFIX) else own
        images = [
            {
                "name": mistake.name,
                "thumbnail": jpeg_uri(mistake.thumbnail),
                "true": own[int(each.labels[mistake.index])],
                "predicted": predicted[int(each.predicted[mistake.index])],
                "confidence": float(each.calibrated[mistake.index]),
            }
            for mistake in each.mistakes
        ]
        wrong = len(each.labels) if name.startswith(UNKNOWN_PREFIX) else int((~each.right).sum())
        shown.append({"set": name, "images": images, "wrong": wrong, "n": len(each.labels)})
    return shown


def _diagram(found: Reliability) -> dict[str, Any]:
    """Return the points of a reliability diagram on a square of side 100, y downward."""

    def line(bins: Sequence[tuple[float, float, int]]) -> Mapping[str, Any]:
        total = sum(count for *_, count in bins)
        points = [
            {
                "x": f"{100 * confidence:.1f}",
                "y": f"{100 * (1 - accuracy):.1f}",
                "r": f"{1.2 + 3.5 * (count / total) ** 0.5:.1f}",
                "text": f"{count} images: confidence {confidence:.3f}, accuracy {accuracy:.3f}",
            }
            for confidence, accuracy, count in bins
        ]
        return {"path": " ".join(f"{p['x']},{p['y']}" for p in points), "points": points}

    return {"of": found, "before": line(found.before), "after": line(found.after)}


def _official(names: Names, value: float) -> str:
    """Return a value of the official metric with its unit."""
    return f"{names.scale * value:{names.form}}{names.unit}"


def _percent(share: float) -> str:
    return "" if share != share else f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"
