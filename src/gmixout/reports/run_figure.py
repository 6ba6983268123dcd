"""The picture of a model card: accuracy on each set before and after finetuning."""

from matplotlib.figure import Figure

from gmixout.plain import printable
from gmixout.reports.run_facts import set_rows
from gmixout.reports.run_page import AFTER, BEFORE, set_title
from gmixout.results.predictions import RunPredictions
from gmixout.results.record import Record

MOST_BARS = 14


def run_figure(record: Record, found: RunPredictions | None = None) -> Figure:
    """Draw the accuracy of a model on each set, with that of its start if it is known.

    Args:
        record: The record of the model.
        found: Its predictions, which hold those of the start.
    """
    found = found or RunPredictions("", 1.0, (), "")
    rows = [row for row in set_rows(record, found) if row.name != "id_val"][:MOST_BARS]
    figure = Figure(figsize=(7, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    both = any(row.before for row in rows)
    height = 0.38 if both else 0.6
    if both:
        values = [100 * row.before.share if row.before else 0.0 for row in rows]
        axes.barh([p - 0.2 for p in places], values, height, color=BEFORE, label="pretrained")
    values = [100 * row.after.share for row in rows]
    shifted = [p + (0.2 if both else 0.0) for p in places]
    drawn = axes.barh(shifted, values, height, color=AFTER, label="finetuned")
    axes.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    names = [printable(set_title(row.name)).replace("$", r"\$")[:40] for row in rows]
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xlabel("accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    if both:
        axes.legend(loc="lower right", fontsize=8, frameon=False)
    return figure
