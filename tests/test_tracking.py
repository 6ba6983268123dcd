"""Experiment trackers: every point once, however a run ended; nothing unless it is asked for."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_benchmark import install

from gmixout import bench
from gmixout.bench.job import Job
from gmixout.bench.task import Task
from gmixout.cli import main
from gmixout.errors import ConfigError, StateError
from gmixout.methods import get_method
from gmixout.results import RecordLog, RunFolder
from gmixout.results.model_file import load_model
from gmixout.training import TrainingArguments, TrainingInterrupted
from gmixout.training import tracking as tracking_module
from gmixout.training.tracking import TRACKERS, Tracking, check_trackers
from gmixout.training.trainer import Trainer

pytest.importorskip("tensorboard")
SETTINGS = {"steps": 23, "batch_size": 8, "log_every_steps": 5, "checkpoint_every_steps": 4}


@pytest.fixture(autouse=True)
def _toy(monkeypatch, _no_report):
    install(monkeypatch)


def points(folder):
    """The values in the event files of a run, as a reader of TensorBoard gets them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(RunFolder(folder).trackers / "tensorboard"))
    read.Reload()
    return {
        name: [(each.step, each.value) for each in read.Scalars(name)]
        for name in read.Tags()["scalars"]
    }


def resumed(out):
    # TensorBoard orders files by the second in their names, then by number as text: 10 before 9
    time.sleep(1.1)
    run(out, resume=True)


def run(out, **more):
    settings = {**SETTINGS, "out": out, "tracker": ("tensorboard",), **more}
    return bench.finetune("toy", method=get_method("gmixout"), **settings)


def test_losses_rates_and_scores_are_read_back(tmp_path):
    every = {"validate_every_steps": 6, "evaluate_every_steps": 10}
    (*_, record) = run(tmp_path, select="id_validation", warmup_steps=3, **every)
    found = points(tmp_path)
    assert [step for step, _ in found["train/loss"]] == [5, 10, 15, 20, 23]
    assert found["train/loss"][0][1] > 0
    arguments = TrainingArguments(**SETTINGS, warmup_steps=3)
    for step, value in found["train/lr"]:
        assert value == pytest.approx(arguments.lr * arguments.lr_factors()[step - 1])
    assert [step for step, _ in found["id_val"]] == [6, 12, 18, 23]
    on_the_way = [each for each in RecordLog(tmp_path / "records.jsonl").read() if not each.final]
    assert [step for step, _ in found["id_test/accuracy"]] == [10, 20]
    for each, (_, value) in zip(on_the_way, found["id_test/accuracy"], strict=True):
        assert value == pytest.approx(each.id)
    for name, scores in record.scores.items():
        assert found[f"final/{name}/accuracy"] == [(23, pytest.approx(scores.accuracy))]
    place = json.loads((tmp_path / "tracking.json").read_text())
    assert (place["logged"], place["is_finished"]) == (23, True)


def test_tracking_changes_neither_the_run_nor_its_identity(tmp_path):
    run(tmp_path / "with")
    run(tmp_path / "without", tracker=())
    one, other = (load_model(tmp_path / name) for name in ("with", "without"))
    assert one[1]["run"] == other[1]["run"]
    assert all(torch.equal(value, other[0][name]) for name, value in one[0].items())
    names = {file.name for file in (tmp_path / "without").iterdir()}
    assert not {"tracking.json", "trackers"} & names
    jobs = [
        Job(Task("toy"), get_method("full"), TrainingArguments(tracker=names))
        for names in ((), ("tensorboard", "wandb"))
    ]
    assert jobs[0].run == jobs[1].run
    # a resumed run may begin to be tracked; a finished one sends nothing
    run(tmp_path / "without", resume=True)
    assert not (tmp_path / "without" / "tracking.json").exists()


