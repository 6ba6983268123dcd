"""Reports: tables, figures and a page from records. Nothing here trains, evaluates or decides."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from gmixout.errors import StateError
from gmixout.files import write_text
from gmixout.methods import REFERENCE
from gmixout.plain import printable
from gmixout.reports.rows import rows_of
from gmixout.reports.sweeps import sweeps_of
from gmixout.reports.texts import across_as_markdown, as_csv, as_latex, as_markdown
from gmixout.results import Record, RunFolder, Study, studies
from gmixout.results.model_file import find_record, model_metadata
from gmixout.results.other_classes import read_other_classes
from gmixout.results.predictions import load_predictions


def write_report(
    folders: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    reference: str = REFERENCE,
    running: str | None = None,
) -> list[Path]:
    """Write or rewrite the report on one or several run folders.

    Records of several benchmarks never share a table: each benchmark gets a report in its own
    folder inside `out`, and `report.md` compares the methods over all of them.

    Args:
        folders: Each holds `records.jsonl` and, as a rule, `config.yaml`, as `gmixout compare` and
            `gmixout finetune` leave them. Records of several folders are taken together; a record
            that several of them hold counts once.
        out: Folder of the report; by default the single run folder.
        reference: The method to compare with (on the page: initially), or one of the variants of a
            method, see `study.series_named`.
        running: Progress of a comparison that is still running ("12 of 60 runs"). Then only the
            page is written: it shows the progress and reloads itself. Nothing is written before
            the first model is finished.

    Returns:
        The files written: `RunFolder.run_page` of a single run, and those of `RunFolder.report`.

    Raises:
        StateError: If a folder, its records.jsonl or every record is missing, a record is broken,
            the folders are of several benchmarks with several official metrics, or it is not said
            where a report on several folders goes. Then nothing is written.
    """
    paths = [Path(folders)] if isinstance(folders, str | os.PathLike) else list(map(Path, folders))
    if not paths or (out is None and len(paths) > 1):
        raise StateError(
            f"a report on {len(paths)} folders: give at least one, and for several also `out`, the "
            "folder of the report"
        )
    to = RunFolder(paths[0] if out is None else Path(out))
    held = {path: RunFolder(path).log.read() for path in paths}
    if running is None:
        for path, records in held.items():
            _check_finished(RunFolder(path), records)
    every = studies(merged(held.values()))
    if len(every) < 2:
        of_run = _write_run_page(paths, to) if running is None else []
        made = [f for study in every for f in _write_one(study, paths, to, reference, running)]
        return [*of_run, *made]
    places = [RunFolder(to.path / _folder_name(study.benchmark)) for study in every]
    pages = {
        study.benchmark: str(place.page.relative_to(to.path))
        for study, place in zip(every, places, strict=True)
    }
    written = [write_text(to.markdown, across_as_markdown(every, reference, pages))]
    for study, place in zip(every, places, strict=True):
        own = [p for p in paths if any(r.benchmark.name == study.benchmark for r in held[p])]
        written += _write_one(study, own, place, reference)
    return written


def merged(held: Iterable[Sequence[Record]]) -> list[Record]:
    """Return the records of several folders, each once."""
    return list({record.to_json(): record for records in held for record in records}.values())


def _write_run_page(folders: Sequence[Path], out: RunFolder) -> list[Path]:
    """Write the page of a single run, if its folder has its predictions."""
    own = RunFolder(folders[0])
    if len(folders) > 1 or (found := load_predictions(own.predictions)) is None:
        return []
    about = model_metadata(own.model)
    record = None if about is None else find_record(own.path, about)
    if about is None or record is None or about["digest"] != found.model:
        raise StateError(
            f"{own.predictions} is of another model: delete it, `gmixout evaluate {own.path}` "
            "writes that of this one"
        )
    from gmixout.reports.run_page import run_page

    other = read_other_classes(own.other_classes, found.model)
    html = run_page(record, found, _config_of(own.config), other, out.page.name)
    return [write_text(out.run_page, html)]


def _write_one(
    study: Study,
    folders: Sequence[Path],
    out: RunFolder,
    reference: str,
    running: str | None = None,
) -> list[Path]:
    """Write the report on one benchmark and return its files."""
    # matplotlib and plotly are loaded for a report, not for a table in the terminal
    from gmixout.reports.figure import cost_figure, id_ood_figure, save_figure, sweep_figure
    from gmixout.reports.page import page

    configs = {str(path): _config_of(RunFolder(path).config) for path in folders}
    html = write_text(out.page, page(study, configs, reference, running))
    if running is not None:
        return [html]
    pictures = {"id_ood": id_ood_figure, "cost": cost_figure}
    if sweeps_of(rows_of(study)):
        pictures["sweep"] = sweep_figure
    return [
        html,
        write_text(out.csv, as_csv(study, reference)),
        write_text(out.markdown, as_markdown(study, reference)),
        write_text(out.latex, as_latex(study, reference)),
        *(
            save_figure(partial(draw, study), out.picture(name, kind))
            for name, draw in pictures.items()
            for kind in ("png", "svg")
        ),
    ]


def _check_finished(folder: RunFolder, records: Sequence[Record]) -> None:
    """Refuse a folder without a finished model, and name what it lacks."""
    if any(record.final for record in records):
        return
    log = folder.log.path
    missing = [path for path in (folder.path, log) if not path.exists()]
    reason = f"its {log.name} holds no finished model yet"
    reason = f"{missing[0]} does not exist" if missing else reason
    raise StateError(
        f"no report on {folder.path}: {reason}. "
        f"`gmixout compare --out {folder.path}` runs the methods and leaves their records there."
    )


_LONGEST_NAME = 150
"""Most bytes of a folder's name; file systems allow 255."""


def _folder_name(benchmark: str) -> str:
    """Return a safe folder name that no other benchmark has."""
    name = quote(benchmark, safe=" ()=,").replace(".", "%2E") or "%"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]} {hashlib.sha256(benchmark.encode()).hexdigest()[:12]}"
    return name


_LONGEST_CONFIG = 2**20
"""Most bytes of a config on a page."""


def _config_of(path: Path) -> str:
    if not path.is_file():
        return f"(this folder has no {path.name}; the records hold what was run)"
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_CONFIG + 1)
        text = content.decode("utf-8") if len(content) <= _LONGEST_CONFIG else None
    except (OSError, UnicodeDecodeError):
        text = None
    if text is None:
        return f"({path.name} of this folder cannot be read; the records hold what was run)"
    text = printable(text, keep="\n\r\t")
    # pages are shared: show only the last part of absolute paths
    return re.sub(r"(?<![\w./~])(~?/)(?:[^/\s'\"]+/)+(?=[^/\s'\"])", "", text)
