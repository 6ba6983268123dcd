"""`gmixout report`: tables, pictures and the page once more, from records alone."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console

from gmixout.errors import ConfigError
from gmixout.methods import REFERENCE
from gmixout.plain import printable
from gmixout.reports import merged, write_report
from gmixout.reports.table import print_tables
from gmixout.results import Record, RunFolder, Study, studies
from gmixout.results.study import series_named


def report(folders: list[Path], out: Path | None = None, reference: str = REFERENCE) -> None:
    """Makes the tables, the pictures and the page of one or several run folders.

    Args:
        folders: `gmixout report FOLDER [FOLDER ...]`: folders that finetune, compare, sweep,
            interpolate or soup wrote. Benchmarks of one metric stand side by side, and methods
            are compared on the average.
        out: Folder for the files; by default the run folder, which must be a single one then.
        reference: The method that the others are compared with at matched in-domain accuracy; of
            a method run in several variants, one: "gmixout(mask_rate=0.8)".

    Raises:
        ConfigError: The reference was not run, or in several variants, or several folders and no
            `out` are given.
        StateError: A folder holds no records, or the benchmarks have different metrics.
    """
    if out is None and len(folders) != 1:
        raise ConfigError(
            f"report on {len(folders)} folders: give at least one, and with several an --out"
        )
    every = studies(merged(RunFolder(each).log.read() for each in folders))
    if reference != REFERENCE:
        _check_reference(reference, every)
    written = write_report(folders, out=out, reference=reference)
    console = Console()
    print_tables(every, console, reference)
    for folder, files in groupby(written, key=lambda file: file.parent):
        text = f"Written to {folder}: {', '.join(file.name for file in files)}"
        console.print(printable(text), soft_wrap=True, highlight=False, markup=False)


def _check_reference(reference: str, every: Sequence[Study]) -> None:
    """Refuse a name that stands for nothing, or for several, in one of the benchmarks."""
    for study in every:
        there = study.by_series
        if series_named(reference, there) is None:
            names = [f"{method}({variant})" if variant else method for method, variant in there]
            raise ConfigError(
                f"reference={reference!r} names no method, or more than one, of those run on "
                f"{study.benchmark}: {'; '.join(sorted(names))}"
            )


def present(folder: Path) -> list[Record]:
    """What every job ends with: the report on its folder. Returns the folder's records."""
    report([folder])
    return RunFolder(folder).log.read()
