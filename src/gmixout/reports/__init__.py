"""Records become tables, a figure and a page. Nothing here trains, evaluates or decides."""

import os
from pathlib import Path

from gmixout.errors import StateError
from gmixout.evaluation.records import RecordLog


def write_report(folder: str | os.PathLike[str]) -> list[Path]:
    """Write `report.html` and `id_ood.png` of a run folder, or write them anew.

    Args:
        folder: Holds `config.yaml` and `records.jsonl`, as `gmixout compare` and
            `gmixout finetune` leave them.

    Returns:
        The files written.

    Raises:
        StateError: If the folder, one of the two files or every record is missing, or a record is
            broken. Nothing is written then.
    """
    # matplotlib and plotly are loaded for a report, not for a table in the terminal
    from gmixout.reports.figure import save_id_ood_figure
    from gmixout.reports.page import save_page

    folder = Path(folder)
    for path in (folder, folder / "config.yaml", folder / "records.jsonl"):
        if not path.exists():
            raise StateError(_not_a_run(folder, f"{path} does not exist"))
    records = RecordLog(folder / "records.jsonl").read()
    if not records:
        raise StateError(_not_a_run(folder, "its records.jsonl holds no record yet"))
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    return [
        save_id_ood_figure(records, folder / "id_ood.png"),
        save_page(records, config, folder / "report.html"),
    ]


def _not_a_run(folder: Path, reason: str) -> str:
    return (
        f"no report on {folder}: {reason}. "
        f"`gmixout compare --out {folder}` runs the methods and leaves their records there."
    )
