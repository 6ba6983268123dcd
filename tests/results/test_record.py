import io
import json
import math
import os
import signal
import subprocess
import sys

import pytest
from records import changed, sets

from gmixout.errors import StateError
from gmixout.results import MethodFacts, Record, RecordLog
from gmixout.results import log as log_module
from gmixout.results.record import SCHEMA


def test_json_round_trip(make_record):
    record = make_record(method="wise_ft", alpha=0.5, lr=1, git="abc1234")
    line = record.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == record
    assert json.loads(line)["schema"] == SCHEMA


def test_a_field_with_a_default_may_be_missing(make_record):
    record = make_record()
    values = json.loads(record.to_json())
    for name in ("pool", "members", "summary", "notes"):
        del values[name]
    for part, name in (("benchmark", "metric"), ("benchmark", "parts"), ("method", "alpha")):
        del values[part][name]
    for scores in values["scores"].values():
        del scores["figures"]
    assert Record.from_json(json.dumps(values)) == record


def test_untrained_record_needs_no_rates(make_record):
    record = make_record(method="zero_shot", steps=0)
    read = Record.from_json(record.to_json())
    assert (read.training, read.lr, read.seed, read.step, read.steps) == (None, None, 0, 0, 0)
    assert read.final


def test_ood_is_the_mean_over_groups_not_over_parts(make_record):
    record = make_record()
    assert record.shifts == pytest.approx({"noise": 0.7, "fonts": 0.5})
    assert record.ood == pytest.approx(0.6)
    assert (record.id, record.id_val) == (0.9, 0.9)


def test_time_is_utc_now():
    assert Record.__dataclass_fields__["time"].default_factory().endswith("Z")


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -0.1, 1.5, "0.9", None, True], ids=lambda v: str(v)
)
def test_accuracy_must_be_a_fraction(make_record, value):
    said = r"accuracy is missing for id_test" if value is None else r"id_test.accuracy"
    with pytest.raises(StateError, match=said):
        make_record(id=value)


def test_accuracy_needs_validation_and_test(make_record):
    with pytest.raises(StateError, match="need `id_val` and `id_test`"):
        make_record(accuracy={"id_val": 0.5, "noise": 0.5})


def test_without_a_shift_the_test_itself_is_what_there_is(make_record):
    record = make_record(accuracy={"id_val": 0.6, "id_test": 0.5})
    assert record.shifts == {}
    assert (record.id_val, record.id, record.ood, record.worst) == (0.6, 0.5, 0.5, 0.5)
    # in a long-tailed benchmark the classes that training hardly saw stand for the shift
    shots = {"many_shot": 0.7, "medium_shot": 0.5, "few_shot": 0.2}
    record = changed(record, figures={"id_test": shots})
    assert record.shifts == {"few_shot": 0.2}
    assert (record.id, record.ood, record.worst) == (0.5, 0.2, 0.2)
    assert make_record(figures={"id_test": shots}).shifts == make_record().shifts


def test_the_official_metric_is_what_counts(make_record):
    accuracy = sets(make_record(), "accuracy")
    f1 = {name: value / 2 for name, value in accuracy.items()}
    record = make_record(
        metric="macro_f1",
        figures={name: {"macro_f1": value, "macro_recall": 0.9} for name, value in f1.items()},
    )
    assert record.official == f1
    assert record.of("accuracy") == accuracy
    assert record.of("few_shot") == {}
    plain = make_record()
    assert plain.official == accuracy
    for name in ("id_val", "id", "ood", "worst"):
        assert getattr(record, name) == pytest.approx(getattr(plain, name) / 2)
    assert record.shifts == pytest.approx({k: v / 2 for k, v in plain.shifts.items()})
    assert Record.from_json(record.to_json()) == record


BESIDE = {
    "alpha": 0.5,
    "of": {"class_path": "gmixout", "init_args": {"mask_rate": 0.9}},
    "adds": [
        {"class_path": "regmixup", "init_args": {"alpha": 1.0}},
        {"class_path": "sam", "init_args": {"rho": 0.1}},
    ],
}


def test_regularizers_stand_apart_from_their_method(make_record):
    facts = MethodFacts.of("gmixout+regmixup+sam", BESIDE)
    assert (facts.base, facts.alpha, facts.options) == ("gmixout", 0.5, {"mask_rate": 0.9})
    assert facts.settings == {"mask_rate": 0.9, "regmixup.alpha": 1.0, "sam.rho": 0.1}
    assert facts.spelled == BESIDE
    assert MethodFacts.of("wise_ft", {"alpha": 0.1, "of": "lora"}).spelled == {
        "alpha": 0.1,
        "of": "lora",
    }
    record = make_record(**vars(facts), method=facts.name)
    assert Record.from_json(record.to_json()).method == facts


