"""Measure a training step: time and peak memory of GMixout beside the usual ways to finetune.

    python benchmarks/step.py
    python benchmarks/step.py --device cuda --model vit_base_patch16_224 --precision autocast \\
        --compiler inductor --fit 24

times full finetuning, a linear probe, LoRA, SHiRA, Mixout with dense masks and GMixout in each
structure and with random depth in one process, in turn, and takes each method's peak memory in a
process of its own. A step is forward, backward, optimizer step and zero_grad. See README.md beside
this file.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from _memory import ALLOCATORS, apart, measure_apart, measure_largest
from _timing import describe_run, in_turn, spread, synchronize, time_rounds
from _trainers import COMPILERS, METHODS, PRECISIONS, Setting
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gmixout.files import write_text

MB = 1e6
BATCHES = [8, 32]
MODELS = (
    "vit_small_patch16_224, vit_base_patch16_224, vit_large_patch14_224, convnext_base, resnet50, "
    "digits_vit"
)
INFERENCE_PASSES = 20
PROFILED = 25
"""Operations that a profile shows."""
RESULTS = Path("benchmarks/results")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Time as it passes; this process's processor time, steadier on a shared machine (CPU alone)."""


def measure_times(
    setting: Setting, methods: list[str], batch: int, rounds: int, seconds: float | None = None
) -> dict[str, list[list[dict[str, Any]]]]:
    """Steps of every method in turn; by method: its rounds, each of whole periods.

    No method is warmed up, or compiled, after so many seconds: those after it are left out.
    """
    images, labels = setting.make_batch(setting.build(), batch)
    tasks = {}
    until = math.inf if seconds is None else time.monotonic() + seconds
    for method in track(methods, f"batch {batch}: warm-up", console=Console(stderr=True)):
        if time.monotonic() > until:
            break
        trainer = setting.start(method, setting.build())
        tasks[method] = partial(trainer.time, images, labels)
        tasks[method](range(setting.warm_up_steps))
    device = torch.device(setting.device)
    return time_rounds(tasks, rounds, setting.round_steps, device, f"batch {batch}: steps")