@pytest.mark.parametrize("stop_at", [3, 5, 11, 20, 22])
def test_a_stopped_run_goes_on_in_the_same_place(tmp_path, stop_at, monkeypatch):
    run(tmp_path / "whole")
    step = Trainer._step

    def stopping(self, batch):
        step(self, batch)
        if self.progress.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", stopping)
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "stopped")
    monkeypatch.setattr(Trainer, "_step", step)
    before = json.loads((tmp_path / "stopped" / "tracking.json").read_text())
    resumed(tmp_path / "stopped")
    after = json.loads((tmp_path / "stopped" / "tracking.json").read_text())
    assert after["id"] == before["id"]
    assert points(tmp_path / "stopped") == points(tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import toy_benchmark
toy_benchmark.register()
from importlib import import_module
import_module("gmixout.bench.commands.report").write_report = lambda *_, **__: []
from gmixout import bench
from gmixout.methods import get_method
from gmixout.training.tracking import Tracking
place = sys.argv[3]
def killing(name):
    act = getattr(Tracking, name)
    def acting(self, *words):
        if name == "_keep" and self._place["logged"] == 15:
            os.kill(os.getpid(), signal.SIGKILL)  # sent, and not noted
        act(self, *words)
        if name == "log" and words[0] == 15:
            os.kill(os.getpid(), signal.SIGKILL)  # noted, and no checkpoint of that step
    setattr(Tracking, name, acting)
killing(place)
bench.finetune("toy", method=get_method("gmixout"), steps=23, batch_size=8, log_every_steps=5,
               checkpoint_every_steps=4, tracker=("tensorboard",), out=Path(sys.argv[2]))
"""


@pytest.mark.parametrize("place", ["_keep", "log"])
def test_a_killed_run_has_every_point_once(tmp_path, place):
    run(tmp_path / "whole")
    code = [sys.executable, "-c", KILLED, str(Path(__file__).parent)]
    ended = subprocess.run([*code, str(tmp_path / "killed"), place], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    resumed(tmp_path / "killed")
    assert points(tmp_path / "killed") == points(tmp_path / "whole")


def test_overwriting_a_run_deletes_its_points(tmp_path):
    run(tmp_path)
    first = json.loads((tmp_path / "tracking.json").read_text())["id"]
    run(tmp_path, overwrite=True, steps=10)
    assert [step for step, _ in points(tmp_path)["train/loss"]] == [5, 10]
    assert json.loads((tmp_path / "tracking.json").read_text())["id"] != first


def test_each_run_of_a_comparison_has_its_own_place(tmp_path):
    methods = [get_method(name) for name in ("full", "wise_ft", "zero_shot")]
    own = {"steps": 6, "batch_size": 8, "log_every_steps": 3, "workers": 1, "out": tmp_path}
    bench.compare("toy", methods=methods, lrs=(1e-3, 1e-2), tracker=("tensorboard",), **own)
    tracked = [each for each in RunFolder(tmp_path).runs if each.tracking.exists()]
    assert len(tracked) == 2
    for each in tracked:
        assert [step for step, _ in points(each.path)["train/loss"]] == [3, 6]


class Recorder:
    """A tracker as Accelerate has them, which notes what it gets."""

    made: list["Recorder"] = []  # noqa: RUF012
    fail_at = None

    def __init__(self, project, **options):
        self.project, self.options, self.calls = project, options, []
        self.made.append(self)

    def start(self):
        self.calls.append("start")

    @property
    def tracker(self):
        class Info:
            run_id = "mlflow-1"

        class Run:
            info = Info

        return Run

    def store_init_configuration(self, values):
        self.calls.append(("config", values))

    def log(self, values, step=None):
        if step == self.fail_at:
            raise OSError("the disk of \x1b[31m the service is full")
        self.calls.append((step, dict(values)))

    def log_table(self, name, columns, data):
        self.calls.append((name, data))

    def finish(self):
        self.calls.append("finish")


@pytest.fixture
def recorder(monkeypatch):
    from accelerate import tracking

    kind = type("Kind", (Recorder,), {"made": [], "fail_at": None})
    for name in ("wandb", "mlflow", "trackio"):
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, kind)
    monkeypatch.setattr(tracking_module, "find_spec", lambda name: True)
    return kind


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_other_trackers_resume_by_the_name_of_the_run(tmp_path, name, recorder):
    settings = {"lr": 1, "m": {"n": None}}
    words = ((name, name), tmp_path / "t.json", tmp_path / "t", "a run", settings)
    for until in (2, 4):
        with Tracking(*words) as tracking:
            for step in range(1, until + 1):
                tracking.add({"extra": step})
                tracking.log(step, {"loss": 1 / step})
            if until == 4:
                tracking.finish(4, {"id_test/accuracy": 0.5}, "")
    with Tracking(*words) as tracking:
        tracking.finish(4, {"id_test/accuracy": 0.5}, "")
    first, second, third = recorder.made  # one for a name that is given twice
    assert first.calls[1] == ("config", {"lr": 1, "m.n": "null"})
    assert [each[0] for each in first.calls[2:-1]] == [1, 2]
    assert [each[0] for each in second.calls[1:3]] == [3, 4]
    assert second.calls[1][1] == {"loss": 1 / 3, "extra": 3}
    assert (4, {"final/id_test/accuracy": 0.5}) in second.calls
    assert third.calls == ["start", "finish"]
    if name == "mlflow":
        ids = [each.options.get("run_id") for each in recorder.made]
        assert ids == [None, "mlflow-1", "mlflow-1"]
    else:
        assert first.options == second.options
        assert first.options["resume"] == "allow"
    if name == "wandb":
        assert ("final table", [["id_test/accuracy", 0.5]]) in second.calls


def test_a_tracker_that_fails_does_not_end_the_training(tmp_path, recorder, capsys):
    recorder.fail_at = 10
    run(tmp_path, tracker=("wandb", "tensorboard"))
    assert RecordLog(tmp_path / "records.jsonl").read()[-1].final
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("tracker wandb failed and is left out from here on: the disk of") == 1
    assert [step for step, _ in points(tmp_path)["train/loss"]] == [5, 10, 15, 20, 23]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_said_before_a_folder_is_touched(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking_module, "find_spec", lambda package: None)
    words = ["--benchmark", "toy", "--steps", "2", "--out", str(tmp_path / "run")]
    assert main(["finetune", *words, "--tracker", name]) == 2
    assert f"pip install {TRACKERS[name]}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError):
        check_trackers([name])


def test_a_damaged_place_is_said(tmp_path):
    file = tmp_path / "t.json"
    for content in ("{", "[]", '{"id": 3}'):
        file.write_text(content)
        with pytest.raises(StateError, match="delete it, and a new run begins"):
            Tracking(["tensorboard"], file, tmp_path / "t").__enter__()


def test_wandb_offline_keeps_one_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = (["wandb"], tmp_path / "t.json", tmp_path / "t", "a run", {"lr": 0.1})
    for until in (1, 2):
        with Tracking(*words) as tracking:
            tracking.log(until, {"loss": 0.5})
    own = json.loads((tmp_path / "t.json").read_text())
    runs = [each.name for each in (tmp_path / "t" / "wandb").glob("offline-run-*")]
    assert runs
    assert all(name.endswith(own["id"]) for name in runs)
    assert own["logged"] == 2
