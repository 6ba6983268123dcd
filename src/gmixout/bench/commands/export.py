"""`gmixout export`: a finished model for another library."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gmixout.bench.commands.calibrate import validation_of
from gmixout.bench.options import Word
from gmixout.bench.progress import say
from gmixout.errors import ConfigError, DataError, GmixoutError
from gmixout.plain import counted
from gmixout.use.classifier import Classifier, read_picture
from gmixout.use.export import EXPORTS, check_place, export_model
from gmixout.use.hub import check_repository, files_of, push_folder
from gmixout.use.inputs import inputs_of
from gmixout.use.loaded import load

EXAMPLES = 8
"""Images that an export is checked on."""


def export(
    model: Path,
    to: Literal["timm", "open_clip", "hf", "onnx", "torch_export", "delta"],
    out: Path | None = None,
    pretrained: str | None = None,
    images: list[Word] | None = None,
    data_root: Path | None = None,
    push_to_hub: str | None = None,
    public: bool = False,
    dry_run: bool = False,
) -> Path:
    """Export a finetuned model for another library, with a model card.

    What is written is loaded again and compared with the model on real images before it gets its
    name.

    Args:
        model: `gmixout export RUN --to timm --out DIR`: folder of a run, or a model.safetensors.
        to: timm, open_clip and hf: the folder that this library loads, for models of it; onnx and
            torch_export: a file for any number of images; delta: the values that finetuning
            changed, for those who have the pretrained model.
        out: A folder or file that does not exist yet; .onnx for onnx, .pt2 for torch_export,
            .safetensors for delta. By default RUN-FORM beside the run.
        pretrained: Where the pretrained model is now, FAMILY:NAME@FILE, for delta and for the text
            tower of a CLIP; by default where it was.
        images: Images to check the export on; by default validation images of the run.
        data_root: Current folder of the run's data, if it has moved.
        push_to_hub: Upload the folder with its card to this repository of the Hugging Face hub,
            OWNER/NAME, by the login of `hf auth login` or HF_TOKEN; for timm, hf and open_clip.
        public: Let everybody see a new repository; by default only its owner does.
        dry_run: Leave the folder here, list what would be uploaded, and upload nothing.

    Returns:
        Where it is.

    Raises:
        GmixoutError: The model cannot take this form, something is missing, or the export computes
            something else.
    """
    if push_to_hub is None:
        given = [f"--{name}" for name, on in (("public", public), ("dry-run", dry_run)) if on]
        if given:
            raise ConfigError(f"{' and '.join(given)} goes with --push-to-hub OWNER/NAME")
    else:
        check_repository(push_to_hub)
        if EXPORTS[to].suffix:
            raise ConfigError(f"push_to_hub goes with timm, hf and open_clip, not --to {to}")
    if out is None:
        base = model.absolute() if model.is_dir() else model.with_suffix("")
        out = base.with_name(f"{base.name}-{to}{EXPORTS[to].suffix}")
    check_place(to, out)
    classifier = load(model, pretrained=pretrained)
    examples = _examples(classifier, images, data_root)
    export_model(classifier, to, out, examples, pretrained)
    card = out / "README.md" if out.is_dir() else out.with_suffix(".md")
    say(f"Written to {out}, equal to the model on {len(examples)} images. Model card: {card}")
    if push_to_hub is not None:
        _push(out, push_to_hub, public, dry_run)
    return out


def _push(folder: Path, name: str, public: bool, dry_run: bool) -> None:
    """Upload a folder, or list what would be uploaded."""
    files = files_of(folder)
    for file, size in files:
        say(f"  {file}  {size:,} bytes")
    total = f"{counted(len(files), 'file')}, {sum(size for _, size in files):,} bytes"
    kind = "public" if public else "private"
    if dry_run:
        say(f"Nothing was uploaded. Without --dry-run: {total} to {name}, {kind} if it is new.")
        return
    say(f"Uploading {total} to {name} ({kind} if it is new) ...")
    say(f"Uploaded to {push_folder(folder, name, public)}")


def _examples(classifier: Classifier, images: list[Word] | None, data_root: Path | None) -> Tensor:
    """Return some preprocessed images."""
    if images is not None:
        files = inputs_of(images).files[:EXAMPLES]
        pictures = [read_picture(Path(file)) for file in files]
        return torch.stack([classifier.transform(picture) for picture in pictures])
    assert classifier.origin is not None
    try:
        own = validation_of(classifier, classifier.origin.about, data_root)
    except GmixoutError as error:
        if data_root is not None:
            raise
        raise DataError(
            f"images to check the export on are missing ({error}): give some, --images photos/"
        ) from error
    # from all of it, as data sets are often sorted by class
    step = max(1, len(own) // EXAMPLES)
    return torch.stack([own[index][0] for index in range(0, len(own), step)][:EXAMPLES])
