"""Fit how the cost of a training step grows, for full finetuning and GMixout with row masks.

    python benchmarks/scaling.py --axis width=192,384,768 --axis density=0.05,0.1,0.2

changes one size of a ViT at a time, all others at their base: width, depth, tokens (by the image's
side), batch, density, resample period. Prints, for the time of a step and its peak memory, the
exponent of a power law (least squares in log-log, with its standard error). See README.md beside
this file.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from _memory import apart, measure
from _timing import describe_run, time_rounds
from _trainers import COMPILERS, METHODS, PRECISIONS, Setting
from rich.console import Console
from rich.progress import track
from rich.table import Table

RESULTS = Path("benchmarks/results/scaling.json")
HEAD_WIDTH, PATCH = 64, 16


@dataclass(frozen=True)
class Point:
    """The sizes of one training step."""

    width: int = 192
    depth: int = 6
    image: int = 112
    batch: int = 8
    density: float = 0.1
    period: int = 10

    def size(self, axis: str) -> float:
        """What an axis is fitted against: its own value; for the image's side, tokens."""
        return (self.image // PATCH) ** 2 + 1 if axis == "image" else getattr(self, axis)

    def setting(self, **how: Any) -> Setting:
        """A ViT of these sizes."""
        sizes = {"embed_dim": self.width, "num_heads": self.width // HEAD_WIDTH}
        sizes |= {"depth": self.depth, "img_size": self.image}
        return Setting(
            model="vit_tiny_patch16_224",
            options=sizes,
            density=self.density,
            resample_every=self.period,
            **how,
        )


AXES: dict[str, list[float]] = {
    "width": [128, 192, 384, 768],
    "depth": [3, 6, 12, 24],
    "image": [64, 112, 160, 224],
    "batch": [4, 8, 16, 32],
    "density": [0.025, 0.05, 0.1, 0.2, 0.4],
    "period": [1, 2, 5, 10, 20],
}


def measure_axis(
    args: argparse.Namespace, base: Point, axis: str, values: list[float]
) -> list[dict[str, Any]]:
    """All raw values of one axis: by point and method rounds of step times, and peak bytes."""
    kind = next(f.type for f in fields(Point) if f.name == axis)
    points = [replace(base, **{axis: kind(value)}) for value in values]
    how = {name: getattr(args, name) for name in ("device", "threads", "precision", "compiler")}
    cases = {f"{point.size(axis):g} {m}": (point, m) for point in points for m in args.methods}
    steps = math.lcm(*(point.setting().round_steps for point in points))
    tasks = {}
    for name, (point, method) in cases.items():
        setting = point.setting(**how)
        trainer = setting.start(method, model := setting.build())
        tasks[name] = partial(trainer.time, *setting.make_batch(model, point.batch))
        tasks[name](range(setting.warm_up_steps))
    times = time_rounds(tasks, args.repeats, steps, torch.device(args.device), f"{axis}: steps")
    del tasks, trainer, model
    console = Console(stderr=True)
    return [
        {
            "method": method,
            "size": point.size(axis),
            "point": asdict(point),
            "wall": [[step["wall"] for step in one_round] for one_round in times[name]],
            "peak_bytes": apart(measure, point.setting(**how), method, point.batch)["peak_bytes"]
            if args.memory
            else None,
        }
        for name, (point, method) in track(cases.items(), f"{axis}: memory", console=console)
    ]


def seconds(case: dict[str, Any]) -> float:
    """A case's mean step, the median over rounds."""
    return median(mean(one_round) for one_round in case["wall"])


QUANTITIES = {"time": seconds, "peak memory": lambda case: case["peak_bytes"]}


def fit(sizes: list[float], costs: list[float]) -> dict[str, float]:
    """The exponent b of cost = a * size^b by least squares in log-log, with its standard error."""
    (slope, _), covariance = np.polyfit(np.log(sizes), np.log(costs), deg=1, cov=True)
    return {"exponent": float(slope), "standard_error": float(covariance[0, 0] ** 0.5)}


def fit_axis(cases: list[dict[str, Any]], methods: list[str]) -> dict[str, Any]:
    """The fits of one axis, by quantity and method."""
    fits: dict[str, Any] = {}
    for quantity, cost in QUANTITIES.items():
        for method in methods:
            own = [case for case in cases if case["method"] == method]
            if quantity == "time" or own[0]["peak_bytes"]:
                fitted = fit([case["size"] for case in own], [cost(case) for case in own])
                fits.setdefault(quantity, {})[method] = fitted
    return fits


def make_table(results: dict[str, Any]) -> Table:
    """One row an axis and quantity."""
    setting, methods = results["setting"], results["setting"]["methods"]
    table = Table(
        title=f"ViT, {results['machine']['gpu'] or setting['device']}, {setting['precision']}, "
        f"compiler {setting['compiler']}, {setting['threads']} thread(s): cost ~ size^b, with "
        "standard errors",
        caption="base: " + ", ".join(f"{k} {v:g}" for k, v in results["base"].items()),
    )
    for column in ("axis", "sizes", "of"):
        table.add_column(column, no_wrap=True)
    for method in methods:
        table.add_column(f"b, {method}", justify="right", no_wrap=True)
    for method in methods[1:]:
        table.add_column(f"{method} / {methods[0]}", justify="right", no_wrap=True)
    for axis, each in results["axes"].items():
        for quantity, fits in each["fits"].items():
            costs = {
                (case["method"], case["size"]): QUANTITIES[quantity](case) for case in each["cases"]
            }
            sizes = list(dict.fromkeys(size for _, size in costs))
            table.add_row(
                "tokens" if axis == "image" else axis,
                " ".join(f"{size:g}" for size in sizes),
                quantity,
                *(f"{f['exponent']:.2f} ± {f['standard_error']:.2f}" for f in fits.values()),
                *(
                    " ".join(f"{costs[m, size] / costs[methods[0], size]:.2f}" for size in sizes)
                    for m in methods[1:]
                ),
            )
        table.add_section()
    return table


def parse_axis(text: str) -> tuple[str, list[float]]:
    """`width=192,384` as a name and its values."""
    name, _, values = text.partition("=")
    if name not in AXES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(AXES)}")
    numbers = [float(value) for value in values.split(",") if value] or AXES[name]
    if len(set(numbers)) < 3:
        raise argparse.ArgumentTypeError(f"{text!r}: a fit with an error takes three values")
    return name, numbers


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--axis",
        type=parse_axis,
        action="append",
        metavar="NAME[=VALUE,...]",
        help=f"what to change, may be given again: {', '.join(AXES)} (default: all)",
    )
    for each in fields(Point):
        add(f"--{each.name}", type=each.type, default=each.default, help="base: %(default)s")
    add("--methods", nargs="+", default=["full", "gmixout_row"], choices=METHODS)
    add("--repeats", type=int, default=3, help="rounds of whole periods (default: %(default)s)")
    add("--no-memory", dest="memory", action="store_false", help="times alone")
    add("--device", default=Setting.device, help="cpu or cuda (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default=Setting.precision, help="default: %(default)s")
    add("--compiler", choices=COMPILERS, default=Setting.compiler, help="default: %(default)s")
    add("--threads", type=int, default=Setting.threads, help="CPU threads (default: %(default)s)")
    add("--out", type=Path, default=RESULTS, help="file for the raw values (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints the table, writes the raw values."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    base = Point(**{each.name: getattr(args, each.name) for each in fields(Point)})
    results: dict[str, Any] = {
        "schema": 1,
        "setting": {
            name: getattr(args, name)
            for name in ("methods", "repeats", "device", "precision", "compiler", "threads")
        },
        **describe_run(torch.device(args.device), args.threads),
        "base": asdict(base),
        "axes": {},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for axis, values in args.axis or AXES.items():
        cases = measure_axis(args, base, axis, values)
        results["axes"][axis] = {"cases": cases, "fits": fit_axis(cases, args.methods)}
        args.out.write_text(json.dumps(results) + "\n")  # now: the next axis may take an hour
    Console(width=max(Console().width, 160)).print(make_table(results))


if __name__ == "__main__":
    main()
