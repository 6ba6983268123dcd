"""Predict what a training step costs on a GPU, without one, and hold it against measurements.

    python benchmarks/cost_model.py                       # every method -> results/cost-model.json
    python benchmarks/cost_model.py --validate            # ... against results/gpu
    python benchmarks/cost_model.py --methods full gmixout:structure=row,density=0.05

Steps are traced on fake tensors and nothing is computed; see `gmixout.cost_model`. The tables show
where each method's time and bytes go and its arithmetic limit. Traces are kept in the file, so that
other devices and calibrations need none. See README.md beside this file.
"""

import argparse
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from _timing import describe_run
from _trainers import METHODS, PRECISIONS, Setting, Trainer, start_gmixout
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from gmixout.cost_model import (
    CALIBRATED_ON_H100,
    DEVICES,
    Calibration,
    Operation,
    Part,
    Prediction,
    Trace,
    WorkKind,
    bytes_of,
    get_device,
    gpu_autocast,
    imagined,
    part_of,
    predict_step,
    trace_steps,
)

RESULTS = Path("benchmarks/results")
MEASURED = {
    "h100-autocast-eager": ("autocast", "h100"),
    "h200-autocast-held": ("autocast", "h200"),
    "h200-bf16-eager": ("bfloat16", "h200"),
    "h200-bf16-held": ("bfloat16", "h200"),
}
"""Files of eager steps in `results/gpu`: their precision and device."""
PROFILE = "h100-autocast-profile"
FITTED = {("h100-autocast-eager", "full"), ("h200-autocast-held", "full")}
"""Measured steps that a parameter was fitted to (with the profile of full finetuning and `row`)."""
TRIALS = {"row16", "row16_frozen"}
"""Measured methods that were trials and are no part of the library."""
NAMES = {"floor_frozen": "floor_held"}
"""Names of measured methods that are others here."""
STARTS = [2, 7]
"""Of ten steps of a round with random start depths, those with starts at 1/4 and 3/4."""


class FakeSetting(Setting):
    """A setting whose steps are traced: autocast is a GPU's."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return what the forward pass runs in."""
        return gpu_autocast(torch.bfloat16 if self.precision == "autocast" else None)


def find_variant(word: str) -> Any:
    """Return what starts a method: a name, or gmixout:FIELD=VALUE,... with fields of GMixout."""
    if word in METHODS:
        return METHODS[word]
    name, _, fields = word.partition(":")
    if name != "gmixout":
        raise SystemExit(f"--methods {word}: known are {', '.join(METHODS)}, gmixout:FIELD=VALUE")
    options = {}
    for field in filter(None, fields.split(",")):
        key, _, text = field.partition("=")
        try:
            options[key] = json.loads(text.lower())
        except json.JSONDecodeError:
            options[key] = text
    density = options.pop("density", None)

    def start(model: nn.Module, setting: Setting) -> Trainer:
        setting = setting if density is None else replace(setting, density=density)
        return start_gmixout(model, setting, **options)

    return start


def trace_method(setting: Setting, method: str, batch: int) -> dict[str, Any]:
    """Trace a method: a plain step, and one with a redraw if it has any.

    With random start depths, which are long only in some periods, it is a step of two of them.
    """
    trace = partial(_trace, find_variant(method), batch=batch)
    rare = 10**9
    plain, trainer = trace(replace(setting, resample_every=rare), None)
    if trainer.seek is not Trainer.seek:
        first, second = (trace(setting, number)[0] for number in STARTS)
        both = first.every(2, second)
        both.peak_bytes = plain.peak_bytes  # the first period trains all depths
        return {"plain": dump(both)}
    found = {"plain": dump(plain)}
    if trainer.masked is not None:
        found["redraw"] = dump(trace(replace(setting, resample_every=1), None)[0])
        found["period"] = setting.resample_every
    return found


