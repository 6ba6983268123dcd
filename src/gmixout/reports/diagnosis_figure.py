"""What `gmixout diagnose` measured, as one figure."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gmixout.evaluation.ensemble import Diagnosis
from gmixout.reports.diagnosis import (
    groups_of,
    mean_accuracies,
    note_of,
    percent,
    set_name,
    shares_of,
    title_of,
)
from gmixout.reports.figure import INK, LIGHT, SOFT, decorate, save_figure
from gmixout.results.statistics import Estimate

COLORS = {"snapshots": "#0072B2", "subnetworks": "#D55E00"}
SET_COLORS = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#A6761D", "#D55E00", "#8C6BB1")
"""Of the shifts; the in-domain sets are drawn in grey and black."""
MARKS = {"average in weights": "s", "average in predictions": "o", "final model": "*"}


def save_diagnosis_figure(diagnosis: Diagnosis, path: str | os.PathLike[str]) -> Path:
    """Write `diagnosis_figure` in the format of the path's ending (png, svg, pdf)."""
    return save_figure(lambda: diagnosis_figure(diagnosis), path)


def diagnosis_figure(diagnosis: Diagnosis) -> Figure:
    """One panel for each measure, mean over repeats with bars or bands of one standard deviation.

    Above what the members are and gain by being averaged, below where they lie: their distance from
    the pretrained weights, the drift of each layer, and the line from pretrained to final.
    """
    layout = ConstrainedLayoutEngine(wspace=0.05, hspace=0.07)
    figure = Figure(figsize=(16.5, 8.6), layout=layout, facecolor="white")
    panels = list(figure.subplots(2, 4).flat)
    draws: list[tuple[str, Callable[[Axes, Diagnosis], None]]] = [
        ("Accuracy above the mean member (points)", _accuracy),
        ("Disagreement of two members (%)", _disagreement),
        ("Squared error of members and of their ensemble", _ambiguity),
        ("Expected error of the ensemble beyond bias²", _split),
        ("Distance from the pretrained weights (%)", _locality),
        (f"Drift of each layer's {diagnosis.drift_of} (%)", _drift),
        ("Loss from pretrained (0) to final (1)", _loss),
        ("Accuracy from pretrained (0) to final (1) (%)", _line_accuracy),
    ]
    for axes, (title, draw) in zip(panels, draws, strict=True):
        axes.set_title(title, loc="left", fontsize=10.5, color=INK)
        decorate(axes)
        draw(axes, diagnosis)
    figure.suptitle(title_of(diagnosis), x=0.005, ha="left", fontsize=12.5, color=INK)
    figure.supxlabel(note_of(diagnosis), x=0.005, ha="left", fontsize=9.5, color=SOFT)
    return figure


def _accuracy(axes: Axes, diagnosis: Diagnosis) -> None:
    """Averages and the final model, relative to the mean member; members as faint dots."""
    sets = list(diagnosis.snapshots.sets)
    means: list[list[str]] = [[] for _ in sets]
    for place, name, test, color in _beside(diagnosis):
        measures = dict(groups_of(diagnosis))[name].sets[test]
        mean = mean_accuracies(measures)
        means[sets.index(test)].append(f"{100 * np.mean(mean):.1f}")
        values = 100 * (np.array(measures.accuracy) - np.array(mean)[:, None]).ravel()
        jitter = np.linspace(-0.05, 0.05, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(place + jitter, values, ".", ms=4, color=LIGHT, zorder=2)
        models = {
            "average in weights": measures.average_accuracy,
            "average in predictions": measures.ensemble_accuracy,
            "final model": [each[-1] for each in diagnosis.line[test].accuracy],
        }
        for offset, (label, accuracy) in zip((-0.09, 0.0, 0.09), models.items(), strict=True):
            gain = Estimate.of(100 * (a - b) for a, b in zip(accuracy, mean, strict=True))
            final = label == "final model"
            axes.errorbar(
                place + offset,
                gain.mean,
                yerr=gain.sd,
                fmt=MARKS[label],
                ms=10 if final else 6.5,
                color=INK if final else color,
                mec="white",
                mew=0.6,
                elinewidth=1.1,
                zorder=3,
            )
    axes.axhline(0, color=SOFT, linewidth=0.9)
    _label_sets(axes, diagnosis, [f"{' | '.join(each)} %" for each in means])
    axes.set_xlabel("below each set: the mean member", color=SOFT, fontsize=9)
    handles = [_handle(label, mark, INK) for label, mark in MARKS.items()]
    handles.append(_handle("members", ".", LIGHT))
    axes.legend(handles=handles, **_LEGEND)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.35 * (high - low))


