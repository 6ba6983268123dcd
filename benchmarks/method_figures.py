"""Draw the pictures of docs/method.md from the tensors of small runs on a CPU, in ten seconds.

    python benchmarks/method_figures.py

`masks.png`: the weights of one layer that each period moved. `anchor.png`: the way of the weights
and of the anchor through weight space, in the plane that shows most of it.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from torch import Tensor, nn

import gmixout

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STRUCTURES = ("element", "row", "column", "block")
PERIODS = 5
PATH_STEPS = 120
"""Steps of the runs of `anchor.png`."""


class Run(NamedTuple):
    """A run in weight space."""

    weights: Tensor
    """After each step, the pretrained ones first, `[steps + 1, N]`."""
    anchors: Tensor
    """At the start of each period and at the end, `[periods + 1, N]`; none without masks."""


def toy() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network of two layers, pretrained on one task, and the data of another."""
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 16, generator=draws)
    before, after = torch.randn(2, 16, 4, generator=draws)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        _step(model, optimizer, inputs, (inputs @ before).argmax(1))
    return model, inputs, (inputs @ (before + after)).argmax(1)


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor
) -> None:
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def moved(structure: str, mask_rate: float = 0.7, every: int = 4) -> list[Tensor]:
    """Return which entries of the first layer each period moved, `[24, 16]` each."""
    model, inputs, labels = toy()
    config = gmixout.GMixout(mask_rate, resample_every=every, structure=structure, block_size=4)
    masked = gmixout.attach(model, config)
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
    found = []
    for _ in range(PERIODS):
        first = masked.anchor()["0.weight"].clone()
        for step in range(every):
            _step(model, optimizer, inputs, labels)
            if step == every - 2:  # the last step of a period ends in the next mask
                found.append(masked.snapshot()["0.weight"] != first)
    return found


def path(config: gmixout.GMixout | None, lr: float = 5e-3, steps: int = PATH_STEPS) -> Run:
    """Return the way of the first layer's weights through a run.

    Args:
        config: The settings of the process; None for full finetuning.
        lr: Learning rate.
        steps: Steps of the run.
    """
    model, inputs, labels = toy()
    if config is None:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        masked = None
    else:
        masked = gmixout.attach(model, config)
        optimizer = masked.bind(torch.optim.Adam(masked.param_groups(lr=lr, head_lr=lr)))

    def now() -> Tensor:
        state = model.state_dict() if masked is None else masked.snapshot()
        return state["0.weight"].flatten().clone()

    weights, anchors = [now()], []
    for step in range(steps):
        if masked is not None and config is not None and step % (config.resample_every or 1) == 0:
            anchors.append(masked.anchor()["0.weight"].flatten().clone())
        _step(model, optimizer, inputs, labels)
        weights.append(now())
    if masked is not None:
        anchors.append(masked.anchor()["0.weight"].flatten().clone())
    return Run(torch.stack(weights), torch.stack(anchors) if anchors else weights[0][:0])


def masks_figure() -> plt.Figure:
    """Draw the entries that each period moved, by structure."""
    figure, axes = plt.subplots(len(STRUCTURES), PERIODS, figsize=(7, 7.4), layout="constrained")
    for row, structure in zip(axes, STRUCTURES, strict=True):
        for period, (place, mask) in enumerate(zip(row, moved(structure), strict=True)):
            place.imshow(mask, cmap="Greens", vmin=0, vmax=1.4, aspect="auto")
            place.set(xticks=[], yticks=[])
            if structure == STRUCTURES[0]:
                place.set_title(f"period {period}", fontsize=10)
            if period == 0:
                place.set_ylabel(structure, fontsize=11)
    figure.supxlabel("input units: 16", fontsize=9)
    figure.supylabel("output units: 24", fontsize=9)
    return figure


def anchor_figure() -> plt.Figure:
    """Draw runs in the plane of most of their movement."""
    runs = {
        "full finetuning": (path(None), "#888888"),
        "GMixout, anchor_decay=0.7": (path(gmixout.GMixout(0.7, 0.7)), "#2a8f5b"),
        "GMixout, anchor_decay=0.9": (path(gmixout.GMixout(0.7, 0.9)), "#c8792b"),
    }
    start = runs["full finetuning"][0].weights[0]
    together = torch.cat([run.weights for run, _ in runs.values()]) - start
    plane = torch.linalg.svd(together, full_matrices=False).Vh[:2].T
    figure, place = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for name, (run, colour) in runs.items():
        place.plot(*((run.weights - start) @ plane).T, color=colour, lw=1.1, label=name)
        if len(run.anchors):
            place.plot(
                *((run.anchors - start) @ plane).T, "o", color=colour, ms=4, mfc="white",
                label="its anchor, at each redraw",
            )  # fmt: skip
    place.plot(0, 0, "*", color="black", ms=14, label="pretrained")
    place.set(xlabel="first direction", ylabel="second direction", aspect="equal")
    place.legend(fontsize=9, frameon=False)
    place.spines[["top", "right"]].set_visible(False)
    return figure


FIGURES = {"masks.png": masks_figure, "anchor.png": anchor_figure}


def main(words: list[str] | None = None) -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder (default: docs)")
    out = parser.parse_args(words).out
    for name, draw in FIGURES.items():
        figure = draw()
        figure.savefig(out / name, dpi=110)
        plt.close(figure)
        print(out / name)


if __name__ == "__main__":
    main()