def _trace(start: Any, setting: Setting, number: int | None, batch: int) -> tuple[Trace, Trainer]:
    """Return the trace of a step, of this number in a round if given, and what took it."""
    model = setting.build()
    before = bytes_of(model)
    trainer = start(model, setting)
    if number is not None:
        trainer.seek(number)
    channels, *sides = model.default_cfg["input_size"]
    if "img_size" in setting.options:
        sides = [setting.options["img_size"]] * 2
    with imagined():
        images = torch.empty(batch, channels, *sides, dtype=next(model.parameters()).dtype)
        labels = torch.empty(batch, dtype=torch.long)
        kept = bytes_of(trainer.model) - before
        return trace_steps(lambda _: trainer.step(images, labels), kept_bytes=kept), trainer


def dump(trace: Trace) -> dict[str, Any]:
    """Return a trace as plain values: each operation once, and calls by their positions."""
    places: dict[Operation, int] = {}
    calls = [-1 if c is None else places.setdefault(c, len(places)) for c in trace.calls]
    operations = [
        [o.name, o.kind.name, str(o.dtype).partition(".")[2], o.read, o.written, o.flops, o.sides,
         o.launches]
        for o in places
    ]  # fmt: skip
    return {
        "steps": trace.steps,
        "peak_bytes": trace.peak_bytes,
        "operations": operations,
        "calls": calls,
    }


def load(found: dict[str, Any]) -> Trace:
    """Return the mean step of `trace_method`'s plain values."""

    def one(part: dict[str, Any]) -> Trace:
        operations = [
            Operation(
                name, WorkKind[kind], getattr(torch, dtype), *sizes, sides and tuple(sides), more
            )
            for name, kind, dtype, *sizes, sides, more in part["operations"]
        ]
        calls = [None if place < 0 else operations[place] for place in part["calls"]]
        return Trace(part["steps"], calls, part["peak_bytes"])

    plain = one(found["plain"])
    return plain.every(found["period"], one(found["redraw"])) if "redraw" in found else plain


def read_measured(name: str) -> dict[str, Any]:
    """Return the raw values of a file of `results/gpu`."""
    (batch,) = json.loads((RESULTS / "gpu" / f"{name}.json").read_text())["batches"]
    return batch


def measured_seconds(batch: dict[str, Any], method: str) -> float:
    """Return the median over rounds of the mean step."""
    return median(mean(step["wall"] for step in steps) for steps in batch["times"][method])


def validate(traces: dict[str, Any], calibration: Calibration) -> list[dict[str, Any]]:
    """Return predicted and measured time and memory of every measured eager step."""
    rows = []
    for name, (precision, device) in MEASURED.items():
        batch = read_measured(name)
        for method in batch["times"]:
            found = traces.get(precision, {}).get(NAMES.get(method, method))
            if method in TRIALS or found is None:
                continue
            step = predict_step(load(found), DEVICES[device], calibration)
            peak = batch["memory"][method]["peak_bytes"]["in_use"]
            rows.append(
                {
                    "file": name,
                    "method": NAMES.get(method, method),
                    "fitted": (name, method) in FITTED,
                    "predicted_seconds": step.seconds,
                    "measured_seconds": measured_seconds(batch, method),
                    "predicted_bytes": step.peak_bytes,
                    "measured_bytes": peak or None,
                }
            )
    return rows


