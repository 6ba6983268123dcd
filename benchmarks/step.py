"""Measure a training step: time and peak memory of GMixout beside the usual ways to finetune.

    python benchmarks/step.py

times full finetuning, a linear probe, LoRA, Mixout with dense masks and GMixout in each structure
in one process, step by step in turn, and takes each method's peak memory in a process of its own.
A step is forward, backward, optimizer step and zero_grad. See README.md beside this file.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import torch.nn.functional as F
from _methods import METHODS, RESAMPLE_EVERY, build, make_batch, synchronize
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from gmixout.training import PeakMemory

MB = 1e6
ALLOCATORS = {
    "in_use": {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**16)},
    "resident": {"MALLOC_ARENA_MAX": "1"},
}
"""Environments of the processes that measure memory: glibc gives freed tensors back to the system
at once, so that the peak is memory in use; or keeps what it likes, as it does by default."""
WARM_UP_MODEL = "test_vit"
INFERENCE_PASSES = 20
RESULTS = Path("benchmarks/results/step.json")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Time as it passes; this process's processor time, steadier on a shared machine (CPU alone)."""


def measure_times(args: argparse.Namespace, batch: int) -> dict[str, list[list[dict[str, Any]]]]:
    """Steps of every method in turn; by method: its rounds of `RESAMPLE_EVERY` steps.

    The turn's order moves on by one method a turn, so that none always follows the same one.
    """
    console = Console(stderr=True)
    images, labels = make_batch(build(args.model, args.device), batch, args.device)
    trainers = {}
    for method in track(args.methods, f"batch {batch}: warm-up", console=console):
        trainers[method] = METHODS[method](build(args.model, args.device), args.density)
        trainers[method].step(images, labels)
    times: dict[str, list[list[dict[str, Any]]]] = {m: [] for m in args.methods}
    with Progress(console=console) as progress:
        task = progress.add_task(f"batch {batch}: steps", total=args.repeats * RESAMPLE_EVERY)
        for _ in range(args.repeats):
            for rounds in times.values():
                rounds.append([])
            for turn in range(RESAMPLE_EVERY):
                for i in range(len(args.methods)):
                    method = args.methods[(turn + i) % len(args.methods)]
                    times[method][-1].append(trainers[method].step(images, labels))
                progress.advance(task)
    return times


@torch.no_grad()
def measure_inference(args: argparse.Namespace, method: str, batch: int) -> list[dict[str, float]]:
    """Forward passes of an untouched model and of one after `detach()`, in turn, in seconds."""
    plain, used = build(args.model, args.device), build(args.model, args.device)
    images, labels = make_batch(plain, batch, args.device)
    trainer = METHODS[method](used, args.density)
    with torch.enable_grad():
        trainer.step(images, labels)
    assert trainer.masked is not None
    used = trainer.masked.detach()
    if list(used.state_dict()) != list(plain.state_dict()):
        raise RuntimeError(f"{method}: detach() left other state-dict keys behind.")
    if [type(m) for m in used.modules()] != [type(m) for m in plain.modules()]:
        raise RuntimeError(f"{method}: detach() left other module classes behind.")
    models = {"untouched": plain.eval(), "detached": used.eval()}
    seconds = []
    for turn in range(1 + INFERENCE_PASSES):
        took = {}
        for name in sorted(models, reverse=turn % 2 == 0):
            synchronize(args.device)
            started = CLOCKS[args.clock]()
            models[name](images)
            synchronize(args.device)
            took[name] = CLOCKS[args.clock]() - started
        seconds.append(took)
    return seconds[1:]