def _disagreement(axes: Axes, diagnosis: Diagnosis) -> None:
    for place, name, test, color in _beside(diagnosis):
        shares = dict(groups_of(diagnosis))[name].sets[test].disagreement
        if shares is None:
            _say(axes, "one member makes no pair")
            break
        share = percent(shares)
        axes.bar(place, share.mean, _width(diagnosis), yerr=share.sd, color=color, ecolor=INK)
    _label_sets(axes, diagnosis)
    _from_zero(axes)
    _legend_of_groups(axes, diagnosis)


def _ambiguity(axes: Axes, diagnosis: Diagnosis) -> None:
    """Full bar: the members' error. Its light part is what averaging predictions gains."""
    width = _width(diagnosis)
    for place, name, test, color in _beside(diagnosis):
        measures = dict(groups_of(diagnosis))[name].sets[test]
        ensemble, gain = Estimate.of(measures.ensemble_error), Estimate.of(measures.ambiguity)
        axes.bar(place, ensemble.mean, width, yerr=ensemble.sd, color=color, ecolor=INK)
        axes.bar(place, gain.mean, width, bottom=ensemble.mean, color=color, alpha=0.35)
        average = Estimate.of(measures.average_error)
        axes.plot(place, average.mean, "s", ms=6, color="white", mec=INK, mew=1, zorder=4)
    _label_sets(axes, diagnosis)
    _from_zero(axes)
    dark = next(iter(COLORS.values()))
    handles = [
        Patch(color=dark, label="ensemble of predictions"),
        Patch(color=dark, alpha=0.35, label="+ ambiguity = mean member"),
        _handle("average in weights", "s", "white", edge=INK),
    ]
    axes.legend(handles=handles, **_LEGEND)


def _split(axes: Axes, diagnosis: Diagnosis) -> None:
    """Variance / M and (1 - 1/M) covariance, stacked; bias squared, much larger, in words."""
    if len(diagnosis.seeds) < 2:
        _say(axes, "an expectation takes two repeats or more")
        return
    width = _width(diagnosis)
    biases: dict[str, list[str]] = {test: [] for test in diagnosis.snapshots.sets}
    for place, name, test, color in _beside(diagnosis):
        parts = shares_of(dict(groups_of(diagnosis))[name].sets[test])
        assert parts is not None  # there are two repeats
        bias2, variance, covariance = parts
        biases[test].append(f"{bias2:.3f}")
        axes.bar(place, variance, width, color=color)
        axes.bar(place, covariance, width, bottom=variance, color=color, alpha=0.35)
    _label_sets(axes, diagnosis, [" | ".join(each) for each in biases.values()])
    axes.set_xlabel("below each set: bias²", color=SOFT, fontsize=9)
    _from_zero(axes)
    dark = next(iter(COLORS.values()))
    handles = [
        Patch(color=dark, label="variance / M"),
        Patch(color=dark, alpha=0.35, label="(1 - 1/M) covariance"),
    ]
    axes.legend(handles=handles, **_LEGEND)


def _locality(axes: Axes, diagnosis: Diagnosis) -> None:
    """Of each snapshot over time, and of the subnetworks at the end; dashes: of two members."""
    for name, members in groups_of(diagnosis):
        color, values = COLORS[name], 100 * np.array(members.distance)
        if name == "snapshots":
            _band(axes, diagnosis.steps, values, color, "snapshots from pretrained")
        else:
            end = np.full(values.size, diagnosis.drift_steps[-1])
            label = "subnetworks from pretrained"
            axes.plot(end, values.ravel(), "D", ms=5, color=color, alpha=0.6, label=label)
        if members.spread is not None:
            apart = 100 * np.mean(members.spread)
            axes.axhline(apart, color=color, linestyle="--", linewidth=1.2, label=f"two {name}")
    axes.legend(**_LEGEND)
    _from_zero(axes)
    axes.set_xlabel("optimizer step (dashes: mean distance of two)", color=SOFT, fontsize=9)


