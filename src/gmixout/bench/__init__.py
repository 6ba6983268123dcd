"""The jobs behind the commands: plain typed functions over run folders."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from gmixout import weightspace
from gmixout.bench.folder import MODEL, RECORDS, load_model, open_folder, save_model
from gmixout.bench.job import (
    UNTRAINED,
    Job,
    about_model,
    hash_of,
    load_weights,
    make_record,
    method_spec,
    versions,
)
from gmixout.data import Benchmark, load_benchmark
from gmixout.errors import ConfigError, StateError
from gmixout.evaluation import metrics
from gmixout.evaluation.records import Record, RecordLog
from gmixout.evaluation.summary import select_by_id_validation
from gmixout.methods import Method, get_method
from gmixout.reports import write_report
from gmixout.reports.table import print_tables
from gmixout.training import TrainingArguments

State = Mapping[str, Tensor]

COMPARED = ("zero_shot", "full", "wise_ft", "random_mask", "mixout", "gmixout")
SMALL_MODEL = 1_000_000
"""Parameters below which a model trains and evaluates on one CPU thread."""
EXTRAS = {
    "vision": ("timm", "torchvision", "open_clip_torch", "scikit-learn"),
    "train": ("accelerate", "torchmetrics", "jsonargparse"),
    "report": ("matplotlib", "plotly", "jinja2"),
    "lora": ("peft",),
}


def finetune(
    benchmark: str = "digits",
    method: Method = get_method("gmixout"),  # noqa: B008 - frozen
    out: Path = Path("runs/finetune"),
    resume: bool = False,
    overwrite: bool = False,
    **training: Any,
) -> list[Record]:
    """Finetunes a foundation model with one method and evaluates it in and out of domain.

    Of a method that gives several models (wise_ft: one for each alpha) the one with the best
    in-domain validation accuracy is saved; all are recorded.

    Args:
        benchmark: Name of the benchmark.
        method: The finetuning method; its options follow as `--method.NAME VALUE`.
        out: Folder for config.yaml, records.jsonl, model.safetensors and report.html.
        resume: Go on with the run in the folder, from its last checkpoint.
        overwrite: Delete the run in the folder first.
        **training: Fields of `TrainingArguments`.

    Raises:
        GmixoutError: A setting, the folder or the data is wrong, or the loss is not finite.
    """
    arguments = TrainingArguments(**training)
    loaded = load_benchmark(benchmark)
    config = {"benchmark": benchmark, "method": method_spec(method), **asdict(arguments)}
    job = Job(loaded, method.trained, arguments)
    job.check()
    open_folder(out, config, resume, overwrite, arguments.conduct())
    log = RecordLog(out / RECORDS)
    if job.is_finished(out, log):
        Console(stderr=True).print(f"The run in {out} is finished; nothing was trained.")
        return _present(out)
    with _bars() as bars, _few_threads(loaded):
        finetuned, facts = job.obtain(out, log, _task(bars, job))
        chosen = select_by_id_validation(job.record(method, finetuned, facts, log))
    for options, state in method.variants(job.pretrained(), finetuned):
        if options == chosen.options:
            save_model(out / MODEL, state, about_model(chosen))
    job.finish(out)
    return _present(out)


def compare(
    benchmark: str = "digits",
    methods: list[Method] | None = None,
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3),
    seeds: tuple[int, ...] = (0,),
    out: Path = Path("runs/compare-digits"),
    resume: bool = False,
    overwrite: bool = False,
    **training: Any,
) -> list[Record]:
    """Compares finetuning methods under one protocol, each over several learning rates.

    A training run is recognised by what it is: methods that build on the same run (wise_ft on full
    finetuning) share it, and a resumed comparison trains only what is missing. So methods, learning
    rates and seeds can be added to a folder with `--resume`.

    Args:
        benchmark: Name of the benchmark.
        methods: The methods, `[full,gmixout]` say; by default zero_shot, full, wise_ft,
            random_mask, mixout and gmixout.
        lrs: Learning rates each method is run with: a method is a curve over them, not a point.
        seeds: Each method is run with each of them.
        out: Folder for config.yaml, records.jsonl, report.html, id_ood.png and a folder a run.
        resume: Go on with the comparison in the folder.
        overwrite: Delete the comparison in the folder first.
        **training: Fields of `TrainingArguments`.

    Raises:
        GmixoutError: A setting, the folder or the data is wrong, or a loss is not finite.
    """
    if not lrs or not seeds or methods == []:
        raise ConfigError("compare: methods, lrs and seeds each need at least one entry")
    methods = [get_method(name) for name in COMPARED] if methods is None else methods
    grid = [
        TrainingArguments(lr=lr, seed=seed, **training)
        for seed in dict.fromkeys(seeds)
        for lr in dict.fromkeys(lrs)
    ]
    loaded = load_benchmark(benchmark)
    config = {
        "benchmark": benchmark,
        "methods": [method_spec(method) for method in methods],
        "lrs": list(lrs),
        "seeds": list(seeds),
        **{k: v for k, v in asdict(grid[0]).items() if k not in ("lr", "seed")},
    }
    jobs: dict[str, tuple[Job, list[Method]]] = {}
    for arguments in grid:
        for method in methods:
            job = Job(loaded, method.trained, arguments)
            jobs.setdefault(job.run, (job, []))[1].append(method)
    for job, _ in jobs.values():
        job.check()
    may_change = ("methods", "lrs", "seeds", *grid[0].conduct())
    open_folder(out, config, resume, overwrite, may_change)
    log = RecordLog(out / RECORDS)
    with _bars() as bars, _few_threads(loaded):
        total = bars.add_task("all runs", total=len(jobs))
        for job, sharing in jobs.values():
            folder = out / "runs" / job.run
            finetuned, facts = job.obtain(folder, log, _task(bars, job))
            for method in sharing:
                job.record(method, finetuned, facts, log)
            job.finish(folder)
            bars.advance(total)
    return _present(out)


def evaluate(model: Path) -> dict[str, float]:
    """Evaluates a saved model again and says whether the recorded figures come out.

    Args:
        model: Folder of a run, or a model.safetensors.

    Raises:
        StateError: There is no model, or it is not of its benchmark.
    """
    state, about = load_model(model)
    benchmark = load_benchmark(about["benchmark"])
    with _few_threads(benchmark):
        accuracy = metrics.evaluate(load_weights(benchmark, state), benchmark)
    console = Console()
    console.print(f"{about['method']} {about['options']} on {about['benchmark']}", soft_wrap=True)
    for name, value in accuracy.items():
        console.print(f"  {name:<14}{value!r}", highlight=False)
    recorded = _find_record(model, about)
    if recorded is None:
        console.print("No record of this model was found beside it.")
    elif recorded.accuracy == accuracy:
        console.print("Equal to the recorded figures, to the last digit.")
    else:
        console.print(f"Not equal to the recorded figures: {recorded.accuracy}", soft_wrap=True)
    return accuracy


def interpolate(
    a: Path,
    b: Path,
    alpha: float = 0.5,
    out: Path = Path("runs/interpolate"),
    overwrite: bool = False,
) -> list[Record]:
    """Interpolates between the weights of two runs and evaluates the result.

    Args:
        a: Folder of the run at alpha 0.
        b: Folder of the run at alpha 1.
        alpha: Share of b, from 0 to 1.
        out: Folder for the result.
        overwrite: Delete the run in the folder first.

    Raises:
        GmixoutError: A folder holds no model, the models differ in kind, or alpha is out of range.
    """
    (state_a, state_b), benchmark = _load_models([a, b])
    state = weightspace.interpolate(state_a, state_b, alpha)
    options = {"alpha": alpha, "a": str(a), "b": str(b)}
    return _write_derived(out, benchmark, "interpolate", options, state, overwrite)


def soup(
    models: list[Path],
    kind: Literal["greedy", "uniform"] = "greedy",
    out: Path = Path("runs/soup"),
    overwrite: bool = False,
) -> list[Record]:
    """Averages the weights of several runs and evaluates the result.

    Args:
        models: Folders of the runs, `[runs/a,runs/b]` say.
        kind: All of them, or greedily those that do not lower in-domain validation accuracy.
        out: Folder for the result.
        overwrite: Delete the run in the folder first.

    Raises:
        GmixoutError: A folder holds no model, or the models differ in kind.
    """
    states, benchmark = _load_models(models)

    def score(state: weightspace.State) -> float:
        return metrics.accuracy(load_weights(benchmark, state), benchmark.id_val)

    with _few_threads(benchmark):
        mix = partial(weightspace.greedy_soup, score=score)
        state = mix(states) if kind == "greedy" else weightspace.uniform_soup(states)
    options = {"kind": kind, "models": [str(model) for model in models]}
    return _write_derived(out, benchmark, "soup", options, state, overwrite)


def report(folder: Path, reference: str = "full") -> None:
    """Makes the tables and the page of a run folder again from its records.

    Args:
        folder: A folder that finetune, compare, interpolate or soup wrote.
        reference: The method that the table of OOD at matched ID compares the others with.

    Raises:
        ConfigError: The folder holds no records of the reference.
        StateError: The folder holds no records.
    """
    methods = sorted({record.method for record in RecordLog(folder / RECORDS).read()})
    if reference != "full" and methods and reference not in methods:
        raise ConfigError(
            f"reference={reference!r} was not run in {folder}; there is {', '.join(methods)}"
        )
    _present(folder, reference)


def doctor() -> None:
    """Says what is installed and which devices there are."""
    console = Console()
    for name, value in versions().items():
        console.print(f"{name:<20}{value}", highlight=False)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    console.print(f"{'device':<20}{PartialState().device.type}, GPUs: {', '.join(gpus) or 'none'}")
    console.print(f"{'CPU threads':<20}{torch.get_num_threads()}", highlight=False)
    for extra, packages in EXTRAS.items():
        for package in packages:
            found = _version(package) or f"missing: pip install 'gmixout[{extra}]'"
            console.print(f"{package:<20}{found}", highlight=False, markup=False)


def _load_models(paths: Sequence[Path]) -> tuple[list[State], Benchmark]:
    loaded = [load_model(path) for path in paths]
    names = sorted({about["benchmark"] for _, about in loaded})
    if len(names) != 1:
        raise StateError(
            f"the models are of {len(names)} benchmarks ({', '.join(names) or 'no model given'}); "
            "give models of one"
        )
    return [state for state, _ in loaded], load_benchmark(names[0])


def _write_derived(
    out: Path,
    benchmark: Benchmark,
    method: str,
    options: dict[str, Any],
    state: State,
    overwrite: bool,
) -> list[Record]:
    run = hash_of({"benchmark": benchmark.name, "method": method, **options})
    with _few_threads(benchmark):
        record = make_record(benchmark, run, method, options, state, UNTRAINED)
    open_folder(out, options, resume=False, overwrite=overwrite)
    save_model(out / MODEL, state, about_model(record))
    RecordLog(out / RECORDS).append(record)
    return _present(out)


def _present(folder: Path, reference: str = "full") -> list[Record]:
    """Writes the page and prints the tables of a run folder."""
    written = write_report(folder)
    records = RecordLog(folder / RECORDS).read()
    console = Console()
    print_tables(records, console, reference)
    console.print("Written:", *written, soft_wrap=True, highlight=False)
    return records


def _find_record(model: Path, about: dict[str, Any]) -> Record | None:
    """The latest record of a model file, from its own folder or that of its comparison."""
    folder = model if model.is_dir() else model.parent
    for place in (folder, folder.parent.parent):
        for record in reversed(RecordLog(place / RECORDS).read()):
            if about_model(record) == about:
                return record
    return None


@contextmanager
def _few_threads(benchmark: Benchmark) -> Iterator[None]:
    """Gives a model too small to gain from several CPU threads a single one meanwhile.

    The digits model is as fast on one thread as on two; and where another process wants a core,
    threads that wait for each other made it 7 to 40 times slower.
    """
    before = torch.get_num_threads()
    parameters = sum(parameter.numel() for parameter in benchmark.foundation().parameters())
    torch.set_num_threads(1 if parameters < SMALL_MODEL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _task(bars: Progress, job: Job) -> Callable[[int, float], None]:
    """Adds a bar for a run; returns what moves it."""
    task = bars.add_task(job.title, total=job.arguments.steps)

    def advance(step: int, loss: float) -> None:
        bars.update(task, completed=step, description=f"{job.title} loss={loss:.3f}")

    return advance


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
