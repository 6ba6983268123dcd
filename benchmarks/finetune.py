"""Where the time of `gmixout finetune` goes: forward and backward, the optimizer, and the rest.

    python benchmarks/finetune.py
    python benchmarks/finetune.py --batch 128 --steps 100 --workers 0 4 12 --precision bf16

trains timm models (random weights) through the loop that `gmixout finetune` has, on JPEG files made
on the spot, and evaluates them. Images are decoded when used, as of a set too large for memory.
It trains on a GPU if there is one, as gmixout does. See README.md beside this file.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from _timing import Stopwatch, describe_run, in_turn, spread
from accelerate import PartialState
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from gmixout.bench.task import LoadedTask, Task
from gmixout.data import SOURCES
from gmixout.data.images import ImageSet
from gmixout.evaluation.metrics import evaluate_sets
from gmixout.files import write_text
from gmixout.methods import get_method
from gmixout.training import TrainingArguments, train

RESULTS = Path("benchmarks/results/finetune.json")
MODELS = ["vit_small_patch16_224", "vit_base_patch16_224"]
METHODS = ["full", "gmixout"]
CLASSES = 2
PICTURE = (500, 375)
"""Width and height, ImageNet's most frequent."""


class Phases:
    """Notes when forward, update and the rest of each step begin, of any training loop.

    In training `model` lasts from the model's forward to the optimizer's step (forward, loss,
    backward), `update` is the optimizer's step, `rest` what comes until the next forward. In
    evaluation `model` is the forward alone. On CUDA times are the device's, see `Stopwatch`: `rest`
    is then when it copies images or waits for work.

    Args:
        device: Where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._watch = Stopwatch(device)
        self._begun: list[str] = []
        self._depth = 0

    def __enter__(self) -> "Phases":
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
            register_optimizer_step_pre_hook(lambda *_: self._begin("update")),
            register_optimizer_step_post_hook(lambda *_: self._begin("rest")),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        self._begin("end")
        for hook in self._hooks:
            hook.remove()

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        if self._depth == 0:
            if next(module.parameters(), None) is None:
                return  # an image's transform
            self._begin("model")
        self._depth += 1

    def _leave_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._depth:
            self._depth -= 1
            if self._depth == 0 and not torch.is_grad_enabled():
                self._begin("rest")

    def _begin(self, phase: str) -> None:
        self._watch.mark()
        self._begun.append(phase)

    def read(self) -> dict[str, list[float]]:
        """The seconds of each phase, of one batch after another; the last `rest` is no batch's."""
        found: dict[str, list[float]] = {}
        for phase, seconds in zip(self._begun, self._watch.read(), strict=False):
            found.setdefault(phase, []).append(seconds)
        return {
            phase: seconds[:-1] if phase == "rest" else seconds for phase, seconds in found.items()
        }


def make_images(root: Path, train: int, test: int) -> None:
    """Writes JPEG files as large, and as dear to decode, as photographs: `imagefolder`'s layout."""
    width, height = PICTURE

    def make(file: Path, number: int) -> None:
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(PICTURE), dtype=np.int16)
        noisy = smooth + generator.integers(-12, 13, smooth.shape, dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=85)

    files = []
    for folder, count in {"train": train, "val": test, "shift_same": CLASSES}.items():
        for label in range(CLASSES):
            (root / folder / f"class{label}").mkdir(parents=True)
        files += [root / folder / f"class{n % CLASSES}" / f"{n}.jpg" for n in range(count)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(make, files, range(len(files))))


def load(root: Path, model: str) -> LoadedTask:
    """The images, and the model with random weights, as a task of gmixout's."""
    weights = root / f"{model}.safetensors"
    if not weights.exists():
        torch.manual_seed(0)
        save_file(timm.create_model(model).state_dict(), weights)
    images = SOURCES["imagefolder"](root=root)
    return Task(images, model=f"timm:{model}@{weights}", head="random").load()


def from_disk(images: Any) -> ImageSet:
    """The images, of which nothing stays in memory."""
    return images.transformed(images.transform)


