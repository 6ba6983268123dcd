"""Records become tables, figures and a page. Nothing here trains, evaluates or decides."""

import hashlib
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from gmixout.errors import StateError
from gmixout.evaluation.across import by_benchmark
from gmixout.evaluation.records import Record, RecordLog
from gmixout.files import write_text
from gmixout.plain import printable
from gmixout.reports.rows import rows_of
from gmixout.reports.sweeps import sweeps_of
from gmixout.reports.texts import across_as_markdown, as_csv, as_latex, as_markdown

REPORT_FILES = (
    "report.html", "report.csv", "report.md", "report.tex",
    "id_ood.png", "id_ood.svg", "cost.png", "cost.svg", "sweep.png", "sweep.svg",
)  # fmt: skip
"""What `write_report` leaves in a folder; the last two where a method's options were varied."""


def write_report(
    folders: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    reference: str = "full",
    running: str | None = None,
) -> list[Path]:
    """Write the report on one or several run folders, or write it anew.

    Records of several benchmarks never share a table: each benchmark gets a report in a folder of
    its own inside `out`, and `report.md` says how the methods stand over all of them.

    Args:
        folders: Each holds `records.jsonl` and, as a rule, `config.yaml`, as `gmixout compare` and
            `gmixout finetune` leave them. Records of several folders are taken together; a record
            that several of them hold counts once.
        out: Where the report goes; by default into the one folder.
        reference: What the others are compared with (on the page: at first): a method, or of one
            run in several variants one of these, see `curves.series_named`.
        running: How far a comparison is that is still running ("12 of 60 runs"). Then the page
            alone is written: it says so and loads itself anew now and then. Before the first
            model is finished nothing is.

    Returns:
        The files written: `REPORT_FILES`.

    Raises:
        StateError: If a folder, its records.jsonl or every record is missing, a record is broken,
            the folders are of several benchmarks with several official metrics, or it is not said
            where a report on several folders goes. Nothing is written then.
    """
    paths = [Path(folders)] if isinstance(folders, str | os.PathLike) else list(map(Path, folders))
    if not paths or (out is None and len(paths) > 1):
        raise StateError(
            f"a report on {len(paths)} folders: give at least one, and for several `out`, the "
            "folder that the report goes to"
        )
    out = paths[0] if out is None else Path(out)
    records = _merged(paths, unfinished=running is not None)
    if not any(record.final for record in records):
        return []
    groups = by_benchmark(records)
    if len(groups) == 1:
        return _write_one(records, paths, out, reference, running)
    places = {name: out / _folder_name(name) for name in groups}
    pages = {name: f"{place.name}/report.html" for name, place in places.items()}
    across = write_text(out / "report.md", across_as_markdown(records, reference, pages))
    every = (
        _write_one(own, [path for path in paths if _holds(path, name)], places[name], reference)
        for name, own in groups.items()
    )
    return [across, *(path for written in every for path in written)]


def _write_one(
    records: Sequence[Record],
    folders: Sequence[Path],
    out: Path,
    reference: str,
    running: str | None = None,
) -> list[Path]:
    """The report on one benchmark."""
    # matplotlib and plotly are loaded for a report, not for a table in the terminal
    from gmixout.reports.figure import cost_figure, id_ood_figure, save_figure, sweep_figure
    from gmixout.reports.page import save_page

    configs = {str(path): _config_of(path) for path in folders}
    html = save_page(records, configs, out / "report.html", reference, running)
    if running is not None:
        return [html]
    pictures = {"id_ood": id_ood_figure, "cost": cost_figure}
    if sweeps_of(rows_of(records)):
        pictures["sweep"] = sweep_figure
    return [
        html,
        write_text(out / "report.csv", as_csv(records, reference)),
        write_text(out / "report.md", as_markdown(records, reference)),
        write_text(out / "report.tex", as_latex(records, reference)),
        *(
            save_figure(partial(draw, records), out / f"{name}.{kind}")
            for name, draw in pictures.items()
            for kind in ("png", "svg")
        ),
    ]


def _merged(folders: Sequence[Path], unfinished: bool = True) -> list[Record]:
    """The records of all folders, each once.

    Raises:
        StateError: A folder has no finished model (though it may be `unfinished`), or no records.
    """
    merged: dict[str, Record] = {}
    for folder in folders:
        log = folder / "records.jsonl"
        records = RecordLog(log).read()
        if not unfinished and not any(record.final for record in records):
            missing = [path for path in (folder, log) if not path.exists()]
            reason = "its records.jsonl holds no finished model yet"
            reason = f"{missing[0]} does not exist" if missing else reason
            raise StateError(_not_a_run(folder, reason))
        merged |= {record.to_json(): record for record in records}
    return list(merged.values())


def _holds(folder: Path, benchmark: str) -> bool:
    """Whether a folder has records of a benchmark."""
    records = RecordLog(folder / "records.jsonl").read()
    return any(record.benchmark == benchmark for record in records)


_LONGEST_NAME = 150
"""Of a folder; file systems allow 255 bytes."""


def _folder_name(benchmark: str) -> str:
    """A folder's name that no other benchmark has, and that leads nowhere else."""
    name = quote(benchmark, safe=" ()=,").replace(".", "%2E") or "%"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]} {hashlib.sha256(benchmark.encode()).hexdigest()[:12]}"
    return name


_LONGEST_CONFIG = 2**20
"""Bytes of a config.yaml that a page shows."""


def _config_of(folder: Path) -> str:
    path = folder / "config.yaml"
    if not path.is_file():
        return "(this folder has no config.yaml; the records hold what was run)"
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_CONFIG + 1)
        text = content.decode("utf-8") if len(content) <= _LONGEST_CONFIG else None
    except (OSError, UnicodeDecodeError):
        text = None
    if text is None:
        return "(config.yaml of this folder cannot be read; the records hold what was run)"
    text = printable(text, keep="\n\r\t")
    # pages go to other people: of absolute paths, the last part
    return re.sub(r"(?<![\w./~])(~?/)(?:[^/\s'\"]+/)+(?=[^/\s'\"])", "", text)


def _not_a_run(folder: Path, reason: str) -> str:
    return (
        f"no report on {folder}: {reason}. "
        f"`gmixout compare --out {folder}` runs the methods and leaves their records there."
    )
