"""`gmixout finetune`: one run."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from gmixout.bench.folder import MODEL, RECORDS, run_folder, save_model
from gmixout.bench.job import Job, about_model, method_spec
from gmixout.bench.progress import RunBar, bars
from gmixout.bench.report import present
from gmixout.bench.threads import few_threads
from gmixout.data import load_benchmark
from gmixout.errors import ConfigError
from gmixout.evaluation.records import Record, RecordLog
from gmixout.evaluation.selection import id_validation
from gmixout.methods import Method, get_method
from gmixout.training import TrainingArguments
from gmixout.weightspace import fingerprint


def finetune(
    benchmark: str = "digits",
    method: Method | None = None,
    out: Path = Path("runs/finetune"),
    resume: bool = False,
    overwrite: bool = False,
    **training: Any,
) -> list[Record]:
    """Finetunes a foundation model with one method and evaluates it in and out of domain.

    Of a method that gives several models (wise_ft: one for each alpha) the one with the best
    in-domain validation accuracy is saved; all are recorded.

    Args:
        benchmark: Name of the benchmark, or `module:function` of your own that returns one.
        method: The finetuning method, by default gmixout, or `module:Class` of your own; its
            options follow as `--method.NAME VALUE`.
        out: Folder for config.yaml, records.jsonl, model.safetensors and report.html.
        resume: Go on with the run in the folder, from its last checkpoint.
        overwrite: Delete the run in the folder first.
        **training: Fields of `TrainingArguments`.

    Raises:
        GmixoutError: A setting, the folder or the data is wrong, or the loss is not finite.
    """
    # None, not gmixout itself: the parser would give its options to whatever method is chosen
    method = method or get_method("gmixout")
    if method.pools:
        raise ConfigError(
            f"method {method.name} makes one model of several runs, and finetune trains one: use "
            f"`gmixout compare --methods {method.name}`, or `gmixout soup` on runs that you have"
        )
    arguments = TrainingArguments(**training)
    loaded = load_benchmark(benchmark)
    config = {"benchmark": benchmark, "method": method_spec(method), **asdict(arguments)}
    job = Job(loaded, method.trained, arguments)
    job.check()
    with run_folder(out, config, resume, overwrite, arguments.conduct()):
        log = RecordLog(out / RECORDS)
        if job.is_finished(out, log):
            Console(stderr=True).print(f"The run in {out} is finished; nothing was trained.")
            return present(out)
        with bars() as progress, few_threads(loaded):
            bar = RunBar(progress, job.title, arguments.steps)
            finetuned, facts = job.obtain(out, log, bar.advance)
            chosen = id_validation.choose(job.record(method, finetuned, facts, log))
        pretrained = job.pretrained()
        for options, state in method.variants(pretrained, finetuned):
            if options == chosen.options:
                about = about_model(chosen) | {"pretrained": fingerprint(pretrained)}
                save_model(out / MODEL, state, about)
        job.finish(out)
        return present(out)
