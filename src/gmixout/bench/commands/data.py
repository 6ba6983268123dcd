"""`gmixout data check`: check that the files of a data set are present, intact and no copies."""

from pathlib import Path

from rich.console import Console

from gmixout.bench.progress import bars
from gmixout.data import Source
from gmixout.data.findings import Findings, examine
from gmixout.data.source import Problems
from gmixout.errors import ConfigError
from gmixout.files import write_text
from gmixout.plain import printable


def check(source: Source, decode: bool | None = None, out: Path | None = None) -> None:
    """Check a data set: layout, counts, and in every image whether it is intact, odd or a copy.

    Copies are equal files; near-copies look alike (`pip install 'gmixout[photos]'`). Those that are
    in the training set and in another one make all results on it look better than they are.

    Args:
        source: `gmixout data check DIR`, a folder or table of your own, or the name of a data set,
            `gmixout data check NAME --root DIR`; its other options follow as `--OPTION VALUE`.
        decode: Open every image; by default only those of your own data.
        out: Write a page with the findings as pictures to this file, for example check.html.

    Raises:
        DataError: Something is missing or broken; the message lists it and where to get it.
    """
    console = Console(highlight=False, markup=False)
    decode = source.own if decode is None else decode
    if not decode:
        if out is not None:
            raise ConfigError("--out is a page of the images: leave out --no-decode")
        for line in source.check().lines:
            console.print(printable(line), soft_wrap=True)
        return
    findings = _examined(source)
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