def test_summary_and_notes_are_kept(make_record):
    record = make_record(summary={"mce_alexnet": 1.2}, notes=["val holds 3 classes"])
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "macro_f1"}, "macro_f1 is missing for fonts, id_test, id_val"),
        ({"figures": {"fonts": {"macro_f1": math.nan}}}, "fonts.figures.macro_f1` is nan"),
        ({"figures": {"fonts": {"macro_f1": 1.5}}}, r"macro_f1 is 1\.5, and not from 0 to 1"),
        ({"figures": {"fonts": 0.5}}, "fonts.figures` is 0.5"),
        ({"summary": {"mce_alexnet": -1.0}}, "summary.mce_alexnet`"),
        ({"summary": {"mce_alexnet": math.nan}}, "summary.mce_alexnet`"),
        ({"notes": "all is well"}, "notes"),
    ],
)
def test_broken_figures_are_refused(make_record, changes, words):
    with pytest.raises(StateError, match=words):
        make_record(**changes)


@pytest.mark.parametrize(
    "field",
    [{"lr": "fast"}, {"seed": 0.5}, {"seconds": math.nan}, {"options": [1]}, {"step": "3"}],
)
def test_foreign_types_are_refused(make_record, field):
    with pytest.raises(StateError, match=next(iter(field))):
        make_record(**field)


def test_log_appends_and_keeps_order(tmp_path, make_record):
    log = RecordLog(tmp_path / "records.jsonl")
    assert log.read() == []
    records = [make_record(seed=seed) for seed in range(3)]
    for record in records:
        log.append(record)
    assert RecordLog(log.path).read() == records


def test_an_appended_record_is_on_the_disk(tmp_path, make_record, monkeypatch):
    path = tmp_path / "records.jsonl"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.stat().st_size))
    RecordLog(path).append(make_record())
    assert synced == [path.stat().st_size]
    assert synced[0] > 0


def test_a_cut_at_any_byte_loses_the_torn_line_alone(tmp_path, make_record):
    path = tmp_path / "records.jsonl"
    records = [make_record(seed=seed) for seed in range(2)]
    for record in records:
        RecordLog(path).append(record)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    new = make_record(seed=7)
    for cut in {*range(first, len(whole), 7), *range(len(whole) - 5, len(whole) + 1)}:
        path.write_bytes(whole[:cut])
        # without its line break the second line is complete, hence kept
        kept = records[: 2 if cut >= len(whole) - 1 else 1]
        assert RecordLog(path).read() == kept
        assert path.stat().st_size == cut, "reading must not write"
        RecordLog(path).append(new)
        assert RecordLog(path).read() == [*kept, new]
        assert path.read_bytes().startswith(whole[: first if len(kept) == 1 else -1])


