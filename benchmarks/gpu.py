"""Everything that waits for a GPU, in one run: at most eight minutes on an H100.

    PYTHONPATH=src python benchmarks/gpu.py --out runs/gpu
    PYTHONPATH=src python benchmarks/gpu.py --parts tests bf16 --minutes 3
    PYTHONPATH=src python benchmarks/gpu.py --device cpu --quick   # a miniature of every part
    PYTHONPATH=src python benchmarks/gpu.py --list

Each part runs in processes of its own and has its own share of the time. A part that fails, lacks a
package or runs out of time does not stop the others, and the summary says so. After each part,
`gpu.json` in the folder has its raw values (what an unfinished part has measured, too), `gpu.txt`
its table and `gpu.log` what it printed. It needs no network, and gmixout need not be installed.
See README.md beside this file.
"""

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

from _parts import Job, Part, Raw, Skipped, run_parts, usable_context
from rich.table import Table

from gmixout.errors import GmixoutError
from gmixout.files import write_text

# What takes seconds to import is imported in the parts: their processes start with it loaded.
PRELOADED = ["step", "kernels", "finetune", "first_run", "torch._dynamo", "peft"]
ROOT = Path(__file__).resolve().parents[1]
MINUTES, CPU_MINUTES = 8.0, 30.0


class Recorder:
    """A pytest plugin that saves every outcome as it comes."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._found: Raw = {}

    def _add(self, report: Any, outcome: str, seconds: float = 0.0) -> None:
        long = report.longrepr
        reason = long[2] if isinstance(long, tuple) else str(long or "").strip()[-400:]
        case = {"outcome": outcome, "seconds": seconds, "reason": reason}
        self._found[report.nodeid] = case
        self._job.save({"cases": self._found})

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test's setup, call or teardown is over."""
        if report.when == "call" or report.outcome != "passed":
            self._add(report, report.outcome, report.duration)

    def pytest_collectreport(self, report: Any) -> None:
        """A file was read, or cannot be: a package that it imports is missing, for example."""
        if report.outcome != "passed":
            self._add(
                report, "skipped" if "ModuleNotFoundError" in str(report.longrepr) else "failed"
            )


def run_tests(job: Job) -> None:
    """The tests marked `gpu`; on a CPU those of them that have a CPU part."""
    import pytest

    files = [p for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text()]
    chosen = ["-m", "gpu"]
    if job.device == "cpu":
        files, chosen = [ROOT / "tests" / "core" / "test_on_devices.py"], ["-k", "cpu"]
    elif find_spec("xdist") and not job.quick:
        chosen += ["-n", "4"]
    os.chdir(ROOT)
    words = [
        "-p",
        "no:benchmark",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "-q",
    ]
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins loaded before
    code = pytest.main([*chosen, *words, *map(str, files)], plugins=[Recorder(job)])
    if code not in (0, 1, 2):  # 1: tests failed, 2: files cannot be read; both are recorded
        raise RuntimeError(f"pytest ended with code {int(code)}")


def tests_table(raw: Raw) -> Iterable[Table]:
    """Counts, and each case that did not pass."""
    cases = raw["cases"]
    outcomes = [case["outcome"] for case in cases.values()]
    counts = ", ".join(f"{outcomes.count(o)} {o}" for o in ("passed", "failed", "skipped"))
    table = Table("test", "outcome", "s", "reason", title=f"tests on the device: {counts}")
    for name, case in cases.items():
        if case["outcome"] != "passed":
            seconds = f"{case['seconds']:.1f}"
            table.add_row(
                name, case["outcome"], seconds, case["reason"].strip().rpartition("\n")[2]
            )
    return [table]


