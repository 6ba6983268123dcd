"""`gmixout data check`: check that the files of a data set are present, intact and no copies."""

from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from gmixout.bench.checks import require_one_class
from gmixout.bench.progress import FilesBar, bars
from gmixout.bench.threads import few_threads
from gmixout.data import Source
from gmixout.data.findings import Findings, Found, examine
from gmixout.data.source import Problems
from gmixout.errors import ConfigError
from gmixout.evaluation.label_noise import suspects_in
from gmixout.files import write_text
from gmixout.models import load_pretrained
from gmixout.plain import printable


def check(
    source: Source,
    decode: bool | None = None,
    out: Path | None = None,
    model: str | None = None,
    image_size: int | None = None,
) -> None:
    """Check a data set: layout, counts, and in every image whether it is intact, odd or a copy.

    Copies are equal files; near-copies look alike (`pip install 'gmixout[photos]'`). Those that are
    in the training set and in another one make all results on it look better than they are.

    Args:
        source: `gmixout data check DIR`, a folder or table of your own, or the name of a data set,
            `gmixout data check NAME --root DIR`; its other options follow as `--OPTION VALUE`.
        decode: Open every image; by default only those of your own data.
        out: Write a page with the findings as pictures to this file, for example check.html.
        model: Also look for wrong labels among training, validation and test images, with a linear
            probe on the features of this pretrained model: timm:NAME, efficientnet_lite0, ...
        image_size: Height and width of the images that the model gets, in pixels; by default its
            own. Smaller images take less time.

    Raises:
        DataError: Something is missing or broken; the message lists it and where to get it.
    """
    console = Console(highlight=False, markup=False)
    decode = source.own if decode is None else decode
    if not decode:
        if out is not None:
            raise ConfigError("--out is a page of the images: leave out --no-decode")
        if model is not None:
            raise ConfigError("--model looks at the images: leave out --no-decode")
        for line in source.check().lines:
            console.print(printable(line), soft_wrap=True)
        return
    if image_size is not None and model is None:
        raise ConfigError(f"image_size={image_size} is for the images of --model: give one")
    findings = _examined(source)
    if model is not None:
        findings = replace(findings, suspects=_suspects(findings, model, image_size))
    for line in (*findings.inventory.lines, *(f"  {line}" for line in findings.lines)):
        console.print(printable(line), soft_wrap=True)
    if out is not None:
        from gmixout.reports.findings import findings_page

        console.print(f"Written to {write_text(out, findings_page(findings))}", soft_wrap=True)
    if source.on_broken == "raise":
        problems = Problems()
        for each in findings.broken:
            problems.add(f"{source.root / each.name} cannot be read as an image ({each.said})")
        problems.settle(source)


def _suspects(findings: Findings, model: str, image_size: int | None) -> tuple[Found, ...]:
    """Return the images whose label a probe of the others denies, the surest first."""
    benchmark = findings.benchmark
    require_one_class(benchmark.task, "--model, which looks for wrong labels,")
    device = PartialState().device
    pretrained = load_pretrained(model, benchmark.classes, head="random", image_size=image_size)
    sets = {name: getattr(benchmark, name) for name in ("train", "id_val", "id_test")}
    broken: dict[str, list[int]] = {}
    for each in findings.broken:
        broken.setdefault(each.part, []).append(each.index)
    images = sum(map(len, sets.values()))
    with FilesBar("features", images) as bar, few_threads(pretrained.model):
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            bar.advance(count - done)
            done = count

        found = suspects_in(pretrained, sets, broken, device, advance)
    return tuple(
        findings.found(
            each.part,
            each.index,
            f"rather {benchmark.classes[each.suggested]}, {100 * each.share:.0f}% to "
            f"{100 * each.own_share:.0f}%",
        )
        for each in found
    )


def _examined(source: Source) -> Findings:
    progress = bars()
    task = progress.add_task("images", total=None)

    def tell(done: int, total: int) -> None:
        progress.start()  # not before there is something to show: an error stands alone
        progress.update(task, completed=done, total=total)

    try:
        return examine(source, tell)
    finally:
        if progress.live.is_started:
            progress.stop()