def measure_memory(args: argparse.Namespace, method: str, batch: int) -> dict[str, Any]:
    """Peak memory above the loaded model, and the exact size of what is kept for training.

    A step of the same method on a tiny model comes first: what imports and first uses load is no
    cost of training. The steps measured hold a redraw.
    """
    model = build(args.model, args.device)
    images, labels = make_batch(model, batch, args.device)
    tiny = build(WARM_UP_MODEL, args.device)
    METHODS[method](tiny, args.density).step(*make_batch(tiny, 2, args.device))
    del tiny
    with PeakMemory(args.device) as memory:
        trainer = METHODS[method](model, args.density)
        for _ in range(RESAMPLE_EVERY + 1):
            trainer.step(images, labels)
        peak_bytes = memory.read()
    F.cross_entropy(trainer.model(images), labels).backward()
    kept = {
        name: sum(t.nbytes for t in (p.grad, *trainer.optimizer.state[p].values()))
        for name, p in trainer.model.named_parameters()
        if p.requires_grad
    }
    record: dict[str, Any] = {"peak_bytes": peak_bytes, "gradient_and_optimizer_bytes": kept}
    if trainer.masked is not None:
        summary = trainer.masked.summary()
        record["masked"] = {
            "density": summary.density,
            "bytes": summary.bytes,
            "weights": [weight.name for weight in summary.weights],
        }
    return record


def measure_memory_apart(args: argparse.Namespace, method: str, batch: int) -> dict[str, Any]:
    """`measure_memory` in a process of its own, and its peak by each of `ALLOCATORS`."""
    command = [sys.executable, __file__, "--measure", method, "--model", args.model]
    command += ["--batch", str(batch), "--density", str(args.density)]
    command += ["--device", str(args.device), "--threads", str(args.threads)]
    record: dict[str, Any] = {}
    peaks = {}
    for allocator, environment in ALLOCATORS.items():
        done = subprocess.run(
            command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
        )
        record = json.loads(done.stdout)
        peaks[allocator] = record["peak_bytes"]
    return record | {"peak_bytes": peaks}


def measure(args: argparse.Namespace, batch: int) -> dict[str, Any]:
    """All raw values of one batch size."""
    masked = [m for m in args.methods if m.startswith("gmixout")]
    console = Console(stderr=True)
    return {
        "batch": batch,
        "times": measure_times(args, batch),
        "memory": {
            m: measure_memory_apart(args, m, batch)
            for m in track(args.methods, f"batch {batch}: memory", console=console)
        },
        "inference": {
            m: measure_inference(args, m, batch)
            for m in track(masked, f"batch {batch}: inference", console=console)
        },
    }


def step_ratios(times: dict[str, Any], method: str, base: str, clock: str) -> list[float]:
    """Mean step of a method in each round over that of `base` in the same round."""
    return [
        mean(step[clock] for step in ours) / mean(step[clock] for step in theirs)
        for ours, theirs in zip(times[method], times[base], strict=True)
    ]


def redraw_share(rounds: list[list[dict[str, Any]]]) -> float:
    """Share of the training time that redraws take, from the optimizer's part of the steps.

    A redraw makes its own step longer, and the next one, in which the optimizer makes its state
    anew.
    """
    steps = [step for one_round in rounds for step in one_round]
    after = [later for step, later in itertools.pairwise(steps) if step["redraw"]]
    plain = [step for step in steps if not step["redraw"] and step not in after]
    usual = median(step["update"] for step in plain)
    redraw = median(step["update"] for step in steps if step["redraw"]) - usual
    renewal = median(step["update"] for step in after) - usual if after else 0.0
    every = RESAMPLE_EVERY * median(step["wall"] for step in plain)
    return (redraw + renewal) / (every + redraw + renewal)


def masked_share(memory: dict[str, Any], method: str) -> float:
    """Gradient and optimizer bytes of the masked weights over full finetuning's for the same."""
    ours, full = memory[method]["masked"], memory["full"]["gradient_and_optimizer_bytes"]
    kept = ours["bytes"]["gradient"] + ours["bytes"]["optimizer"]
    return kept / sum(full[name] for name in ours["weights"])


def spread(values: list[float]) -> str:
    """The median, with the range where there is one."""
    low, high = min(values), max(values)
    return f"{median(values):.2f}" + (f" [dim]{low:.2f}-{high:.2f}[/dim]" if low < high else "")