def methods_here(*chosen: str, without: Sequence[str] = ()) -> list[str]:
    """The methods of `_trainers.py` that the packages here allow: all, or some in an order.

    A name that ends in _ stands for all that start so.
    """
    from _trainers import METHODS

    lacking = () if find_spec("peft") else ("lora", "shira")
    names = (
        name
        for word in chosen or ("_",)
        for name in METHODS
        if (name.startswith(word.rstrip("_")) if word.endswith("_") else name == word)
    )
    return [name for name in names if name not in (*lacking, *without)]


COMPILED = ("full", "gmixout_", "lora", "floor_held")
"""What is compiled, in this order: each takes a quarter of a minute or more."""
NOT_COMPILED = ("gmixout_element", "gmixout_block", "gmixout_row_depth")
QUICK = ("full", "floor_held", "gmixout_row")


def run_steps(job: Job, precision: str, compiler: str = "none") -> None:
    """Steps of every method that makes sense in a precision, eager or compiled."""
    import step

    slow = () if precision == "autocast" else ("dense_mixout", "shira", *NOT_COMPILED[:2])
    methods = methods_here(without=slow)
    words = f"--repeats 2 --warm-up-seconds {0.4 * job.seconds:.0f}"
    if compiler != "none":
        if compiler == "cudagraphs" and job.device == "cpu":
            raise Skipped("CUDA graphs need a CUDA device")
        methods = methods_here(*COMPILED, without=NOT_COMPILED)
        words = f"--repeats 2 --times-only --warm-up-seconds {0.7 * job.seconds:.0f}"
    if job.quick:
        methods = methods_here(*QUICK)
        compiler = compiler if compiler == "none" else "aot_eager"
    size = job.words(
        f"--model vit_base_patch16_224 --batch 128 {words}",
        "--model test_vit --batch 2 --repeats 1 --times-only",
    )
    how = ["--device", job.device, "--precision", precision, "--compiler", compiler]
    step.main([*size, *how, "--methods", *methods])


def steps_table(raw: Raw) -> Iterable[Table]:
    """`step.py`'s own."""
    import step

    return [step.make_table(raw, "wall")]


GROUPS = {
    "products of backward (mm)": r"aten::b?mm",
    "products of forward (addmm)": r"aten::addmm",
    "casts, copies": r"aten::copy_",
    "layer norm, backward": r"aten::native_layer_norm_backward",
    "attention both ways, joining q, k, v": r"aten::.*attention.*|aten::cat",
    "gradients of biases (sum)": r"aten::sum",
    "GELU, adds, norms forward": r"aten::(gelu.*|add_?|native_layer_norm)",
    "gathering chosen units": r"aten::(gather|index_select|index)",
    "AdamW": r".*adamw.*",
}
"""Groups of a step's operations by their names; all others are the last group."""


def run_profile(job: Job) -> None:
    """Where the time of `row` goes, beside full finetuning and the floors."""
    import step

    chosen = QUICK[::2] if job.quick else ("full", "floor", "floor_held", "gmixout_row")
    methods = methods_here(*chosen)
    size = job.words(
        "--model vit_base_patch16_224 --batch 128 --precision autocast",
        "--model test_vit --batch 2",
    )
    step.main([*size, "--device", job.device, "--profile", "--methods", *methods])


def profile_table(raw: Raw) -> Iterable[Table]:
    """Milliseconds a step of each group of operations."""
    (batch,) = raw["batches"]
    profiles = batch["operations"]
    table = Table(
        "ms a step", *profiles, title=f"{raw['setting']['model']}, {batch['batch']} images"
    )
    sums: dict[str, list[float]] = {
        group: [
            sum(cost["ms"] for name, cost in each.items() if re.fullmatch(pattern, name))
            for each in profiles.values()
        ]
        for group, pattern in GROUPS.items()
    }
    totals = [sum(cost["ms"] for cost in each.values()) for each in profiles.values()]
    known = [sum(column) for column in zip(*sums.values(), strict=True)]
    sums["everything else"] = [t - k for t, k in zip(totals, known, strict=True)]
    for group, row in {**sums, "all": totals}.items():
        table.add_row(group, *(f"{ms:.1f}" for ms in row))
    return [table]