def _drift(axes: Axes, diagnosis: Diagnosis) -> None:
    """One line a layer, from dark (input) to light (output); the farthest ones are named."""
    layers = list(diagnosis.drift)
    means = {each: 100 * np.mean(diagnosis.drift[each], axis=0) for each in layers}
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(len(layers), 2)))
    for layer, shade in zip(layers, shades, strict=False):
        axes.plot(diagnosis.drift_steps, means[layer], color=shade, linewidth=1.3)
    named = sorted(layers, key=lambda layer: -means[layer][-1])[:4]
    handles = [
        Line2D([], [], color=shades[layers.index(each)], label=_short(each)) for each in named
    ]
    if len(layers) > len(named):
        ends = ((0, "first layer"), (len(layers) - 1, "last layer"))
        handles += [
            Line2D([], [], color=shades[place], label=label)
            for place, label in ends
            if layers[place] not in named
        ]
    axes.legend(handles=handles, ncols=2, columnspacing=1, **_LEGEND)
    _from_zero(axes)
    axes.set_xlabel("optimizer step", color=SOFT, fontsize=9)


def _loss(axes: Axes, diagnosis: Diagnosis) -> None:
    for name, color in _set_colors(diagnosis).items():
        line = diagnosis.line[name]
        _band(axes, diagnosis.alphas, np.array(line.loss), color, "")
        axes.plot(
            [], [], color=color, label=f"{set_name(name)}: barrier {np.mean(line.barrier):.2f}"
        )
        ends = np.mean([[each[0], each[-1]] for each in line.loss], axis=0)
        axes.plot([0, 1], ends, ":", color=color, linewidth=1)
    axes.legend(**_LEGEND)
    _from_zero(axes)
    axes.set_xlabel("share of the final weights (dots: the chord)", color=SOFT, fontsize=9)


def _line_accuracy(axes: Axes, diagnosis: Diagnosis) -> None:
    for name, color in _set_colors(diagnosis).items():
        accuracy = 100 * np.array(diagnosis.line[name].accuracy)
        _band(axes, diagnosis.alphas, accuracy, color, set_name(name))
    axes.legend(**_LEGEND)
    axes.set_xlabel("share of the final weights", color=SOFT, fontsize=9)


_LEGEND: dict[str, Any] = {
    "frameon": True,
    "facecolor": "white",
    "edgecolor": "none",
    "framealpha": 0.8,
    "fontsize": 8.5,
    "labelcolor": INK,
    "handlelength": 1.4,
    "loc": "best",
}


def _width(diagnosis: Diagnosis) -> float:
    return 0.7 / len(groups_of(diagnosis))


def _beside(diagnosis: Diagnosis) -> Iterator[tuple[float, str, str, str]]:
    """Place, group, set and colour of the marks of a panel whose axis is the sets."""
    groups = groups_of(diagnosis)
    for number, (name, members) in enumerate(groups):
        offset = (number - (len(groups) - 1) / 2) * (_width(diagnosis) + 0.04)
        for position, test in enumerate(members.sets):
            yield position + offset, name, test, COLORS[name]


def _label_sets(axes: Axes, diagnosis: Diagnosis, below: Sequence[str] = ()) -> None:
    names = [set_name(test) for test in diagnosis.snapshots.sets]
    labels = [f"{n}\n{b}" for n, b in zip(names, below, strict=True)] if below else names
    axes.set_xticks(range(len(names)), labels)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.grid(visible=False, axis="x")


def _legend_of_groups(axes: Axes, diagnosis: Diagnosis) -> None:
    handles = [Patch(color=COLORS[name], label=name) for name, _ in groups_of(diagnosis)]
    axes.legend(handles=handles, **_LEGEND)


def _set_colors(diagnosis: Diagnosis) -> dict[str, str]:
    own = {"id_val": LIGHT, "id_test": INK}
    shifts = [name for name in diagnosis.line if name not in own]
    return own | {name: SET_COLORS[i % len(SET_COLORS)] for i, name in enumerate(shifts)}


def _band(axes: Axes, x: Sequence[float], values: np.ndarray, color: str, label: str) -> None:
    """Mean over repeats, and a band of one standard deviation where there are several."""
    mean = values.mean(0)
    axes.plot(x, mean, color=color, linewidth=1.7, label=label or None)
    if len(values) > 1:
        sd = values.std(0, ddof=1)
        axes.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.2, linewidth=0)


def _from_zero(axes: Axes) -> None:
    """The axis starts at 0, with room for the legend above."""
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=SOFT)
    axes.set_yticks([])


def _handle(label: str, marker: str, color: str, edge: str = "white") -> Line2D:
    size = 10 if marker == "*" else 6.5
    return Line2D([], [], linestyle="", marker=marker, ms=size, color=color, mec=edge, label=label)


def _short(layer: str) -> str:
    return layer if len(layer) <= 26 else "…" + layer[-25:]
