"""Records of schema 2: read as they are, and rewritten once without a figure lost."""

import json
from pathlib import Path

import pytest
import rewrite_records
from records import EXAMPLE, changed

from gmixout.errors import StateError
from gmixout.results import Record, RecordLog

NAMES = {
    "digits": {},
    "my.module:function": {},
    "pacs(train_domain='photo', id_val_share=0.15, half='second') with timm:cnn": {
        "data": "pacs",
        "train_domain": "photo",
        "id_val_share": 0.15,
        "half": "second",
        "model": "timm:cnn",
    },
    "pacs with hf:org/name, head=linear_probe": {
        "data": "pacs",
        "model": "hf:org/name",
        "head": "linear_probe",
    },
    "cifar10(shifts=('a', 'b')) with timm:cnn, corruptions=common of 0.01": {
        "data": "cifar10",
        "shifts": ["a", "b"],
        "model": "timm:cnn",
        "corruptions": "common",
        "corruption_share": 0.01,
    },
    "x(of=' with ') with open_clip:ViT-B-32/openai, corruptions=all": {
        "data": "x",
        "of": " with ",
        "model": "open_clip:ViT-B-32/openai",
        "corruptions": "all",
    },
}
FIGURES = {name: {"macro_f1": 0.5, "macro_recall": 0.25} for name in EXAMPLE.scores}
KINDS = {
    "trained": EXAMPLE,
    "untrained": changed(EXAMPLE, method="zero_shot", steps=0),
    "a place on a path": changed(EXAMPLE, method="wise_ft", alpha=0.5, options={"of": "lora"}),
    "on the way": changed(EXAMPLE, step=100),
    "a soup": changed(EXAMPLE, lr=None, loss=None, pool=["a", "b"], members=["b"]),
    "another metric": changed(EXAMPLE, metric="macro_f1", figures=FIGURES, notes=["a note"]),
    "sums": changed(EXAMPLE, summary={"mce_alexnet": 0.9}, digests={"data": "a"}, git="abc"),
    **{name: changed(EXAMPLE, benchmark=name, parts=parts) for name, parts in NAMES.items()},
}
LATER = ("pool", "members", "metric", "figures", "summary", "notes", "digests")
"""Fields that the first records of schema 2 did not have."""


def old_form(record):
    """Values of schema 2."""
    training = vars(record.training) if record.training else rewrite_records.UNTRAINED
    numbers = {k: v for k, v in training.items() if k not in ("settings", "loss")}
    sets = {
        kind: {name: getattr(each, kind) for name, each in record.scores.items()}
        for kind in (*rewrite_records.SETS, "figures")
    }
    sets["figures"] = {name: each for name, each in sets["figures"].items() if each}
    alpha = {} if record.alpha is None else {"alpha": record.alpha}
    return {
        "schema": 2,
        **{n: getattr(record, n) for n in ("time", "run", "parameters", "pool", "members")},
        **{n: getattr(record, n) for n in ("summary", "notes")},
        "benchmark": record.benchmark.name,
        "metric": record.benchmark.metric,
        "digests": record.benchmark.digests,
        "method": record.method.name,
        "options": alpha | record.method.options,
        **numbers,
        "training": training["settings"],
        "train_loss": training["loss"],
        **sets,
        **vars(record.machine),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_record_is_read_as_what_it_is(kind):
    record, old = KINDS[kind], old_form(KINDS[kind])
    assert Record.from_json(json.dumps(old)) == record
    assert rewrite_records.differences(old, record) == []
    usual = {"pool", "members", "summary", "notes"}
    if all(not getattr(record, name) for name in usual) and record.benchmark.metric == "accuracy":
        first = {name: value for name, value in old.items() if name not in LATER}
        assert Record.from_json(json.dumps(first)) == record


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": None},
        {"nll": {}},
        {"ece": [1]},
        {"options": 3},
        {"options": {"alpha": 2}},
        {"benchmark": "x(y=open('z')) with m"},
        {"benchmark": "x(" * 9000 + " with m"},
        {"benchmark": 7},
        {"figures": {"fonts": {"a": 2.0}}},
        {"training": None},
        {"steps": "300"},
        {"versions": None},
        {"lr": -1},
        {"git": 1},
    ],
    ids=str,
)
def test_a_broken_old_record_is_named(tmp_path, change):
    file = tmp_path / "records.jsonl"
    lines = [old_form(EXAMPLE), old_form(EXAMPLE) | change]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = file.read_bytes()
    with pytest.raises(StateError, match=r"records\.jsonl, line 2"):
        RecordLog(file).read()
    with pytest.raises(StateError):
        rewrite_records.rewrite(file)
    assert file.read_bytes() == before


def test_files_and_folders_are_rewritten_once(tmp_path, capsys):
    files = [tmp_path / "a" / "records.jsonl", tmp_path / "a" / "b" / "records.jsonl"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(old_form(r)) + "\n" for r in KINDS.values()))
    for _ in range(2):
        rewrite_records.main([tmp_path])
        assert [RecordLog(file).read() for file in files] == [list(KINDS.values())] * 2
        assert all('"schema": 2' not in file.read_text() for file in files)
        assert f"{files[1]}: {len(KINDS)} records" in capsys.readouterr().out


def test_a_figure_that_would_change_stops_it(tmp_path, monkeypatch):
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(old_form(EXAMPLE)) + "\n")
    before = file.read_bytes()
    other = changed(EXAMPLE, nll={"fonts": 0.31}, seconds=4.0)
    monkeypatch.setattr(Record, "from_json", lambda line: other)
    with pytest.raises(SystemExit, match="nll would differ"):
        rewrite_records.main([file])
    assert file.read_bytes() == before


def test_our_own_records_are_rewritten():
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    for file in results.rglob("records.jsonl"):
        with file.open() as lines:
            assert json.loads(next(lines))["schema"] == 3