def fit(traces: dict[str, Any]) -> Calibration:
    """Fit the calibration: to the profile of full finetuning, and of `row` what only that shows."""
    batch, device = read_measured(PROFILE), DEVICES["h100"]
    full, row = (load(traces["autocast"][m]) for m in ("full", "gmixout_row"))

    def measured(method: str, *names: str) -> float:
        profile = batch["operations"][method]
        return sum(profile[f"aten::{n}"]["ms"] for n in names if f"aten::{n}" in profile) / 1000

    def least(trace: Trace, names: Iterable[str]) -> Part:
        chosen = [(o, n) for o, n in trace.operations.items() if o.name in names]
        return sum((part_of(o, device) * (n / trace.steps) for o, n in chosen), Part())

    def moving(trace: Trace, *names: str) -> float:
        return least(trace, names).bytes / device.bandwidth

    def computing(*names: str) -> float:
        return least(full, names).flops / device.half

    attention = [o.name for o in full.operations if o.kind is WorkKind.ATTENTION]
    strided = moving(full, "stack") / measured("full", "cat")
    clones = moving(full, "clone") / strided  # the profile has them among the casts
    plain = ("add", "gelu", "gelu_backward", "_fused_adamw_")
    norms = ("native_layer_norm", "native_layer_norm_backward")
    gathers = ("index_select", "index_copy_")
    kernels = sum(cost["ms"] for cost in batch["operations"]["full"].values()) / 1000
    eager = read_measured("h100-autocast-eager")
    launches = sum(o.launches * n for o, n in full.operations.items()) / full.steps
    hosts = [  # a step that finds the queue empty does not wait for the GPU
        min(step["cpu"] for steps in eager["times"][method] for step in steps)
        * (trace.steps / len(trace.calls))
        for method, trace in (("full", full), ("gmixout_row", row))
    ]
    found = Calibration(
        stream=moving(full, "_to_copy", *plain)
        / (measured("full", "copy_", "add_", *plain) - clones),
        strided=strided,
        norm=moving(full, *norms) / measured("full", *norms),
        reduction=moving(full, "sum") / measured("full", "sum"),
        gather=moving(row, *gathers) / measured("gmixout_row", "gather", *gathers),
        product=computing("mm", "addmm") / measured("full", "mm", "addmm"),
        attention=computing(*attention)
        / measured("full", "_cudnn_attention_forward", "_cudnn_attention_backward"),
        convolution=computing("convolution", "convolution_backward")
        / measured("full", "cudnn_convolution", "convolution_backward"),
        thin=0.0,
        launch_seconds=(measured_seconds(eager, "full") - kernels) / launches,
        host_seconds=mean(hosts),
    )
    products = measured("gmixout_row", "mm")
    low, high = 0.0, 1.0
    while high - low > 1e-4:  # the time of products grows with the exponent
        thin = (low + high) / 2
        tried = replace(found, thin=thin, launch_seconds=0.0)
        chosen = [(o, n) for o, n in row.operations.items() if o.name == "mm"]
        seconds = sum(part_of(o, device, tried).seconds * n / row.steps for o, n in chosen)
        low, high = (thin, high) if seconds < products else (low, thin)
    return replace(found, thin=low)


def make_validation_table(rows: list[dict[str, Any]]) -> Table:
    """Return predicted and measured values side by side."""
    table = Table(title="eager steps, predicted and measured; *: a parameter was fitted to it")
    for column in ("file", "method"):
        table.add_column(column, no_wrap=True)
    for column in ("predicted, ms", "measured, ms", "error", "predicted, MB", "measured, MB", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["file"], row["method"] + "*" * row["fitted"], *validation_cells(row))
    return table


def validation_cells(row: dict[str, Any]) -> list[str]:
    """Return the figures of a row as the documentation has them."""
    cells = []
    for unit, scale, digits in (("seconds", 1000, 1), ("bytes", 1e-6, 0)):
        predicted, measured = row[f"predicted_{unit}"], row[f"measured_{unit}"]
        cells.append(f"{predicted * scale:.{digits}f}")
        cells.append("-" if measured is None else f"{measured * scale:.{digits}f}")
        cells.append("-" if measured is None else f"{predicted / measured - 1:+.1%}")
    return cells