def run_redraws(job: Job) -> None:
    """Operations and launches of a redraw, and its share of the time at ten steps a period."""
    import step
    import torch
    from _trainers import Setting

    model, batch = ("test_vit", 2) if job.quick else ("vit_base_patch16_224", 128)
    setting = Setting(model=model, device=job.device, precision="autocast")
    counted = replace(setting, resample_every=3)
    images, labels = setting.make_batch(setting.build(), batch)
    cpu = torch.autograd.DeviceType.CPU
    found: Raw = {}
    chosen = QUICK[-1:] if job.quick else ("gmixout_",)
    for method in methods_here(*chosen, without=["gmixout_row_depth"]):
        trainer = counted.start(method, counted.build())
        trainer.time(images, labels, range(4))
        counts: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for _ in range(6):
            with torch.profiler.profile() as profiled:
                (record,) = trainer.time(images, labels, range(1))
            events = profiled.key_averages()
            operations = sum(e.count for e in events if e.key.startswith("aten::"))
            launches = sum(e.count for e in events if e.device_type != cpu)
            counts[record["redraw"]].append((operations, launches))
        trainer = setting.start(method, setting.build())
        trainer.time(images, labels, range(setting.warm_up_steps))
        steps = trainer.time(images, labels, range(3 * setting.round_steps))
        more = [
            median(column) - median(usual)
            for column, usual in zip(
                *(zip(*counts[r], strict=True) for r in (True, False)), strict=True
            )
        ]
        weights = len(trainer.masked.summary().weights)  # type: ignore[union-attr]
        found[method] = {"weights": weights, "operations": more[0], "launches": more[1]}
        found[method]["share"] = step.redraw_share([steps], setting.resample_every)
        job.save({"model": model, "batch": batch, "redraws": found})


def redraws_table(raw: Raw) -> Iterable[Table]:
    """One row a method."""
    table = Table(
        *("method", "masked weights", "operations", "launches on the device", "share of the time"),
        title=f"a redraw, {raw['model']}, {raw['batch']} images, ten steps a period",
    )
    for method, each in raw["redraws"].items():
        counts = (f"{each[name]:g}" for name in ("weights", "operations", "launches"))
        table.add_row(method, *counts, f"{each['share']:.2%}")
    return [table]


def run_fit(job: Job) -> None:
    """The largest batch of ViT-L/14 that trains in 24 GB, by measured peaks."""
    import step
    from _trainers import Setting

    model, budget = ("test_vit", 0.02) if job.quick else ("vit_large_patch14_224", 24.0)
    without = [*NOT_COMPILED, "floor_held"]
    chosen = QUICK[-1:] if job.quick else COMPILED
    methods = methods_here(*chosen, without=without)
    found: dict[str, Raw] = {}
    for precision in ("autocast", "bfloat16")[: 1 if job.quick else 2]:
        setting = Setting(model=model, device=job.device, precision=precision)
        for method in methods:
            largest = step.measure_fit(setting, [method], budget)
            found.setdefault(precision, {}).update(largest)
            job.save({"model": model, "budget_gb": budget, "largest": found})


def fit_table(raw: Raw) -> Iterable[Table]:
    """One row a method, one column a precision."""
    precisions = raw["largest"]
    table = Table(
        "method", *precisions, title=f"largest batch in {raw['budget_gb']:g} GB, {raw['model']}"
    )
    for method in dict.fromkeys(m for each in precisions.values() for m in each):
        batches = (each[method]["batch"] if method in each else "-" for each in precisions.values())
        table.add_row(method, *map(str, batches))
    return [table]