def measure(
    task: LoadedTask, method: str, workers: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Trains and evaluates; the seconds of every phase, and of everything together."""
    arguments = TrainingArguments(num_workers=workers, head_lr=None, **settings)
    device = PartialState().device
    start = partial(get_method(method).start, seed=0)
    pretrained = task.pretrained.copy()
    images, test = from_disk(task.benchmark.train), from_disk(task.benchmark.id_test)
    trained = timed(device, lambda: train(pretrained, start, images, arguments))
    model = pretrained.model.to(device)
    sets = {"test": test}
    return {
        "train": trained,
        "evaluate": timed(device, lambda: evaluate_sets(model, sets, num_workers=workers)),
    }


def timed(device: torch.device, work: Callable[[], Any]) -> dict[str, Any]:
    """The seconds of each phase of each batch, and of the whole call."""
    started = time.perf_counter()
    with Phases(device) as phases:
        work()
    return {**phases.read(), "whole": time.perf_counter() - started}


def shares(times: dict[str, Any]) -> dict[str, float]:
    """Share of the batches' time in each phase; `start and end` is of the whole call's."""
    sums = {phase: sum(seconds) for phase, seconds in times.items() if phase != "whole"}
    total = sum(sums.values())
    return {phase: each / total for phase, each in sums.items()} | {
        "start and end": 1 - total / times["whole"]
    }


def make_table(results: dict[str, Any]) -> Table:
    """One row a model, method and number of loading processes."""
    machine, setting = results["machine"], results["setting"]
    table = Table(
        title=f"batch {setting['batch_size']}, {setting['steps']} steps, "
        f"{machine['gpu'] or machine['processor']}, {machine['threads']} thread(s): shares of the "
        "training time, medians, [dim]range[/dim]",
        caption="model: forward, loss, backward; rest: loading, copying, schedule, logging; start "
        "and end: before the first and after the last step, of the whole call",
    )
    for column in ("model", "method", "loaders"):
        table.add_column(column, no_wrap=True)
    for column in ("images/s", "model", "update", "rest", "start and end", "evaluation: rest"):
        table.add_column(column, justify="right", no_wrap=True)
    for case in results["cases"]:
        times = [run["train"] for run in case["runs"]]
        found = [shares(each) for each in times]
        evaluation = [shares(run["evaluate"])["rest"] for run in case["runs"]]
        images = setting["batch_size"] * setting["steps"]
        rates = [images / sum(sum(each[p]) for p in ("model", "update", "rest")) for each in times]
        table.add_row(
            *(case["model"], case["method"], str(case["workers"])),
            f"{median(rates):.1f}",
            *(percent([each[p] for each in found]) for p in ("model", "update", "rest")),
            percent([each["start and end"] for each in found]),
            percent(evaluation),
        )
    return table


def percent(values: list[float]) -> str:
    """The median in per cent, with the range where there is one."""
    return spread([100 * value for value in values])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; its defaults are the setting of the published figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=MODELS, help="timm models (default: %(default)s)")
    add("--methods", nargs="+", default=METHODS, help="default: %(default)s")
    add("--workers", type=int, nargs="+", default=[0, 1], help="loading processes (default: 0 1)")
    add("--batch", type=int, default=8, help="images a step (default: %(default)s)")
    add("--steps", type=int, default=10, help="steps a run (default: %(default)s)")
    add("--images", type=int, help="files to train on (default: one for each image of a run)")
    add("--test", type=int, default=60, help="images to evaluate on (default: %(default)s)")
    add("--precision", choices=("no", "bf16"), default="no", help="default: %(default)s")
    add("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    add("--repeats", type=int, default=3, help="runs of each, in turn (default: %(default)s)")
    add("--out", type=Path, default=RESULTS, help="file for the raw values (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints the table, writes the raw values."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    settings = {
        "steps": args.steps, "batch_size": args.batch, "mixed_precision": args.precision,
        "flip": True,
    }  # fmt: skip
    cases = [
        {"model": model, "method": method, "workers": workers, "runs": []}
        for model in args.models
        for method in args.methods
        for workers in args.workers
    ]
    results = {
        "setting": {**vars(args), **settings, "out": args.out.name},
        **describe_run(PartialState().device, args.threads),
        "cases": cases,
    }
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), args.images or args.steps * args.batch, 2 * args.test)
        once = {**settings, "steps": 1}  # what libraries load on first use is no part of a run
        measure(load(Path(folder), args.models[0]), args.methods[0], 0, once)
        turns = in_turn(range(len(cases)), args.repeats)
        console = Console(stderr=True)
        for place in track(turns, "runs", total=args.repeats * len(cases), console=console):
            case = cases[place]
            task = load(Path(folder), case["model"])
            case["runs"].append(measure(task, case["method"], case["workers"], settings))
            write_text(args.out, json.dumps(results) + "\n")  # now: Ctrl-C keeps what is measured
    Console(width=max(Console().width, 160)).print(make_table(results))


if __name__ == "__main__":
    main()
