"""A run stays itself while the package grows."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from toy_benchmark import install

from gmixout import bench
from gmixout.bench import code_version
from gmixout.bench import job as job_module
from gmixout.bench.identity import identity_of_training
from gmixout.bench.job import Job
from gmixout.bench.task import IDENTITY_SCHEMA, Task
from gmixout.data import SOURCES
from gmixout.losses import LOSSES
from gmixout.methods import METHODS, Method, get_method
from gmixout.methods.masking import _Masked
from gmixout.named import completed, defaults_of, identity, plain, spec_of
from gmixout.regularizers import REGULARIZERS
from gmixout.results import RecordLog
from gmixout.training import TrainingArguments

DEFAULTS = Path(__file__).parent / "defaults_of_schema.json"


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    install(monkeypatch)


def grown(kind: type, **options: Any) -> type:
    """A class as it is after it moved to another file and got options."""
    fields = [(name, Any, dataclasses.field(default=value)) for name, value in options.items()]
    made = dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True)
    made.__module__ = "gmixout.somewhere.else"
    return made


def grow(monkeypatch) -> None:
    """Moves all methods to other files and gives options to those that no other builds on."""
    for name, kind in METHODS.items():
        monkeypatch.setattr(kind, "__module__", "gmixout.somewhere.else")
        if not (issubclass(kind, _Masked) or name == "full"):
            monkeypatch.setitem(METHODS, name, grown(kind, newer=0.0))


def variants() -> list[Method]:
    """Every method, nested ones with options of their own."""
    nested = [get_method(name, of=get_method("l2_sp", pull=0.5)) for name in ("wise_ft", "swa")]
    return [*map(get_method, METHODS), *nested, get_method("gmixout", mask_rate=0.5)]


def test_a_run_is_the_same_after_its_classes_moved_and_options_were_added(monkeypatch):
    arguments = TrainingArguments(lr=0.5, steps=7)
    before = [identity_of_training(method, arguments) for method in variants()]
    specs = [spec_of(method) for method in variants()]
    assert len({json.dumps(each) for each in before}) == len(before)
    grow(monkeypatch)
    later = grown(TrainingArguments, newer=None)(lr=0.5, steps=7)
    assert [identity_of_training(method, later) for method in variants()] == before
    now = [completed(spec_of(method), Method) for method in variants()]
    assert [completed(spec, Method) for spec in specs] == now
    changed = dataclasses.replace(get_method("l2_sp"), newer=1.0)
    assert identity(changed) != identity(get_method("l2_sp"))


@pytest.mark.usefixtures("_no_report")
def test_a_finished_run_is_finished_after_the_package_has_grown(tmp_path, monkeypatch, capsys):
    own = {"steps": 2, "batch_size": 8, "out": tmp_path / "one"}
    bench.finetune("toy", method=get_method("l2_sp"), **own)
    names = ("l2_sp", "wise_ft", "greedy_soup", "gmixout")
    more = {"lrs": (1e-3,), "steps": 2, "batch_size": 8, "workers": 1, "out": tmp_path}
    first = bench.compare("toy", methods=[get_method(name) for name in names], **more)
    grow(monkeypatch)
    # nothing is trained or evaluated
    monkeypatch.setattr(job_module, "train", None)
    monkeypatch.setattr(job_module, "evaluate", None)
    capsys.readouterr()
    bench.finetune("toy", method=get_method("l2_sp"), resume=True, **own)
    assert "is finished; nothing was trained" in " ".join(capsys.readouterr().err.split())
    methods = [get_method(name) for name in names]
    assert bench.compare("toy", methods=methods, resume=True, **more) == first


def test_data_sets_are_known_by_what_is_not_at_its_default(monkeypatch):
    made = SOURCES["imagefolder"](Path("x"))
    before = identity(made)
    assert before == {"name": "imagefolder", "options": {"root": "x"}}
    monkeypatch.setitem(SOURCES, "imagefolder", grown(SOURCES["imagefolder"], newer=1))
    assert identity(SOURCES["imagefolder"](Path("x"))) == before


def test_a_class_of_the_users_own_is_known_by_module_and_name():
    kind = grown(METHODS["full"])
    kind.__module__, kind.__qualname__ = "my.module", "Outer.full"
    assert identity(kind())["name"] == "my.module:Outer.full"
    job = [Job(Task("toy"), method, TrainingArguments()) for method in (kind(), get_method("full"))]
    assert job[0].run != job[1].run


def is_kept(then, now):
    """Whether a default is what it was; a method inside of it may have new options."""
    if isinstance(then, dict) and isinstance(now, dict):
        return all(key in now and is_kept(value, now[key]) for key, value in then.items())
    return then == now


def test_a_default_changes_with_the_schema_alone():
    """What is at its default is not part of a run's hash: of two defaults runs must not be one."""
    tables = (METHODS, SOURCES, REGULARIZERS, LOSSES)
    classes = {name: kind for table in tables for name, kind in table.items()}
    classes["training"] = TrainingArguments
    now = {name: plain(defaults_of(kind)) for name, kind in classes.items()}
    now = json.loads(json.dumps({"schema": IDENTITY_SCHEMA, "defaults": now}))
    if not DEFAULTS.exists():
        DEFAULTS.write_text(json.dumps(now, indent=1) + "\n")
    then = json.loads(DEFAULTS.read_text())
    if then["schema"] == IDENTITY_SCHEMA:
        for name, options in then["defaults"].items():
            for option, value in options.items():
                here = now["defaults"].get(name, {})
                assert is_kept(value, here.get(option, value)), (
                    f"{name}.{option} was {value}: raise SCHEMA in bench/task.py, then delete "
                    f"{DEFAULTS.name} and run this test, which writes it anew"
                )
    if then != now:  # something was added: from now on its defaults are held, too
        DEFAULTS.write_text(json.dumps(now, indent=1) + "\n")


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("before", [{"gmixout": "0.0.9", "git": "abc1234"}, None, "x"])
def test_resuming_with_another_version_is_said(before, tmp_path, capsys):
    settings = {"method": get_method("full"), "steps": 2, "batch_size": 8, "out": tmp_path}
    bench.finetune("toy", **settings)
    capsys.readouterr()
    bench.finetune("toy", resume=True, **settings)
    assert "note:" not in capsys.readouterr().err
    file = tmp_path / "identity.json"
    held = json.loads(file.read_text())
    assert held["made_by"]["gmixout"] == code_version.versions()["gmixout"]
    file.write_text(json.dumps({**held, "made_by": before}))
    bench.finetune("toy", resume=True, **settings)
    told = " ".join(capsys.readouterr().err.split())
    assert f"note: the run in {tmp_path} was made by gmixout" in told
    if isinstance(before, dict):
        assert "gmixout 0.0.9 at commit abc1234, and continues with" in told
    bench.finetune("toy", resume=True, **settings)
    assert "note:" not in capsys.readouterr().err
    (record,) = RecordLog(tmp_path / "records.jsonl").read()
    assert record.machine.versions["gmixout"]
