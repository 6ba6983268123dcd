import subprocess
import sys
from pathlib import Path

import pytest
from records import changed
from report_records import (
    CONFIG,
    SOURCES,
    data_of,
    make_sweep,
    on_macro_f1,
    on_sources,
    on_the_way,
    without_shifts,
    write_folder,
)

from gmixout.errors import StateError
from gmixout.reports import _config_of, _folder_name, write_report
from gmixout.reports.texts import as_csv
from gmixout.results import RecordLog, RunFolder, Study
from gmixout.results import study as study_module

REPORT_FILES = [path.name for path in RunFolder(Path()).report]
WITHOUT_SWEEP = [name for name in REPORT_FILES if not name.startswith("sweep.")]


@pytest.fixture
def _quick_pictures(monkeypatch):
    """Pictures take most of a report's time; what is in them has tests of its own."""

    def save(draw, path):
        path.write_text(draw.func.__name__)
        return path

    monkeypatch.setattr("gmixout.reports.figure.save_figure", save)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_report_is_written_and_written_anew(run_folder, records):
    written = write_report(run_folder)
    assert [path.name for path in written] == WITHOUT_SWEEP
    before = files_of(run_folder)
    assert set(before) == {"config.yaml", "records.jsonl", *WITHOUT_SWEEP}
    RecordLog(run_folder / "records.jsonl").append(records[-1])
    write_report(run_folder)
    after = files_of(run_folder)
    assert set(after) - {".records.jsonl.lock"} == set(before)
    assert {name for name in before if before[name] == after[name]} == {"config.yaml"}


@pytest.mark.usefixtures("_quick_pictures")
def test_a_sweep_has_a_picture_of_its_own(tmp_path, sweep):
    log = RecordLog(tmp_path / "records.jsonl")
    for record in sweep:
        log.append(record)
    assert [path.name for path in write_report(tmp_path)] == REPORT_FILES


@pytest.mark.usefixtures("_quick_pictures")
def test_the_same_records_make_the_same_report(run_folder):
    first = {path.name: path.read_bytes() for path in write_report(run_folder)}
    assert {path.name: path.read_bytes() for path in write_report(run_folder)} == first


@pytest.mark.usefixtures("_quick_pictures")
def test_a_running_comparison_rewrites_the_page_alone(run_folder):
    assert [p.name for p in write_report(run_folder, running="12 of 60 runs")] == ["report.html"]
    text = (run_folder / "report.html").read_text()
    assert "12 of 60 runs" in text
    assert 'http-equiv="refresh"' in text
    write_report(run_folder)
    text = (run_folder / "report.html").read_text()
    assert 'http-equiv="refresh"' not in text
    assert "Still running" not in text


def test_a_running_comparison_without_a_finished_model_has_no_page_yet(tmp_path, records):
    assert write_report(tmp_path, running="0 of 60 runs") == []
    write_folder(tmp_path, [changed(records[1], step=10)])
    assert write_report(tmp_path, running="0 of 60 runs") == []
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("_quick_pictures")
def test_records_are_aggregated_once(run_folder, monkeypatch):
    calls, gather = [], study_module._settings
    monkeypatch.setattr(study_module, "_settings", lambda r: calls.append(len(r)) or gather(r))
    write_report(run_folder)
    assert calls == [21]


@pytest.mark.usefixtures("_quick_pictures")
def test_several_folders_make_one_report(tmp_path, records):
    one = write_folder(tmp_path / "one", records[:21])
    two = write_folder(tmp_path / "two", records[15:], CONFIG + "# two\n")
    both = write_folder(tmp_path / "both", records)
    out = tmp_path / "out"
    assert {path.parent for path in write_report([one, two], out)} == {out}
    write_report(both)
    together, alone = (data_of((place / "report.html").read_text()) for place in (out, both))
    # a record that both folders hold counts once
    assert together["cells"] == alone["cells"]
    assert (out / "report.csv").read_text() == (both / "report.csv").read_text()
    text = (out / "report.html").read_text()
    assert f"<dt>evaluations</dt><dd>{len(records)}</dd>" in text
    assert "# two" in text
    assert str(one) in text
    assert str(two) in text
    assert "report.html" not in files_of(one)


def test_it_must_be_said_where_a_report_on_several_folders_goes(tmp_path, records):
    folders = [write_folder(tmp_path / name, records[:3]) for name in ("one", "two")]
    with pytest.raises(StateError, match=r"2 folders: .*`out`"):
        write_report(folders)
    with pytest.raises(StateError, match="0 folders: give at least one"):
        write_report([])


