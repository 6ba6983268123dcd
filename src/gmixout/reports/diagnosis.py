"""What `gmixout diagnose` measured, as tables for the terminal."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmixout.evaluation.ensemble import Diagnosis, Measures, Members
from gmixout.reports.standings import NONE
from gmixout.reports.style import rate
from gmixout.reports.table import WIDE, plain_table
from gmixout.results.statistics import Estimate

NAMES = {"id_test": "ID", "id_val": "ID validation"}


def print_diagnosis(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """The same figures as tables, with what the run and its members are."""
    console = console or Console()
    console.print(title_of(diagnosis), markup=False, highlight=False, style="bold")
    for make in (accuracy_table, error_table, line_table, place_table):
        console.print(make(diagnosis))
        console.print()
    console.print(note_of(diagnosis), markup=False, highlight=False, style="dim")


def accuracy_table(diagnosis: Diagnosis) -> Table:
    """Accuracy of members and of their averages, by set."""
    sets = list(diagnosis.snapshots.sets)
    table = _table("Accuracy (%)", [set_name(each) for each in sets])
    for label, place in (("pretrained", 0), ("final model", -1)):
        lines = (diagnosis.line[each].accuracy for each in sets)
        settings = [_text(Estimate.of(100 * one[place] for one in line)) for line in lines]
        table.add_row(label, *settings)
    for name, members in groups_of(diagnosis):
        table.add_section()
        found = [members.sets[each] for each in sets]
        table.add_row(f"{name}, mean", *(_text(percent(mean_accuracies(m))) for m in found))
        table.add_row("  average in weights", *(_text(percent(m.average_accuracy)) for m in found))
        table.add_row(
            "  average in predictions", *(_text(percent(m.ensemble_accuracy)) for m in found)
        )
        pairs = (None if m.disagreement is None else percent(m.disagreement) for m in found)
        table.add_row("  disagreement", *map(_text, pairs))
    return table


def error_table(diagnosis: Diagnosis) -> Table:
    """Brier's squared error and its two decompositions, by set."""
    sets = list(diagnosis.snapshots.sets)
    table = _table("Squared error (Brier, x100)", [set_name(each) for each in sets])
    for name, members in groups_of(diagnosis):
        found = [members.sets[each] for each in sets]
        table.add_row(f"{name}, mean", *(_text(percent(m.error)) for m in found))
        table.add_row("  average in weights", *(_text(percent(m.average_error)) for m in found))
        table.add_row("  ensemble = mean", *(_text(percent(m.ensemble_error)) for m in found))
        table.add_row("    - ambiguity", *(_text(percent(m.ambiguity)) for m in found))
        for label, place in (("  = bias²", 0), ("    + variance / M", 1), ("    + covariance", 2)):
            parts = (shares_of(m) for m in found)
            texts = [NONE if part is None else f"{100 * part[place]:.1f}" for part in parts]
            table.add_row(label, *texts)
        table.add_section()
    table.caption = "Covariance with its factor 1 - 1/M. The split takes two repeats or more."
    return table


def line_table(diagnosis: Diagnosis) -> Table:
    """The ends of the line from pretrained to final weights, and its barrier, by set."""
    table = _table("From pretrained to final", [set_name(each) for each in diagnosis.line])
    lines = list(diagnosis.line.values())
    for label, place in (("pretrained", 0), ("final", -1)):
        losses = [Estimate.of(each[place] for each in line.loss) for line in lines]
        table.add_row(f"loss, {label}", *(_text(each, digits=2) for each in losses))
    barriers = [Estimate.of(line.barrier) for line in lines]
    table.add_row("loss barrier", *(_text(each, digits=2) for each in barriers))
    return table


def place_table(diagnosis: Diagnosis) -> Table:
    """Where members and layers lie, relative to the pretrained weights."""
    table = _table("In the space of weights (%)", ["of the pretrained norm"])
    for name, members in groups_of(diagnosis):
        distances = [float(np.mean(each)) for each in members.distance]
        table.add_row(f"{name}, mean distance from pretrained", _text(percent(distances)))
        apart = None if members.spread is None else percent(members.spread)
        table.add_row(f"{name}, mean distance of two", _text(apart))
    last = {layer: [each[-1] for each in drifts] for layer, drifts in diagnosis.drift.items()}
    if last:
        most = max(last, key=lambda layer: Estimate.of(last[layer]).mean)
        label = f"{diagnosis.drift_of} of the layer that drifts most, {most or 'the model'}"
        table.add_row(escape(label), _text(percent(last[most])))
    return table


def groups_of(diagnosis: Diagnosis) -> list[tuple[str, Members]]:
    """The kinds of members that there are, by name."""
    groups = [("snapshots", diagnosis.snapshots), ("subnetworks", diagnosis.subnetworks)]
    return [(name, members) for name, members in groups if members is not None]


def set_name(test: str) -> str:
    """What tables and figures call a test set."""
    return NAMES.get(test, test)


def mean_accuracies(measures: Measures) -> list[float]:
    """Of the members, for each repeat."""
    return [float(np.mean(each)) for each in measures.accuracy]


def shares_of(measures: Measures) -> tuple[float, float, float] | None:
    """The three parts that add up to the ensemble's expected error."""
    split, count = measures.split, len(measures.accuracy[0])
    if split is None:
        return None
    return split.bias2, split.variance / count, (1 - 1 / count) * split.covariance


def percent(values: Sequence[float]) -> Estimate:
    """Of shares, in per cent."""
    return Estimate.of(100 * value for value in values)


def _text(estimate: Estimate | None, digits: int = 1) -> str:
    if estimate is None:
        return NONE
    # What has no randomness, the pretrained model's figures say, has no spread to show.
    sd = "" if len(set(estimate.values)) == 1 else f" ±{estimate.sd:.{digits}f}"
    return f"{estimate.mean:.{digits}f}{sd}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = plain_table(title, WIDE)
    table.add_column("")
    for column in columns:
        table.add_column(escape(column), justify="right", no_wrap=True)
    return table


def title_of(diagnosis: Diagnosis) -> str:
    """Of which run it is."""
    run = diagnosis.run
    return (
        f"The implicit ensemble of {run['method']['class_path']} on {run['benchmark']}, "
        f"lr {rate(run['lr'])}, {run['steps']} steps, run {run['run']}"
    )


def note_of(diagnosis: Diagnosis) -> str:
    """What the members are, what the spread is over, and whether the run came out again."""
    repeats, count = len(diagnosis.seeds), len(diagnosis.snapshots.distance[0])
    seeds = ", ".join(map(str, diagnosis.seeds))
    lines = [
        f"{count} snapshots a run, of steps {_steps(diagnosis.steps)}: {diagnosis.snapshots.what}."
    ]
    if diagnosis.subnetworks is not None:
        lines.append(f"Subnetworks: {diagnosis.subnetworks.what}.")
    else:
        lines.append(f"No subnetworks: {diagnosis.no_subnetworks}.")
    lines.append(
        f"n = {repeats} trainings (seeds {seeds}), ± one standard deviation over them."
        if repeats > 1
        else f"n = 1 training (seed {seeds}), so no spread and no split into variance."
    )
    lines.append(
        "Trained again, the run ended in its saved weights to the last bit."
        if diagnosis.reproduced
        else "Trained again, the run did NOT end in its saved weights: the largest difference is "
        f"{diagnosis.difference:.2g}. This describes a run of the same settings, not that one."
    )
    return "\n".join(lines)


def _steps(steps: Sequence[int]) -> str:
    return f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else str(steps[0])
