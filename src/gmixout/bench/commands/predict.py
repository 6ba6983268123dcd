"""`gmixout predict`: predictions of a finetuned model for images."""

import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

from gmixout.bench.options import Word
from gmixout.bench.progress import FilesBar, say
from gmixout.bench.threads import few_threads
from gmixout.errors import ConfigError
from gmixout.use.calibration import threshold_of
from gmixout.use.inputs import inputs_of
from gmixout.use.loaded import load
from gmixout.use.outputs import Output, PredictionForm, Text, check_output, open_output
from gmixout.use.predictions import FilePrediction, check_ood_score, predictions


def predict(
    model: Path,
    files: list[Word] | None = None,
    out: Path | None = None,
    top_k: int = 5,
    threshold: float | None = None,
    ood_score: Literal["max_softmax", "max_logit", "energy"] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
) -> Counter[str]:
    """Predict the classes of images with a finetuned model, or their numbers.

    Nothing is downloaded: the run's folder holds all that is needed. A file that cannot be read is
    a row with its error, and the exit code is 0. Ctrl-C keeps the rows that are done.

    Args:
        model: `gmixout predict RUN FILES`: folder of a run, or a model.safetensors.
        files: Images; folders, with all images in them; @LIST, a file with one of these a line; or
            -, such a list on standard input.
        out: File for the predictions: .csv, .jsonl or .parquet. Without it they are printed.
        top_k: Number of classes for each image.
        threshold: Abstain where the best class has a lower probability than this; of several labels
            an image, the probability from which a class is predicted, by default 0.5.
        ood_score: Add a score that is higher for images of known classes, and whether the image is
            `unknown`: below what 95% of the validation images reach. energy is log sum exp of the
            logits.
        batch_size: Images at once; by default at most 128.
        device: cpu, cuda, cuda:1, mps; by default a GPU if there is one.
        num_workers: Processes that decode images; by default none on a CPU, else one per CPU
            thread, at most eight.
        overwrite: Replace the file.

    Returns:
        Number of files by status: ok, abstain, error.

    Raises:
        GmixoutError: The model, a list or a setting is wrong, or the output cannot be written.
    """
    if out is not None:
        check_output(out, overwrite)
    inputs = inputs_of(files or ())
    classifier = load(model, _device(device))
    assert classifier.origin is not None
    for note in (*classifier.origin.notes, *inputs.notes):
        say(note)
    top_k = min(top_k, len(classifier.classes))
    check_ood_score(ood_score, classifier.task)
    least = 0.0
    if ood_score is not None:
        least = threshold_of(classifier.origin.path, classifier.origin.about, ood_score)
    batches = predictions(
        classifier, inputs.files, top_k, threshold, batch_size, num_workers, ood_score, least
    )
    counts: Counter[str] = Counter()
    first: FilePrediction | None = None
    strange = 0
    with ExitStack() as stack:
        stack.enter_context(few_threads(classifier))
        output: Output
        if out is None:
            output, bar = Text(sys.stdout, inputs.files, sys.stdout.isatty(), top_k), None
        else:
            form = PredictionForm(top_k, classifier.task, classifier.classes, ood_score is not None)
            output = open_output(out, form, overwrite)
            bar = stack.enter_context(FilesBar("predicting", len(inputs.files)))
        stack.enter_context(closing(output))
        for rows in batches:
            output.write(rows)
            counts.update(row.status for row in rows)
            strange += sum(row.unknown is True for row in rows)
            first = first or next((row for row in rows if row.error), None)
            if bar is not None:
                bar.advance(len(rows))
            if not output.is_wanted:
                break
    _conclude(counts, first, out, strange)
    return counts


def _device(name: str | None) -> torch.device:
    """Return the device of a name, or the one that a run would use.

    Raises:
        ConfigError: There is none of that name.
    """
    if name is None:
        return torch.device(PartialState().device)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0][:200]
        raise ConfigError(f"device={name!r:.80} is not here ({first}): cpu always is") from error
    return device


def _conclude(
    counts: Counter[str], first: FilePrediction | None, out: Path | None, strange: int
) -> None:
    """Say on stderr what became of the files, where the rows do not."""
    said = []
    if out is not None:
        said.append(f"{counts.total():,} files to {out}")
    if counts["abstain"]:
        said.append(f"{counts['abstain']:,} below the threshold")
    if strange:
        said.append(f"{strange:,} of unknown classes, by their score")
    if first is not None:
        said.append(f"{counts['error']:,} could not be read, the first {first.file}: {first.error}")
    if said:
        say("; ".join(said))
