"""The figure and the tables of a diagnosis."""

import dataclasses
import io
import xml.etree.ElementTree as ElementTree
from functools import cache

import pytest
import torch
from rich.console import Console

from gmixout.evaluation.ensemble import Diagnosis, Line, Members, barrier, measure
from gmixout.reports.diagnosis import print_diagnosis
from gmixout.reports.diagnosis_figure import diagnosis_figure, save_diagnosis_figure

SETS = ("id_test", "blur", "art [new]", "a$b")


def members(what, repeats, count, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return (3 * torch.randn(*shape, 20, 4, generator=generator)).softmax(-1)

    labels = torch.randint(4, (20,), generator=generator)
    sets = {name: measure(draw(repeats, count), draw(repeats), labels) for name in SETS}
    distance = torch.rand(repeats, count, generator=generator).tolist()
    spread = [0.1 + 0.01 * r for r in range(repeats)] if count > 1 else None
    return Members(what, sets, distance, spread)


def made_up(repeats=3, count=4, subnetworks=True, **changes):
    alphas = [i / 20 for i in range(21)]
    loss = [[1 - 0.8 * a + 2 * a * (1 - a) + 0.1 * r for a in alphas] for r in range(repeats)]
    accuracy = [[0.3 + 0.5 * a + 0.01 * r for a in alphas] for r in range(repeats)]
    line = Line(loss, accuracy, [barrier(alphas, each) for each in loss])
    steps = [10 * (i + 1) for i in range(count)]
    layers = [f"blocks.{i}.a.very.long.name.of.a.layer" for i in range(9)]
    values = {
        "run": {
            "benchmark": "toy", "run": "abc", "lr": 1e-3, "steps": 40,
            "method": {"class_path": "gmixout", "init_args": {}},
        },
        "seeds": list(range(repeats)),
        "reproduced": True,
        "difference": 0.0,
        "steps": steps,
        "snapshots": members("weights after a step", repeats, count, 0),
        "subnetworks": members("fresh masks", repeats, count, 1) if subnetworks else None,
        "no_subnetworks": "" if subnetworks else "full draws no masks",
        "drift_of": "anchor",
        "drift_steps": steps,
        "drift": {n: [[0.1 * i * s for s in steps]] * repeats for i, n in enumerate(layers)},
        "alphas": alphas,
        "line": dict.fromkeys(("id_val", *SETS), line),
    }  # fmt: skip
    return Diagnosis(**values | changes)


KINDS = {
    "all": made_up(),
    "no subnetworks": made_up(subnetworks=False),
    "one repeat": made_up(repeats=1),
    "one member": made_up(count=1),
    "one of one": made_up(repeats=1, count=1, subnetworks=False),
    "no drift": made_up(drift={}),
    "a model of one layer": made_up(drift={"": [[0.1, 0.2, 0.3, 0.4]] * 3}),
}


def printed(diagnosis, width=100):
    console = Console(file=io.StringIO(), width=width)
    print_diagnosis(diagnosis, console)
    return console.file.getvalue()


def texts(figure):
    found = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
    return "\n".join(found)


@cache
def figure_of(kind):
    """Only looked at: drawing takes half a second."""
    return diagnosis_figure(KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_eight_panels_whatever_there_is(kind, tmp_path):
    figure = figure_of(kind)
    assert len(figure.axes) == 8
    for axes in figure.axes:
        assert axes.get_title(loc="left")
        assert axes.has_data() or axes.texts or kind == "no drift"
    figure.savefig(tmp_path / "figure.svg")  # lays everything out: warnings are errors


def test_files_are_of_the_kind_of_their_ending_and_the_same_each_time(tmp_path):
    diagnosis = KINDS["all"]
    png = save_diagnosis_figure(diagnosis, tmp_path / "a.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    svgs = [save_diagnosis_figure(diagnosis, tmp_path / f"{i}.svg").read_bytes() for i in range(2)]
    assert svgs[0] == svgs[1]
    assert ElementTree.fromstring(svgs[0]).tag.endswith("svg")


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_repeats_and_the_fate_of_the_run_are_always_said(kind):
    diagnosis = KINDS[kind]
    for text in (texts(figure_of(kind)), printed(diagnosis)):
        assert f"n = {len(diagnosis.seeds)} training" in text
        assert "bit for bit" in text
        assert ("No subnetworks: full draws no masks" in text) == (diagnosis.subnetworks is None)


def test_a_run_that_ended_elsewhere_is_said_to():
    other = dataclasses.replace(KINDS["all"], reproduced=False, difference=0.25)
    assert "did NOT end in its saved weights; the largest difference is 0.25" in " ".join(
        printed(other).split()
    )
    assert "did NOT end" in texts(diagnosis_figure(other))


@pytest.mark.parametrize("kind", KINDS)
def test_tables_hold_every_set_and_the_figures_that_were_measured(kind):
    diagnosis = KINDS[kind]
    text = printed(diagnosis)
    for name in ("ID", "ID validation", "blur", "art [new]", "a$b"):
        assert name in text
    measures = diagnosis.snapshots.sets["blur"]
    mean = sum(measures.ensemble_accuracy) / len(measures.ensemble_accuracy)
    assert f"{100 * mean:.1f}" in text
    if measures.split is None:
        assert "±" not in text.split("Squared error")[0]
    else:
        assert f"{100 * measures.split.bias2:.1f}" in text


def test_the_parts_in_the_error_table_add_up():
    """mean member - ambiguity = ensemble = bias^2 + variance / M + covariance, of one set."""
    diagnosis = KINDS["no subnetworks"]
    table = printed(diagnosis, width=140).split("Squared error")[1].split("From pretrained")[0]

    def value(label):
        (line,) = [line for line in table.splitlines() if label in line]
        return float(line.split(label)[1].split("±")[0].split()[0])

    ensemble = value("ensemble = mean")
    assert ensemble == pytest.approx(value("snapshots, mean") - value("- ambiguity"), abs=0.11)
    parts = value("= bias²") + value("+ variance / M") + value("+ covariance")
    assert ensemble == pytest.approx(parts, abs=0.21)


def test_without_a_spread_nothing_is_shown_as_one():
    """Figures that cannot vary, the pretrained model's say, have no ±; others of 3 repeats do."""
    fixed = [[0.5] * 21] * 3
    line = {n: Line(fixed, fixed, [0.0] * 3) for n in ("id_val", *SETS)}
    text = printed(made_up(line=line))
    (pretrained,) = [row for row in text.splitlines() if row.startswith("pretrained ")]
    (mean,) = [row for row in text.splitlines() if row.startswith("snapshots, mean  ")][:1]
    assert "±" not in pretrained
    assert "±" in mean