def make_table(results: dict[str, Any], clock: str) -> Table:
    """One row a method and batch size."""
    setting = results["setting"]
    table = Table(
        title=f"{setting['model']}, density {setting['density']}, {setting['device']}, "
        f"{setting['threads']} thread(s): medians, ratios within rounds, [dim]range[/dim]",
        caption=f"step: mean of {RESAMPLE_EVERY} steps ({clock} time), one redraw included; peak "
        "memory above the loaded model, with an allocator that keeps nothing and by default;\n"
        "kept: bytes of gradient and optimizer state, of all that is trained and of the masked "
        "weights alone; inference: after detach() / untouched",
    )
    for column in ("batch", "method"):
        table.add_column(column, no_wrap=True)
    for column in (
        *("step, s", "/ full", "/ LoRA", "redraws"),
        *("in use, MB", "/ full", "/ LoRA"),
        *("resident, MB", "/ full", "/ LoRA"),
        *("kept / full", "of masked", "inference"),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results["batches"]:
        for method in result["times"]:
            table.add_row(str(result["batch"]), method, *table_cells(result, method, clock))
        table.add_section()
    return table


def table_cells(result: dict[str, Any], method: str, clock: str) -> list[str]:
    """The figures of one method; a dash where there is none."""
    times, memory = result["times"], result["memory"]
    bases = [base if base in times else None for base in ("full", "lora")]
    masked = method in result["inference"]
    kept = {m: sum(memory[m]["gradient_and_optimizer_bytes"].values()) for m in memory}
    means = [mean(step[clock] for step in one_round) for one_round in times[method]]
    passes = result["inference"].get(method, [])
    return [
        f"{median(means):.3f}",
        *(spread(step_ratios(times, method, base, clock)) if base else "-" for base in bases),
        f"{redraw_share(times[method]):.2%}" if masked else "-",
        *(
            cell
            for allocator in ALLOCATORS
            for cell in peak_cells(memory, method, bases, allocator)
        ),
        f"{kept[method] / kept['full']:.2%}" if "full" in kept else "-",
        f"{masked_share(memory, method):.2%}" if masked and "full" in kept else "-",
        f"{median(p['detached'] / p['untouched'] for p in passes):.3f}" if masked else "-",
    ]


def peak_cells(
    memory: dict[str, Any], method: str, bases: list[str | None], allocator: str
) -> list[str]:
    """Peak memory in MB and over that of the methods to compare with."""
    peaks = {m: record["peak_bytes"][allocator] for m, record in memory.items()}
    ratios = [f"{peaks[method] / peaks[base]:.2f}" if base else "-" for base in bases]
    return [f"{peaks[method] / MB:.0f}", *ratios]


def describe_machine(threads: int) -> dict[str, Any]:
    """What the figures depend on, without the machine's name."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = named[0] if named else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; its defaults are the setting of the published figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="vit_small_patch16_224", help="timm model (default: %(default)s)")
    add("--batch", type=int, nargs="+", default=[8, 32], help="sizes (default: 8 32)")
    add("--repeats", type=int, default=3, help=f"rounds of {RESAMPLE_EVERY} steps (default: 3)")
    add("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="default: all")
    add("--density", type=float, default=0.1, help="share trained (default: %(default)s)")
    add("--device", type=torch.device, default="cpu", help="default: %(default)s")
    add("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    add("--clock", choices=CLOCKS, default="wall", help="of the table; cpu: processor time alone")
    add("--out", type=Path, default=RESULTS, help="file for the raw values (default: %(default)s)")
    add("--measure", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints the table, writes the raw values."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(measure_memory(args, args.measure, args.batch[0])))
        return
    packages = ("torch", "timm", "peft", "gmixout")
    results: dict[str, Any] = {
        "schema": 1,
        "setting": {k: str(v) if k == "device" else v for k, v in vars(args).items() if k != "out"},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "machine": describe_machine(args.threads),
        "batches": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for batch in args.batch:
        results["batches"].append(measure(args, batch))
        args.out.write_text(json.dumps(results) + "\n")  # now: the next batch may take an hour
    Console(width=max(Console().width, 180)).print(make_table(results, args.clock))


if __name__ == "__main__":
    main()