def test_a_killed_writer_leaves_a_log_to_go_on_with(tmp_path, make_record):
    path = tmp_path / "records.jsonl"
    record = make_record()
    program = (
        "import sys\n"
        "from gmixout.results import Record, RecordLog\n"
        "record, log = Record.from_json(sys.argv[1]), RecordLog(sys.argv[2])\n"
        "while True:\n    log.append(record)\n    print(flush=True)\n"
    )
    command = [sys.executable, "-c", program, record.to_json(), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        for _ in range(5):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
    found = RecordLog(path).read()
    assert len(found) >= 5
    assert set(map(Record.to_json, found)) == {record.to_json()}
    RecordLog(path).append(changed(record, seed=9))
    assert RecordLog(path).read() == [*found, changed(record, seed=9)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"schema": 1}', "schema 1"),
        ("[1, 2]", "schema"),
        ('{"schema": 2, "run": "x"}', "not a whole record of schema 2.*accuracy"),
        ('{"schema": 3, "run": "x"}', "missing.*scores"),
        ("not json", "not a line of JSON"),
        ("", "not a line of JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, make_record, line, reason):
    path = tmp_path / "records.jsonl"
    good = make_record().to_json()
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(StateError, match=reason) as error:
        RecordLog(path).read()
    assert f"{path}, line 2" in str(error.value)


def test_nan_and_unknown_fields_in_a_file_are_refused(make_record):
    line = make_record(id=0.25).to_json()
    with pytest.raises(StateError, match="not a line of JSON"):
        Record.from_json(line.replace("0.25", "NaN"))
    with pytest.raises(StateError, match="unknown: \\['extra'\\]"):
        Record.from_json(line.replace("{", '{"extra": 1, ', 1))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_of_any_system_and_no_line_is_ever_lost(
    tmp_path, make_record, ending, mark, last
):
    path = tmp_path / "records.jsonl"
    old = [make_record(seed=seed) for seed in range(3)]
    text = mark + ending.join(map(Record.to_json, old)) + (ending if last else "")
    path.write_bytes(text.encode())
    assert RecordLog(path).read() == old
    RecordLog(path).append(make_record(seed=7))
    assert RecordLog(path).read() == [*old, make_record(seed=7)]


def test_a_disk_that_takes_half_a_line_leaves_the_log_as_it_was(tmp_path, make_record, monkeypatch):
    path = tmp_path / "records.jsonl"
    RecordLog(path).append(make_record())
    before, room = path.read_bytes(), [100, 50]

    class Full(io.FileIO):
        def write(self, content):
            if not room:
                raise OSError(28, "No space left on device")
            return super().write(bytes(content)[: room.pop()])

    monkeypatch.setattr(log_module, "open", lambda path, *_, **__: Full(path, "a+"), raising=False)
    with pytest.raises(StateError, match=r"records\.jsonl cannot be used: No space left"):
        RecordLog(path).append(make_record(seed=7))
    assert path.read_bytes() == before
    room[:] = [10**6, 70, 1]  # bit by bit, without an error
    RecordLog(path).append(make_record(seed=7))
    monkeypatch.undo()
    assert RecordLog(path).read() == [make_record(), make_record(seed=7)]


def test_a_log_that_is_no_file_is_named(tmp_path, make_record):
    (tmp_path / "records.jsonl").mkdir()
    for use in (RecordLog.read, lambda log: log.append(make_record())):
        with pytest.raises(StateError, match=r"records\.jsonl cannot be used: Is a directory"):
            use(RecordLog(tmp_path / "records.jsonl"))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"alpha": "0.5"}, "method.alpha"),
        ({"alpha": 1.5}, "method.alpha"),
        ({"alpha": True}, "method.alpha"),
        ({"alpha": [0.5]}, "method.alpha"),
        ({"options": {"a": math.nan}}, "options.a"),
        ({"options": {"a": 2**64}}, "options.a"),
        ({"options": {"a": {"b" * 30_000: 1}}}, "options.a"),
        ({"notes": [1]}, "notes.0"),
        ({"notes": ["x" * 30_000]}, "notes.0"),
        ({"versions": {"torch": 2}}, "machine.versions.torch"),
        ({"pool": [None]}, "pool.0"),
        ({"parameters": 0}, "parameters"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"lr": 1e300}, "lr"),
        ({"seconds": 10**400}, "seconds"),
        ({"peak_memory_bytes": 1.5}, "peak_memory_bytes"),
        ({"loss": -math.inf}, "training.loss"),
        ({"nll": {"id_val": 1e200}}, "scores.id_val.nll"),
        ({"digests": {"data": 1}}, "digests.data"),
    ],
)
def test_values_that_would_break_a_report_are_refused_by_place(make_record, changes, place):
    with pytest.raises(StateError, match=place):
        make_record(**changes)


def test_texts_come_out_on_one_line(make_record):
    record = make_record(
        method="a\nb", notes=["x\x1b[31m"], options={"o\r": "\ud800"}, device="\u202egpu"
    )
    assert record.method.name == "a\\nb"
    assert record.notes == ["x\\x1b[31m"]
    assert record.method.options == {"o\\r": "\\ud800"}
    assert Record.from_json(record.to_json()) == record


def test_a_model_clearly_below_its_start_says_so(make_record):
    record = make_record(id_val=0.595, examples=dict.fromkeys(make_record().scores, 400))
    note = "ended at 59.5% on ID validation, below its start of 74.5%: lower --lr"
    assert record.against_start(0.745).notes == [note]
    assert record.against_start(0.745).below_start == note
    for start in (0.1, 0.595, 0.62):  # better, equal, within the noise of 400 images
        assert record.against_start(start) == record
    few = make_record(id_val=0.595, examples=dict.fromkeys(make_record().scores, 10))
    assert few.against_start(0.745).below_start == ""