def run_kernels(job: Job) -> None:
    """Each operation of a masked step beside the dense gradient."""
    import kernels

    large = "--layers vit_b.qkv vit_b.proj vit_b.fc1 vit_b.fc2 --dtype bfloat16 --batch 128"
    quick = "--layers vit_s.proj --batch 1 --peak-sides 256"
    timing = "--density 0.1 --repeats 3 --seconds 0.01"
    words = job.words(f"{large} {timing}", f"{quick} {timing}")
    kernels.main([*words, "--device", job.device])


def kernels_table(raw: Raw) -> Iterable[Table]:
    """`kernels.py`'s own."""
    import kernels

    return [kernels.make_table(raw)]


def run_finetune(job: Job) -> None:
    """The loop of `gmixout finetune` from JPEG files."""
    import finetune

    loaders = max(1, min(12, (os.cpu_count() or 1) - 2))
    words = job.words(
        f"--models vit_base_patch16_224 --batch 128 --steps 20 --images 768 --test 256 "
        f"--precision bf16 --repeats 1 --workers {loaders}",
        "--models test_vit --batch 2 --steps 2 --test 4 --repeats 1 --workers 0",
    )
    finetune.main(words)


def finetune_table(raw: Raw) -> Iterable[Table]:
    """`finetune.py`'s own, of the cases that have run."""
    import finetune

    return [finetune.make_table({**raw, "cases": [c for c in raw["cases"] if c["runs"]]})]


COMPARED = ("full", "lora", "mixout", "gmixout")
PROCESSES = 8
"""Runs at a time on one device: small models leave most of it idle."""


@dataclass(frozen=True)
class Trial:
    """One finetuning of a comparison, in whatever process."""

    case: Path
    method: str
    lr: float
    seed: int

    @property
    def out(self) -> Path:
        """The file for its result."""
        return self.case.with_name(f"{self.method}-{self.lr:g}-{self.seed}.json")

    def __call__(self, on_progress: Callable[[int, float], None]) -> None:
        """Trains, evaluates and writes the result."""
        import first_run
        import torch

        # our own file, of another process of this part; mapped, so that all share its pages
        case = torch.load(self.case, weights_only=False, mmap=True)
        row = first_run.run(case, self.method, self.lr, self.seed)
        write_text(self.out, json.dumps(row))