@torch.no_grad()
def measure_inference(
    setting: Setting, method: str, batch: int, clock: str
) -> list[dict[str, float]]:
    """Forward passes of an untouched model and of one after `detach()`, in turn, in seconds."""
    setting = replace(setting, compiler="none")  # detach() leaves no compiled code behind
    plain, used = setting.build(), setting.build()
    images, labels = setting.make_batch(plain, batch)
    trainer = setting.start(method, used)
    with torch.enable_grad():
        trainer.step(images, labels)
    assert trainer.masked is not None
    used = trainer.masked.detach()
    if list(used.state_dict()) != list(plain.state_dict()):
        raise RuntimeError(f"{method}: detach() left other state-dict keys behind.")
    if [type(m) for m in used.modules()] != [type(m) for m in plain.modules()]:
        raise RuntimeError(f"{method}: detach() left other module classes behind.")
    models = {"untouched": plain.eval(), "detached": used.eval()}
    seconds: list[dict[str, float]] = [{} for _ in range(1 + INFERENCE_PASSES)]
    device = torch.device(setting.device)
    for i, name in enumerate(in_turn(list(models), len(seconds))):
        synchronize(device)
        started = CLOCKS[clock]()
        with setting.autocast():
            models[name](images)
        synchronize(device)
        seconds[i // len(models)][name] = CLOCKS[clock]() - started
    return seconds[1:]


def measure(
    setting: Setting, args: argparse.Namespace, batch: int, save: Callable[[dict[str, Any]], None]
) -> None:
    """All raw values of one batch size; saved after each part, as the next may take an hour."""
    console = Console(stderr=True)
    parts: dict[str, dict[str, Any]] = {"memory": {}, "inference": {}}
    times = measure_times(setting, args.methods, batch, args.repeats, args.warm_up_seconds)
    result = {"batch": batch, "times": times, **parts}
    save(result)
    if args.times_only:
        return
    masked = [m for m in times if m.startswith("gmixout")]
    for method in track(times, f"batch {batch}: memory", console=console):
        parts["memory"][method] = measure_apart(setting, method, batch)
        save(result)
    for method in track(masked, f"batch {batch}: inference", console=console):
        parts["inference"][method] = measure_inference(setting, method, batch, args.clock)
    save(result)


def profile(
    setting: Setting, methods: list[str], batch: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds and calls a step of each operation, by method; all methods step in turn."""
    images, labels = setting.make_batch(setting.build(), batch)
    trainers = {method: setting.start(method, setting.build()) for method in methods}
    for trainer in trainers.values():
        trainer.time(images, labels, range(setting.warm_up_steps))
    steps = setting.round_steps
    kind = "cpu" if setting.device == "cpu" else "device"
    costs: dict[str, dict[str, dict[str, float]]] = {method: {} for method in methods}
    for turn, method in enumerate(in_turn(methods, steps)):
        step = turn // len(methods)
        with torch.profiler.profile() as found:
            trainers[method].time(images, labels, range(step, step + 1))
        for each in found.key_averages():
            if each.device_type != torch.autograd.DeviceType.CPU:
                continue  # a kernel, whose time is that of the operation that launched it, too
            cost = costs[method].setdefault(each.key, {"ms": 0.0, "calls": 0.0})
            cost["ms"] += getattr(each, f"self_{kind}_time_total") / 1000 / steps
            cost["calls"] += each.count / steps
    return costs


def make_profile_table(profiles: dict[str, dict[str, dict[str, float]]], batch: int) -> Table:
    """What takes the time of each method's step, the dearest operations of any first."""
    table = Table(title=f"ms (calls) a step by operation, its callees apart; batch {batch}")
    table.add_column("operation")
    for method in profiles:
        table.add_column(method, justify="right")
    highest: dict[str, float] = {}
    for operations in profiles.values():
        for name, cost in operations.items():
            highest[name] = max(highest.get(name, 0), cost["ms"])
    for name in sorted(highest, key=lambda name: -highest[name])[:PROFILED]:
        costs = (operations.get(name) for operations in profiles.values())
        table.add_row(name, *(f"{c['ms']:.1f} ({c['calls']:g})" if c else "" for c in costs))
    totals = (sum(c["ms"] for c in operations.values()) for operations in profiles.values())
    table.add_row("all", *(f"{total:.1f}" for total in totals), style="bold")
    return table


def measure_fit(setting: Setting, methods: list[str], budget_gb: float) -> dict[str, Any]:
    """The largest batch of each method in a budget."""
    console = Console(stderr=True)
    return {
        method: apart(measure_largest, setting, method, budget_gb)
        for method in track(methods, f"largest batch in {budget_gb:g} GB", console=console)
    }


def step_ratios(times: dict[str, Any], method: str, base: str, clock: str) -> list[float]:
    """Mean step of a method in each round over that of `base` in the same round."""
    return [
        mean(step[clock] for step in ours) / mean(step[clock] for step in theirs)
        for ours, theirs in zip(times[method], times[base], strict=True)
    ]


def redraw_share(rounds: list[list[dict[str, Any]]], resample_every: int) -> float | None:
    """Share of the training time that redraws take, from the optimizer's part of the steps.

    A redraw makes its own step longer, and the next one, in which the optimizer makes its state
    anew. None where no step is free of both.
    """
    steps = [step for one_round in rounds for step in one_round]
    after = [later for step, later in itertools.pairwise(steps) if step["redraw"]]
    plain = [step for step in steps if not step["redraw"] and step not in after]
    if not plain:
        return None
    usual = median(step["update"] for step in plain)
    redraw = median(step["update"] for step in steps if step["redraw"]) - usual
    renewal = median(step["update"] for step in after) - usual if after else 0.0
    every = resample_every * median(step["wall"] for step in plain)
    return (redraw + renewal) / (every + redraw + renewal)


def masked_share(memory: dict[str, Any], method: str) -> float:
    """Gradient and optimizer bytes of the masked weights over full finetuning's for the same."""
    ours, full = memory[method]["masked"], memory["full"]["gradient_and_optimizer_bytes"]
    kept = ours["bytes"]["gradient"] + ours["bytes"]["optimizer"]
    return kept / sum(full[name] for name in ours["weights"])


def make_table(results: dict[str, Any], clock: str) -> Table:
    """One row a method and batch size."""
    setting = results["setting"]
    compiler = setting["compiler"] + (", checkpointing" if setting["checkpointing"] else "")
    allocators = [a for a in ALLOCATORS if setting["device"] == "cpu" or a == "in_use"]
    table = Table(
        title=f"{setting['model']}, density {setting['density']}, {setting['precision']}, compiler "
        f"{compiler}, {results['machine']['gpu'] or setting['device']}, "
        f"{setting['threads']} thread(s): medians, ratios within rounds, [dim]range[/dim]",
        caption=f"step: mean of a round's steps ({clock} time), redraws every "
        f"{setting['resample_every']} steps included; peak memory above the loaded model, with an "
        "allocator that keeps nothing and by default;\nkept: bytes of gradient and optimizer "
        "state, of all that is trained and of the masked weights alone; inference: after detach() "
        "/ untouched",
    )
    for column in ("batch", "method"):
        table.add_column(column, no_wrap=True)
    for column in (
        *("step, ms", "/ full", "/ LoRA", "redraws"),
        *(name for a in allocators for name in (f"{a.replace('_', ' ')}, MB", "/ full", "/ LoRA")),
        *("kept / full", "of masked", "inference"),
        *([f"largest in {setting['fit']:g} GB"] if setting["fit"] else []),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results["batches"]:
        for method in result["times"]:
            cells = table_cells(result, method, clock, setting["resample_every"], allocators)
            if setting["fit"]:
                cells.append(str(results["largest"][method]["batch"]))
            table.add_row(str(result["batch"]), method, *cells)
        for method in setting["methods"]:
            if method not in result["times"]:
                table.add_row(str(result["batch"]), method, "not warm in time")
        table.add_section()
    return table


def table_cells(
    result: dict[str, Any], method: str, clock: str, resample_every: int, allocators: list[str]
) -> list[str]:
    """The figures of one method; a dash where there is none."""
    times = result["times"]
    # a peak of 0 stands for one that was not measured
    memory = {m: r for m, r in result["memory"].items() if all(r["peak_bytes"].values())}
    bases = [base if base in times else None for base in ("full", "lora")]
    masked = method.startswith("gmixout")
    kept = {m: sum(memory[m]["gradient_and_optimizer_bytes"].values()) for m in memory}
    against_full = {"full", method} <= memory.keys()
    means = [mean(step[clock] for step in one_round) for one_round in times[method]]
    passes = result["inference"].get(method, [])
    # Where steps differ in depth, a redraw does not show.
    steady = masked and method != "gmixout_row_depth"
    redraws = redraw_share(times[method], resample_every) if steady else None
    return [
        f"{1000 * median(means):.1f}",
        *(spread(step_ratios(times, method, base, clock)) if base else "-" for base in bases),
        "-" if redraws is None else f"{redraws:.2%}",
        *(cell for each in allocators for cell in peak_cells(memory, method, bases, each)),
        f"{kept[method] / kept['full']:.2%}" if against_full else "-",
        f"{masked_share(memory, method):.2%}" if masked and against_full else "-",
        f"{median(p['detached'] / p['untouched'] for p in passes):.3f}" if passes else "-",
    ]


def peak_cells(
    memory: dict[str, Any], method: str, bases: list[str | None], allocator: str
) -> list[str]:
    """Peak memory in MB and over that of the methods to compare with; dashes if not measured."""
    peaks = {m: record["peak_bytes"][allocator] for m, record in memory.items()}
    if method not in peaks:
        return ["-"] * (1 + len(bases))
    ratios = [f"{peaks[method] / peaks[base]:.2f}" if base in peaks else "-" for base in bases]
    return [f"{peaks[method] / MB:.0f}", *ratios]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; its defaults are the setting of the published figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=Setting.model, help=f"timm model: {MODELS} (default: %(default)s)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--batch", type=int, nargs="+", default=BATCHES, help="sizes (default: 8 32)")
    size.add_argument(
        "--fit",
        type=float,
        metavar="GB",
        help="find the largest batch that each method trains in so much memory, with the model; "
        "time all at the smallest of these",
    )
    add("--repeats", type=int, default=3, help="rounds of ten steps or more (default: 3)")
    add("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="default: all")
    add("--density", type=float, default=Setting.density, help="share trained (default: 0.1)")
    add("--resample-every", type=int, default=Setting.resample_every, help="default: 10")
    add("--device", default=Setting.device, help="cpu or cuda (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default=Setting.precision, help="default: %(default)s")
    add("--compiler", choices=COMPILERS, default=Setting.compiler, help="default: %(default)s")
    add("--checkpointing", action="store_true", help="gradient checkpointing, a block at a time")
    add("--threads", type=int, default=Setting.threads, help="CPU threads (default: %(default)s)")
    add("--profile", action="store_true", help="where the steps spend their time, and no more")
    add("--times-only", action="store_true", help="neither memory nor inference")
    add(
        "--warm-up-seconds",
        type=float,
        metavar="S",
        help="leave out the methods that are not warmed up, or compiled, by then",
    )
    add("--clock", choices=CLOCKS, default="wall", help="of the table; cpu: processor time alone")
    add(
        "--out", type=Path, help="file for the raw values (default: step[-profile].json in results)"
    )
    args = parser.parse_args(argv)
    args.out = args.out or RESULTS / ("step-profile.json" if args.profile else "step.json")
    return args


def main(argv: list[str] | None = None) -> None:
    """Measures, prints the table, writes the raw values."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    chosen = {f.name: getattr(args, f.name) for f in fields(Setting) if f.name in args}
    setting = Setting(**chosen)
    results: dict[str, Any] = {
        "schema": 2,
        "setting": {**vars(args), **asdict(setting), "out": args.out.name},
        **describe_run(torch.device(args.device), args.threads),
        "batches": [],
    }
    if args.fit:
        results["largest"] = measure_fit(setting, args.methods, args.fit)
        args.batch = [min(each["batch"] for each in results["largest"].values())]
        if args.batch == [0]:
            raise SystemExit(f"--fit {args.fit:g}: not even one image fits; give more GB.")

    console = Console(width=max(Console().width, 200))

    def save(result: dict[str, Any]) -> None:
        results["batches"] = [b for b in results["batches"] if b["batch"] != result["batch"]]
        results["batches"].append(result)
        write_text(args.out, json.dumps(results) + "\n")

    for batch in args.batch:
        if args.profile:
            profiles = profile(setting, args.methods, batch)
            save({"batch": batch, "steps": setting.round_steps, "operations": profiles})
            console.print(make_profile_table(profiles, batch))
        else:
            measure(setting, args, batch, save)
    if not args.profile:
        console.print(make_table(results, args.clock))


if __name__ == "__main__":
    main()
