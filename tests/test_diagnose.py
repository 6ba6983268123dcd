"""`gmixout diagnose` on toy runs, end to end."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy_benchmark import install, net

from gmixout import bench
from gmixout.bench.commands.diagnose import diagnose
from gmixout.bench.job import Job
from gmixout.bench.task import Task
from gmixout.bench.watch import plan, spread
from gmixout.core.masks import STRUCTURES, draw
from gmixout.errors import ConfigError, GmixoutError, StateError
from gmixout.methods import get_method
from gmixout.results import RecordLog
from gmixout.results.model_file import load_model, save_model
from gmixout.training import TrainingArguments, TrainingInterrupted

module = import_module("gmixout.bench.commands.diagnose")

QUICK = {"benchmark": "toy", "steps": 12, "batch_size": 8, "log_every_steps": 4, "lr": 1e-2}
GMIXOUT = get_method("gmixout", mask_rate=0.5, resample_every=3)
MIXOUT = get_method("mixout", mask_rate=0.5)


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    install(monkeypatch)
    # Pages and pictures take longer to draw than toy models to train; they have their own tests.
    monkeypatch.setattr(
        import_module("gmixout.bench.commands.report"), "write_report", lambda *_, **__: []
    )
    figures = import_module("gmixout.reports.diagnosis_figure")
    monkeypatch.setattr(figures, "save_diagnosis_figure", lambda diagnosis, path: path)


@pytest.fixture
def trainings(monkeypatch):
    """The seeds that were trained, in order."""
    seeds, train = [], module.train

    def counting(model, start, dataset, arguments, **options):
        seeds.append(arguments.seed)
        return train(model, start, dataset, arguments, **options)

    monkeypatch.setattr(module, "train", counting)
    return seeds


def run(folder: Path, method=GMIXOUT, **settings):
    bench.finetune(method=method, out=folder, **QUICK | settings)
    return folder


def read(folder: Path):
    return json.loads((folder / "diagnosis" / "diagnosis.json").read_text())


def contents(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_is_trained_again_to_the_same_bits_and_its_files_stay(tmp_path, capsys, trainings):
    before = contents(run(tmp_path, seed=3))
    diagnose(tmp_path, members=2, repeats=2)
    assert contents(tmp_path) == before
    found = read(tmp_path)
    assert trainings == found["seeds"] == [3, 4]
    assert (found["reproduced"], found["difference"]) == (True, 0)
    assert found["drift_of"] == "anchor"
    assert list(found["drift"]) == ["body"]
    assert found["line"].keys() == {"id_val", "id_test", "noise"}
    assert found["snapshots"]["sets"].keys() == {"id_test", "noise"}
    printed = capsys.readouterr().out
    assert "bit for bit" in printed
    assert "n = 2" in printed


def test_figures_are_those_of_the_models_they_speak_of(tmp_path):
    """The ends of the line are the pretrained and the saved model; snapshots make their average."""
    run(tmp_path, get_method("full"))
    diagnose(tmp_path, members=1, repeats=1)
    found, (record,) = read(tmp_path), RecordLog(tmp_path / "records.jsonl").read()
    for name, line in found["line"].items():
        expected = {**record.shifts, **record.of("accuracy")}[name]
        assert line["accuracy"][0][-1] == pytest.approx(expected)
        assert len(line["loss"][0]) == len(found["alphas"]) == 21
    assert found["line"]["id_test"]["loss"][0][-1] == pytest.approx(record.scores["id_test"].nll)
    # The one snapshot is the last step's: the final model, which is its own average.
    assert found["steps"] == [12]
    measures = found["snapshots"]["sets"]["id_test"]
    assert measures["accuracy"] == [[record.id]]
    assert measures["average_accuracy"] == measures["ensemble_accuracy"] == [record.id]
    saved, start = load_file(tmp_path / "model.safetensors"), net().state_dict()
    moved = torch.cat([(saved[n] - start[n]).flatten() for n in start]).norm()
    whole = torch.cat([start[n].flatten() for n in start]).norm()
    assert found["snapshots"]["distance"][0][0] == pytest.approx(float(moved / whole))


@pytest.mark.parametrize(
    ("method", "subnetworks"),
    [(MIXOUT, True), (GMIXOUT, False), (get_method("full"), False), (get_method("ema"), False)],
    ids=str,
)
def test_subnetworks_where_there_are_any_and_a_reason_where_not(tmp_path, method, subnetworks):
    run(tmp_path, method)
    diagnose(tmp_path, members=3, repeats=1)
    found = read(tmp_path)
    assert found["reproduced"]
    assert (found["subnetworks"] is not None) == subnetworks
    assert bool(found["no_subnetworks"]) != subnetworks
    if subnetworks:
        assert len(found["subnetworks"]["distance"][0]) == 3
        # Each has half of the residual, doubled: others than the mean, and than each other.
        assert found["subnetworks"]["spread"][0] > found["snapshots"]["spread"][0] > 0


@pytest.mark.parametrize("method", [MIXOUT, get_method("full")], ids=str)
def test_where_no_anchor_moves_the_weights_drift(tmp_path, method):
    run(tmp_path, method)
    diagnose(tmp_path, members=2, repeats=1)
    found = read(tmp_path)
    assert found["drift_of"] == "weights"
    assert set(found["drift"]) == {"body", "head"}
    for drifts in found["drift"].values():
        assert len(drifts[0]) == len(found["drift_steps"])
        assert all(value > 0 for value in drifts[0])


def test_one_member_of_one_repeat_has_no_pairs_and_no_expectation(tmp_path):
    diagnose(run(tmp_path, MIXOUT), members=1, repeats=1)
    found = read(tmp_path)
    for group in ("snapshots", "subnetworks"):
        assert found[group]["spread"] is None
        for measures in found[group]["sets"].values():
            assert (measures["disagreement"], measures["split"]) == (None, None)


def test_a_second_diagnosis_trains_nothing_and_says_the_same(tmp_path, trainings):
    run(tmp_path)
    diagnose(tmp_path, members=2, repeats=1)
    diagnose(tmp_path, members=2, repeats=2)
    first = (tmp_path / "diagnosis" / "diagnosis.json").read_bytes()
    assert trainings == [0, 1]
    diagnose(tmp_path, members=2, repeats=2)
    assert trainings == [0, 1]
    assert (tmp_path / "diagnosis" / "diagnosis.json").read_bytes() == first
    for file in (tmp_path / "diagnosis").iterdir():
        file.unlink()
    diagnose(tmp_path, members=2, repeats=2)
    assert trainings == [0, 1, 0, 1]
    assert (tmp_path / "diagnosis" / "diagnosis.json").read_bytes() == first
    diagnose(tmp_path, members=3, repeats=1)  # another question
    assert trainings == [0, 1, 0, 1, 0]


def test_a_broken_file_of_a_repeat_is_made_anew(tmp_path, trainings):
    run(tmp_path)
    diagnose(tmp_path, members=2, repeats=1)
    first = read(tmp_path)
    for content in (b"", (tmp_path / "diagnosis/seed-0.safetensors").read_bytes()[:-9]):
        (tmp_path / "diagnosis/seed-0.safetensors").write_bytes(content)
        diagnose(tmp_path, members=2, repeats=1)
        assert read(tmp_path) == first
    assert trainings == [0] * 3


def test_an_interrupt_keeps_what_is_finished(tmp_path, monkeypatch, trainings, capsys):
    run(tmp_path)
    measured = module._line

    def interrupted(*arguments):
        if trainings[-1] == 1:
            raise TrainingInterrupted("stopped after step 4 of 12")
        return measured(*arguments)

    monkeypatch.setattr(module, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        diagnose(tmp_path, members=2, repeats=3)
    assert not str(caught.value)  # nothing that the command line would take for a run to resume
    assert "1 of 3 repeats are finished and kept" in capsys.readouterr().err
    monkeypatch.setattr(module, "_line", measured)
    diagnose(tmp_path, members=2, repeats=3)
    assert trainings == [0, 1, 1, 2]


def test_a_model_that_does_not_come_out_again_is_said_to_differ(tmp_path, capsys):
    run(tmp_path)
    diagnose(tmp_path, members=1, repeats=1)
    state, about = load_model(tmp_path)
    state["body.weight"][0, 0] += 0.5
    save_model(tmp_path / "model.safetensors", state, about)
    diagnose(tmp_path, members=1, repeats=1)
    found = read(tmp_path)
    assert not found["reproduced"]
    assert found["difference"] == pytest.approx(0.5, rel=1e-5)
    assert "did NOT end in its saved weights" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("method", [get_method("wise_ft"), get_method("gmixout_wise_ft")], ids=str)
def test_of_methods_that_build_on_a_run_the_run_is_diagnosed(tmp_path, method):
    run(tmp_path, method)
    diagnose(tmp_path, members=1, repeats=1)
    found = read(tmp_path)
    assert found["run"]["method"]["class_path"] == method.trained.name
    assert found["reproduced"], "the saved model is one alpha of it"


def test_runs_of_a_comparison_whichever_method_made_them(tmp_path):
    methods = [get_method("zero_shot"), get_method("wise_ft"), GMIXOUT]
    settings = {k: v for k, v in QUICK.items() if k != "lr"} | {"lrs": (1e-2,), "workers": 1}
    bench.compare(methods=methods, out=tmp_path, **settings)
    # What the config no longer lists, the model file still knows.
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    lost = {**config, "methods": [m for m in config["methods"] if m["class_path"] != "gmixout"]}
    text = (tmp_path / "config.yaml").read_text().splitlines()[0] + "\n" + yaml.safe_dump(lost)
    (tmp_path / "config.yaml").write_text(text)
    kinds = []
    for folder in sorted((tmp_path / "runs").iterdir()):
        if "zero_shot" in (folder / "model.safetensors").read_bytes()[:2000].decode("latin-1"):
            with pytest.raises(StateError, match="not trained"):
                diagnose(folder)
            continue
        diagnose(folder, members=1, repeats=1)
        assert read(folder)["reproduced"]
        kinds.append(read(folder)["run"]["method"]["class_path"])
    assert sorted(kinds) == ["full", "gmixout"]


def test_what_is_no_run_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(StateError, match="holds no model"):
        diagnose(tmp_path)
    about = {"benchmark": "toy", "run": "x", "method": "full", "options": {}, "pretrained": "x"}
    about |= {"task": {"benchmark": "toy"}, "classes": ["a", "b"]}
    save_model(tmp_path / "model.safetensors", net().state_dict(), about)
    with pytest.raises(StateError, match="not the folder of a run"):
        diagnose(tmp_path)
    with pytest.raises(StateError, match="is a file"):
        diagnose(tmp_path / "model.safetensors")
    assert not (tmp_path / "diagnosis").exists()
    for wrong in ({"members": 0}, {"repeats": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}=0"):
            diagnose(tmp_path, **wrong)


def test_a_run_of_other_settings_than_it_says_is_refused(tmp_path):
    run(tmp_path)
    log = tmp_path / "records.jsonl"
    record = json.loads(log.read_text())
    record["training"]["lr"] = 0.5
    log.write_text(json.dumps(record) + "\n")
    with pytest.raises(GmixoutError, match="no method in"):
        diagnose(tmp_path)


@pytest.mark.parametrize("members", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_members_are_spread_over_what_there_is(steps, members):
    found = spread(range(1, steps + 1), members)
    assert len(found) == min(steps, members)
    assert found[-1] == steps
    gaps = [b - a for a, b in zip([0, *found], found, strict=False)]
    assert max(gaps) - min(gaps) <= 1
    assert spread([], members) == []


@pytest.mark.parametrize(
    ("method", "steps", "expected"),
    [
        # one step before the ends of the second half's periods: 40, 50, ..., 60 after step 30
        (get_method("gmixout", resample_every=10), 60, [39, 49, 59]),
        (get_method("gmixout", resample_every=10, residual="persist"), 60, [40, 50, 60]),
        (get_method("gmixout", resample_every=10), 65, [39, 49, 59]),
        (get_method("gmixout", resample_every=50), 60, [49]),
        (get_method("gmixout", resample_every=50), 120, [99]),
        (get_method("gmixout", resample_every=100), 60, [40, 50, 60]),
        (get_method("mixout"), 6, [4, 5, 6]),
        (get_method("random_mask"), 6, [4, 5, 6]),
        (get_method("full"), 1, [1]),
    ],
    ids=str,
)
def test_snapshots_lie_at_the_ends_of_periods(method, steps, expected):
    found = plan(Job(Task("toy"), method, TrainingArguments(steps=steps)), members=3)
    assert found.snapshots == expected
    assert set(found.snapshots) <= set(found.drifts) <= set(range(1, steps + 1))
    assert found.drifts == sorted(found.drifts)


def test_snapshots_of_reset_are_the_subnetworks_that_their_periods_trained(tmp_path, monkeypatch):
    """A2 + M2 D2 and A3 + M3 D3, A3 = A2 + (1-lambda) M2 D2: they differ in the two masks alone."""
    seen, average = [], module.uniform_soup
    monkeypatch.setattr(module, "uniform_soup", lambda each: seen.append(each) or average(each))
    method = get_method("gmixout", mask_rate=0.75, resample_every=3)
    diagnose(run(tmp_path, method), members=2, repeats=1)
    ((first, second),) = seen
    assert read(tmp_path)["steps"] == [8, 11]
    mask = {"shape": (12, 9), "count": 3, "seed": 0, "name": "body.weight"}
    rows = torch.cat(
        [draw(STRUCTURES["row"]((12, 9), 1), period=period, **mask) for period in (2, 3)]
    )
    differing = (first["body.weight"] != second["body.weight"]).any(1).nonzero().flatten()
    assert differing.tolist() == sorted(set(rows.tolist()))