def run_compare(job: Job) -> None:
    """Methods, rates and seeds, as many runs as the time allows; a seed of all before the next."""
    from itertools import product

    import first_run
    import torch

    from gmixout.bench.workers import carry_out

    until = time.monotonic() + 0.85 * job.seconds
    given = argparse.Namespace(data=job.data, quick=job.quick)
    try:
        name, case = "lite0", first_run.lite0(given)
    except (first_run.Skipped, GmixoutError):
        name, case = "digits", first_run.digits(given)
    file = job.raw.with_name("case.pt")
    torch.save(case, file)
    raw: Raw = {"case": name, "steps": case.steps, "processes": PROCESSES, "runs": []}
    raw["start"] = first_run.scores(case.pretrained.model, case)
    methods = [m for m in COMPARED if m != "lora" or find_spec("peft")]
    grid = product(range(8), first_run.RATES, methods)
    if job.quick:
        grid, raw["processes"] = product(range(1), first_run.RATES[-1:], methods[-2:]), 2
    trials = [Trial(file, method, lr, seed) for seed, lr, method in grid]
    started = time.monotonic()
    threads = max(1, (os.cpu_count() or 1) // raw["processes"])
    done = carry_out(trials, raw["processes"], threads, lambda *_: None)
    for number, error in done:
        if error is not None:
            raise error
        raw["runs"].append(json.loads(trials[number].out.read_text()))
        raw["seconds"] = time.monotonic() - started
        job.save(raw)
        if time.monotonic() > until:
            done.close()
            break


def compare_table(raw: Raw) -> Iterable[Table]:
    """Means over seeds, one row a method, one column a rate."""
    runs = raw["runs"]
    rate = 60 * len(runs) / raw["seconds"]
    start = raw["start"]
    table = Table(
        title=f"{raw['case']}, {raw['steps']} steps: in domain (validation) / shifts, means over "
        f"seeds; start {start['validation']:.1f} / {fmean(start['shifts'].values()):.1f}; "
        f"{len(runs)} runs, {rate:.0f} a minute with {raw['processes']} processes"
    )
    rates = sorted({run["lr"] for run in runs})
    for column in ("method", *(f"lr {lr:g}" for lr in rates)):
        table.add_column(column)
    for method in dict.fromkeys(run["method"] for run in runs):
        cells = []
        for lr in rates:
            own = [r for r in runs if (r["method"], r["lr"]) == (method, lr)]
            seen = fmean(r["validation"] for r in own) if own else 0
            shifted = fmean(fmean(r["shifts"].values()) for r in own) if own else 0
            cells.append(f"{seen:.1f} / {shifted:.1f} (n={len(own)})" if own else "-")
        table.add_row(method, *cells)
    return [table]


def step_part(what: str, seconds: float, precision: str, compiler: str = "none") -> Part:
    """Steps of all methods in one way."""
    return Part(
        what, seconds, partial(run_steps, precision=precision, compiler=compiler), steps_table
    )


PARTS = {
    "tests": Part("the tests that are marked gpu", 60, run_tests, tests_table),
    "autocast": step_part("a step, autocast", 60, "autocast"),
    "bf16": step_part("a step, pure bf16", 40, "bfloat16"),
    "profile": Part("where the time of a step goes", 15, run_profile, profile_table),
    "redraws": Part("what a redraw launches and takes", 15, run_redraws, redraws_table),
    "fit": Part("the largest batch in 24 GB", 25, run_fit, fit_table),
    "autocast-compiled": step_part("a compiled step, autocast", 75, "autocast", "inductor"),
    "bf16-compiled": step_part("a compiled step, pure bf16", 60, "bfloat16", "inductor"),
    "cuda-graphs": step_part("a step as CUDA graphs, pure bf16", 25, "bfloat16", "cudagraphs"),
    "kernels": Part("each operation of a masked step", 15, run_kernels, kernels_table),
    "finetune": Part("`gmixout finetune` from JPEG files", 25, run_finetune, finetune_table),
    "compare": Part("a small comparison", 40, run_compare, compare_table),
}
"""In the order of their worth, with shares that leave half a minute to start in."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    add("--list", action="store_true", help="name the parts, and run none")
    add("--minutes", type=float, help="of all together (default: 8, on a CPU 30)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    add("--quick", action="store_true", help="a miniature of every part, to see it run")
    add("--data", type=Path, help="folder of PACS's domains, for the comparison on real weights")
    add("--out", type=Path, default=Path("runs/gpu"), help="folder (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.minutes is None:
        args.minutes = MINUTES if args.device == "cuda" else CPU_MINUTES
    if args.device == "cpu" and not args.quick:
        parser.error("--device cpu is for --quick: on a CPU the parts would take hours")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts; returns 0 if all were done or skipped, 130 after Ctrl-C, else 1."""
    args = parse(argv)
    if args.list:
        for name, part in PARTS.items():
            print(f"{name:20} {part.seconds:3.0f} s of {60 * MINUTES:.0f}: {part.what}")
        return 0
    here = [str(ROOT / "src"), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, here))
    # else asking for a device would start CUDA, which no forked process could use any more
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu.log").unlink(missing_ok=True)
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        log = args.out / "gpu.log"
        context, machine = usable_context(args.device, Path(folder), log, PRELOADED)
        args.minutes -= (time.monotonic() - started) / 60
        parts = {name: PARTS[name] for name in PARTS if name in args.parts}
        states = run_parts(parts, args, context, Path(folder), machine)
    if "interrupted" in states.values():
        return 130
    return 0 if all(state.startswith(("done", "skipped")) for state in states.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