def make_table(steps: dict[str, Prediction], title: str) -> Table:
    """Return each method's time, memory, bytes and limit, and where its time goes."""
    table = Table(
        title=title,
        caption="limit: no operation faster than its bytes at full bandwidth and its arithmetic at "
        "the full matrix rate; peak: above the weights; then ms by kind of operation (GB moved)",
    )
    table.add_column("method", no_wrap=True)
    base = steps.get("full")
    for column in ("ms", "/ full", "limit, ms", "host, ms", "peak, MB", "GB", "TFLOP"):
        table.add_column(column, justify="right")
    for kind in WorkKind:
        table.add_column(kind.value, justify="right")
    for method, step in steps.items():
        total = step.total
        table.add_row(
            method,
            f"{step.seconds * 1000:.1f}",
            f"{step.seconds / base.seconds:.2f}" if base else "-",
            f"{total.limit_seconds * 1000:.1f}",
            f"{step.host_seconds * 1000:.1f}",
            f"{step.peak_bytes / 1e6:.0f}",
            f"{total.bytes / 1e9:.1f}",
            f"{total.flops / 1e12:.2f}",
            *(
                f"{share.seconds * 1000:.1f} ({share.bytes / 1e9:.1f})"
                for share in (step.parts.get(kind, Part()) for kind in WorkKind)
            ),
        )
    return table


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line; its defaults are the setting of the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="vit_base_patch16_224", help="timm model (default: %(default)s)")
    add("--batch", type=int, default=128, help="images a step (default: %(default)s)")
    add("--methods", nargs="+", default=list(METHODS), help="names, or gmixout:FIELD=VALUE,...")
    add("--precisions", nargs="+", choices=PRECISIONS, default=["autocast", "bfloat16"])
    add("--density", type=float, default=Setting.density, help="share trained (default: 0.1)")
    add("--resample-every", type=int, default=Setting.resample_every, help="default: 10")
    add("--device-spec", nargs="+", default=["h100"], help=f"of {', '.join(DEVICES)}")
    add("--validate", action="store_true", help="traces of the file against results/gpu")
    add("--fit", action="store_true", help="fit the calibration to results/gpu; print it")
    add("--show", action="store_true", help="the file's tables; trace nothing")
    add("--out", type=Path, default=RESULTS / "cost-model.json", help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Trace, print the tables, write the traces."""
    args = parse(argv)
    console = Console(width=max(Console().width, 200))
    devices = {name: get_device(name) for name in args.device_spec}
    if args.validate or args.fit or args.show:
        results = json.loads(args.out.read_text())
    else:
        results = trace_all(args)
    if args.fit:
        console.print(
            {name: round(value, 9) for name, value in asdict(fit(results["traces"])).items()}
        )
    if args.validate:
        console.print(make_validation_table(validate(results["traces"], CALIBRATED_ON_H100)))
    if not (args.validate or args.fit):
        for name, device in devices.items():
            for precision, traces in results["traces"].items():
                steps = {method: predict_step(load(t), device) for method, t in traces.items()}
                title = f"{results['setting']['model']}, batch {results['setting']['batch']}"
                console.print(make_table(steps, f"{title}, {precision}, {name}, eager, predicted"))


def trace_all(args: argparse.Namespace) -> dict[str, Any]:
    """Trace the methods in each precision; the file is rewritten after each."""
    setting = {key: getattr(args, key) for key in ("model", "batch", "density", "resample_every")}
    results: dict[str, Any] = {"setting": setting, **describe_run(torch.device("cpu"), 1)}
    if args.out.exists() and (old := json.loads(args.out.read_text()))["setting"] == setting:
        results["traces"] = old["traces"]
    traces = results.setdefault("traces", {})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    work = [(p, m) for p in args.precisions for m in args.methods]
    for precision, method in track(work, "traces", console=Console(stderr=True)):
        chosen = FakeSetting(
            model=args.model,
            precision=precision,
            density=args.density,
            resample_every=args.resample_every,
        )
        traces.setdefault(precision, {})[method] = trace_method(chosen, method, args.batch)
        args.out.write_text(json.dumps(results) + "\n")
    return results


if __name__ == "__main__":
    main()