@pytest.mark.usefixtures("_quick_pictures")
def test_several_benchmarks_never_share_a_table(tmp_path, records):
    every = on_sources(records[:6])
    folders = [
        write_folder(tmp_path / name, [r for r in every if name in r.benchmark.name], f"# {name}\n")
        for name in SOURCES[:2]
    ]
    out = tmp_path / "out"
    written = write_report(folders, out)
    assert all(path.is_file() for path in written)
    places = [out / f"pacs(train_domain={name})" for name in SOURCES[:2]]
    assert {*out.iterdir()} == {out / "report.md", *places}
    for name, place in zip(SOURCES, places, strict=False):
        assert {path.name for path in place.iterdir()} == set(WITHOUT_SWEEP)
        own = [record for record in every if name in record.benchmark.name]
        assert (place / "report.csv").read_text() == as_csv(Study(own))
        page = (place / "report.html").read_text()
        assert [f"# {other}\n" in page for other in SOURCES].count(True) == 1
        assert f"# {name}\n" in page
        assert f"pacs%28train_domain%3D{name}%29/report.html" in (out / "report.md").read_text()


NAMES = [
    "x" * 300,
    "x" * 301,
    "\N{CJK UNIFIED IDEOGRAPH-65E5}" * 100,
    "..",
    "../../away",
    "a/b",
    "a%2Fb",
    "a_b",
    ".",
    "",
    "module:function",
    "pacs(domain=x)",
]


def test_a_benchmarks_name_leads_nowhere_else(tmp_path):
    folders = {_folder_name(name) for name in NAMES}
    assert len(folders) == len(NAMES)
    for folder in folders:
        assert (tmp_path / folder).resolve().parent == tmp_path.resolve()
        (tmp_path / folder).mkdir(exist_ok=True)


def test_benchmarks_with_several_official_metrics_are_refused(tmp_path, records):
    one = write_folder(tmp_path / "one", records[:3])
    other = [changed(record, benchmark="animals") for record in on_macro_f1(records[:3])]
    two = write_folder(tmp_path / "two", other)
    with pytest.raises(StateError, match="one official metric, found accuracy, macro_f1"):
        write_report([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_benchmark_without_shifts_has_its_report(tmp_path):
    folder = write_folder(tmp_path, on_the_way(without_shifts(make_sweep())))
    assert [path.name for path in write_report(folder)] == REPORT_FILES


@pytest.mark.usefixtures("_quick_pictures")
def test_a_folder_without_config_says_so(tmp_path, records):
    write_report(write_folder(tmp_path, records[:3], config=None))
    assert "has no config.yaml" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("_quick_pictures")
def test_another_reference_comes_first(run_folder):
    write_report(run_folder, reference="gmixout")
    standings = data_of((run_folder / "report.html").read_text())["standings"]
    assert [each["reference"] for each in standings][:1] == ["gmixout"]
    assert "ood minus gmixout" in (run_folder / "report.csv").read_text()


@pytest.mark.parametrize("missing", ["records.jsonl"])
def test_a_missing_file_is_named_with_the_way_out(run_folder, missing):
    (run_folder / missing).unlink()
    with pytest.raises(StateError, match=f"{missing} does not exist.*gmixout compare --out"):
        write_report(run_folder)
    assert not (run_folder / "report.html").exists()


def test_no_folder_and_no_records(tmp_path, records):
    with pytest.raises(StateError, match="nowhere does not exist"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "records.jsonl").write_text('{"schema": 2, "ti')
    with pytest.raises(StateError, match="holds no finished model yet"):
        write_report(tmp_path)
    write_folder(tmp_path, [changed(records[1], step=10)])
    with pytest.raises(StateError, match="holds no finished model yet"):
        write_report(tmp_path)


@pytest.mark.usefixtures("_quick_pictures")
def test_a_broken_record_leaves_the_old_report_alone(run_folder):
    write_report(run_folder)
    old = files_of(run_folder)
    with open(run_folder / "records.jsonl", "a") as file:
        file.write("{}\n")
    with pytest.raises(StateError, match="line 22"):
        write_report(run_folder)
    new = files_of(run_folder)
    assert {name: new[name] for name in WITHOUT_SWEEP} == {
        name: old[name] for name in WITHOUT_SWEEP
    }


def test_tables_need_neither_matplotlib_nor_plotly():
    program = (
        "import sys, gmixout.reports.table, gmixout.reports.texts\n"
        "print([name for name in ('matplotlib', 'plotly', 'torchmetrics') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: " + b"x" * 2**21, None])
def test_a_config_that_cannot_be_shown_is_said(tmp_path, records, content, monkeypatch):
    folder = write_folder(tmp_path, records[:3], config=None)
    if content is None:
        (folder / "config.yaml").mkdir()
    else:
        (folder / "config.yaml").write_bytes(content)
    assert "config.yaml" in _config_of(folder / "config.yaml")
    assert "the records hold what was run" in _config_of(folder / "config.yaml")
