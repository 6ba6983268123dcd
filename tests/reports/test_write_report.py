import subprocess
import sys

import pytest

from gmixout.errors import StateError
from gmixout.evaluation.records import RecordLog
from gmixout.reports import write_report


def test_a_report_is_written_and_written_anew(run_folder, records):
    written = write_report(run_folder)
    assert {path.name for path in written} == {"report.html", "id_ood.png"}
    before = {path.name: path.read_bytes() for path in run_folder.iterdir()}
    assert set(before) == {"config.yaml", "records.jsonl", "report.html", "id_ood.png"}
    RecordLog(run_folder / "records.jsonl").append(records[-1])
    write_report(run_folder)
    after = {path.name: path.read_bytes() for path in run_folder.iterdir()}
    assert set(after) == set(before)
    assert {name for name in before if before[name] != after[name]} == {
        "records.jsonl",
        "report.html",
        "id_ood.png",
    }


def test_the_same_records_make_the_same_report(run_folder):
    first = {path.name: path.read_bytes() for path in write_report(run_folder)}
    assert {path.name: path.read_bytes() for path in write_report(run_folder)} == first


@pytest.mark.parametrize("missing", ["config.yaml", "records.jsonl"])
def test_a_missing_file_is_named_with_the_way_out(run_folder, missing):
    (run_folder / missing).unlink()
    with pytest.raises(StateError, match=f"{missing} does not exist.*gmixout compare --out"):
        write_report(run_folder)
    assert not (run_folder / "report.html").exists()


def test_no_folder_and_no_records(tmp_path):
    with pytest.raises(StateError, match="nowhere does not exist"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "records.jsonl").write_text('{"schema": 1, "ti')
    with pytest.raises(StateError, match="holds no record yet"):
        write_report(tmp_path)


def test_a_broken_record_leaves_the_old_report_alone(run_folder):
    write_report(run_folder)
    old = (run_folder / "report.html").read_bytes()
    with open(run_folder / "records.jsonl", "a") as file:
        file.write("{}\n")
    with pytest.raises(StateError, match="line 22"):
        write_report(run_folder)
    assert (run_folder / "report.html").read_bytes() == old


def test_tables_need_neither_matplotlib_nor_plotly():
    program = (
        "import sys, gmixout.reports.table\n"
        "print([name for name in ('matplotlib', 'plotly', 'torchmetrics') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
