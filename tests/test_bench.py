import json
import math
import os
import random
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save
from toy_benchmark import install, net, toy_task

from gmixout import bench
from gmixout.bench import job as job_module
from gmixout.bench.folder import at_work
from gmixout.bench.task import IDENTITY_SCHEMA
from gmixout.errors import ConfigError, GmixoutError, StateError, TrainingError
from gmixout.evaluation import metrics
from gmixout.loading import make_loader
from gmixout.methods import METHODS, get_method
from gmixout.results import RecordLog, Study
from gmixout.results.model_file import load_model
from gmixout.training import processes, trainer
from gmixout.weightspace import uniform_soup

QUICK = {"benchmark": "toy", "steps": 6, "batch_size": 8, "log_every_steps": 2}
ALONE = {**QUICK, "workers": 1}
"""For comparisons: this process does the work, so that patches hold."""


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    install(monkeypatch)


@pytest.fixture
def trainings(monkeypatch):
    """The runs that were trained, in order; counts calls of the training loop."""
    runs, train = [], job_module.train

    def counting(*arguments, run, **named):
        runs.append(run)
        return train(*arguments, run=run, **named)

    monkeypatch.setattr(job_module, "train", counting)
    return runs


def records(folder: Path):
    return RecordLog(folder / "records.jsonl").read()


def test_finetune_leaves_a_run_folder_that_evaluates_to_the_same_digits(tmp_path, capsys):
    out = tmp_path / "run"
    (record,) = bench.finetune(method=get_method("gmixout", mask_rate=0.5), out=out, **QUICK)
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.yaml", "records.jsonl", "model.safetensors", "report.html"}
    assert "checkpoint.pt" not in names
    assert (record.method.name, record.method.options["mask_rate"], record.steps) == (
        "gmixout",
        0.5,
        6,
    )
    assert 0 < record.training.trainable < record.parameters
    capsys.readouterr()
    accuracy = bench.evaluate(out)
    assert accuracy == record.of("accuracy")
    printed = capsys.readouterr().out
    assert "Equal to the recorded values" in printed
    assert all(repr(value) in printed for value in accuracy.values())


@pytest.mark.usefixtures("_no_report")
def test_evaluate_says_when_figures_differ_or_are_not_there(tmp_path, capsys):
    bench.finetune(method=get_method("full"), out=tmp_path, **QUICK)
    log = tmp_path / "records.jsonl"
    record = json.loads(log.read_text())
    record["scores"]["id_test"]["accuracy"] = 0.125
    log.write_text(json.dumps(record) + "\n")
    capsys.readouterr()
    bench.evaluate(tmp_path)
    assert "Not equal to the recorded values" in capsys.readouterr().out
    log.unlink()
    bench.evaluate(tmp_path / "model.safetensors")
    assert "No record" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_report")
def test_the_same_seed_gives_the_same_bytes(tmp_path):
    models = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        bench.finetune(method=get_method("gmixout"), out=tmp_path / name, seed=seed, **QUICK)
        models.append((tmp_path / name / "model.safetensors").read_bytes())
    assert models[0] == models[1] != models[2]


@pytest.mark.usefixtures("_no_report")
def test_finetune_with_wise_ft_saves_the_alpha_that_validation_selects(tmp_path):
    out = tmp_path / "run"
    found = bench.finetune(method=get_method("wise_ft", alphas=(0.0, 1.0)), out=out, **QUICK)
    assert [record.alpha for record in found] == [0.0, 1.0]
    best = max(found, key=lambda record: (record.id_val, -record.alpha))
    assert bench.evaluate(out) == best.of("accuracy")


@pytest.mark.usefixtures("_no_report")
def test_zero_shot_is_the_pretrained_model(tmp_path, trainings):
    (record,) = bench.finetune(method=get_method("zero_shot"), out=tmp_path, **QUICK)
    assert (record.steps, record.lr, trainings) == (0, None, [])
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in net().state_dict().items())


@pytest.mark.usefixtures("_no_report")
def test_compare_trains_each_run_once_and_only_what_is_missing(tmp_path, trainings):
    methods = [get_method("zero_shot"), get_method("full"), get_method("wise_ft", alphas=(0.5,))]
    settings = {**ALONE, "lrs": (1e-3, 1e-2), "out": tmp_path}
    first = bench.compare(methods=methods, seeds=(0,), **settings)
    assert len(trainings) == len(set(trainings)) == 2  # one a rate: wise_ft shares full's
    assert len(first) == 1 + 2 + 2
    by_run = {}
    for record in first:
        by_run.setdefault(record.run, set()).add(record.method.name)
    assert sorted(map(sorted, by_run.values())) == [
        ["full", "wise_ft"],
        ["full", "wise_ft"],
        ["zero_shot"],
    ]
    for run in by_run:
        assert {path.name for path in (tmp_path / "runs" / run).iterdir()} == {"model.safetensors"}

    trainings.clear()
    again = bench.compare(methods=methods, seeds=(0,), resume=True, **settings)
    assert (trainings, again) == ([], first)

    more = bench.compare(
        methods=[*methods, get_method("gmixout")], seeds=(0, 1), resume=True, **settings
    )
    assert len(trainings) == 2 + 4  # gmixout with seed 0, both methods with seed 1
    assert more[: len(first)] == first
    run = next(record for record in more if record.method.name == "gmixout").run
    assert bench.evaluate(tmp_path / "runs" / run)


@pytest.mark.usefixtures("_no_report")
def test_a_comparison_that_died_is_completed(tmp_path, trainings, monkeypatch):
    methods = [get_method("full"), get_method("wise_ft", alphas=(0.2, 0.4, 0.6))]
    settings = {**ALONE, "lrs": (1e-2,), "methods": methods}
    whole = bench.compare(out=tmp_path / "whole", **settings)

    make, made = job_module.make_record, []

    def dying(*arguments, **options):
        if len(made) == 2:
            raise RuntimeError("killed")
        made.append(make(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(job_module, "make_record", dying)
    with pytest.raises(RuntimeError, match="killed"):
        bench.compare(out=tmp_path / "died", **settings)
    monkeypatch.setattr(job_module, "make_record", make)
    done = bench.compare(out=tmp_path / "died", resume=True, **settings)
    assert done[:2] == made
    assert [(r.method.name, r.method.options, r.of("accuracy")) for r in done] == [
        (r.method.name, r.method.options, r.of("accuracy")) for r in whole
    ]


def test_config_of_a_run_has_the_keys_of_the_command(tmp_path):
    bench.compare(methods=[get_method("full")], lrs=(1e-2,), out=tmp_path, **ALONE)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["methods"] == [{"class_path": "full", "init_args": {}}]
    assert (config["benchmark"], config["lrs"], config["steps"]) == ("toy", [0.01], 6)
    assert {path.name for path in tmp_path.iterdir()} >= {"report.html", "id_ood.png"}


@pytest.mark.usefixtures("_no_report")
def test_interpolate_and_soup(tmp_path, capsys):
    for seed in (1, 2):
        bench.finetune(
            method=get_method("full"), out=tmp_path / str(seed), seed=seed, lr=1e-2, **QUICK
        )
    a, b = tmp_path / "1", tmp_path / "2"
    weights = {path: load_file(path / "model.safetensors") for path in (a, b)}
    bench.interpolate(a, b, alpha=0.0, out=tmp_path / "at_a")
    bench.interpolate(a, b, alpha=1.0, out=tmp_path / "at_b")
    (mean,) = bench.interpolate(a, b, alpha=0.5, out=tmp_path / "mean")
    for key in weights[a]:
        assert torch.equal(load_file(tmp_path / "at_a/model.safetensors")[key], weights[a][key])
        assert torch.equal(load_file(tmp_path / "at_b/model.safetensors")[key], weights[b][key])
    (uniform,) = bench.soup([a, b], "uniform", out=tmp_path / "uniform")
    assert uniform.of("accuracy") == mean.of("accuracy")
    (greedy,) = bench.soup([a, b], "greedy", out=tmp_path / "greedy")
    assert greedy.id_val >= max(record.id_val for path in (a, b) for record in records(path))
    assert f"Of 2 models the soup has: {a}, {b}" in capsys.readouterr().err.replace("\n", "")
    assert bench.evaluate(tmp_path / "greedy") == greedy.of("accuracy")
    assert "Equal to the recorded values" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_report")
def test_a_folder_that_holds_a_run_is_safe(tmp_path):
    settings = {**QUICK, "method": get_method("full"), "out": tmp_path}
    bench.finetune(**settings)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(StateError, match=r"already holds a run.*--resume.*--overwrite"):
        bench.finetune(**settings)
    with pytest.raises(ConfigError, match="choose one"):
        bench.finetune(**settings, resume=True, overwrite=True)
    with pytest.raises(StateError, match=r"lr \(0\.001 there, 0\.5 now\)"):
        bench.finetune(**settings, resume=True, lr=0.5)
    with pytest.raises(StateError, match="method"):
        bench.finetune(**{**settings, "method": get_method("gmixout")}, resume=True)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    bench.finetune(**settings, resume=True, num_workers=0, checkpoint_every_steps=3)
    assert len(records(tmp_path)) == 1
    bench.finetune(**settings, overwrite=True, seed=9)
    assert (tmp_path / "model.safetensors").read_bytes() != before
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "runs" / "mine").is_dir()


def test_wrong_folders(tmp_path):
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("a file")
    full = {**QUICK, "method": get_method("full")}
    cases = {
        "gmixout finetune --out": lambda: bench.evaluate(empty),
        "gmixout compare --out": lambda: bench.report([empty]),
        "missing holds no model": lambda: bench.evaluate(tmp_path / "missing"),
        "cannot be read as a model": lambda: bench.evaluate(file),
        "is a file, not a folder": lambda: bench.finetune(out=file, **full),
        "cannot write": lambda: bench.finetune(out=file / "run", **full),
        "no model given": lambda: bench.soup([]),
    }
    for says, call in cases.items():
        with pytest.raises(StateError, match=says):
            call()
    assert not any(empty.iterdir())
    assert file.read_text() == "a file"


@pytest.mark.usefixtures("_no_report")
def test_resume_begins_where_nothing_is_yet(tmp_path, capsys):
    full = {**QUICK, "method": get_method("full")}
    bench.finetune(out=tmp_path / "new", resume=True, **full)
    one = {**ALONE, "methods": [get_method("full")], "lrs": (1e-3,)}
    bench.compare(out=tmp_path / "grid", resume=True, **one)
    assert capsys.readouterr().err.count("starting a new one there") == 2
    bench.finetune(out=tmp_path / "whole", **full)
    models = [tmp_path / name / "model.safetensors" for name in ("new", "whole")]
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.fixture
def finished(tmp_path):
    bench.finetune(out=tmp_path / "run", method=get_method("full"), **QUICK)
    return tmp_path / "run" / "model.safetensors"


@pytest.mark.usefixtures("_no_report")
def test_every_flipped_bit_of_a_model_is_noticed(finished):
    content, generator = finished.read_bytes(), random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        finished.write_bytes(damaged)
        with pytest.raises(StateError, match=r"model\.safetensors"):
            load_model(finished)


ABOUT = {
    "nothing": lambda a: a.clear(),
    "no method": lambda a: a.pop("method"),
    "a number": lambda a: a.update(method=1),
    "a list": lambda a: a.update(options=[1]),
    "nan": lambda a: a.update(options={"a": math.nan}),
    "a huge number": lambda a: a.update(options={"a": 10**400}),
    "classes": lambda a: a.update(classes="abcd"),
    "a class": lambda a: a.update(classes=["a", None]),
    "task": lambda a: a.update(task="toy"),
    "more": lambda a: a.update(more=1),
    "digest": lambda a: a.update(digest=None),
    "no digest": lambda a: a.pop("digest"),
}
TEXTS = ["", "{", "null", "[]", '"x"', "3", "[" * 10_000, '{"benchmark": ' * 5000, "{}" * 2]


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("what", [*ABOUT, *TEXTS], ids=lambda what: what[:14])
def test_a_model_that_says_odd_things_of_itself_is_refused(what, finished):
    state, about = load_model(finished)
    if what in ABOUT:
        ABOUT[what](about)
    text = json.dumps(about) if what in ABOUT else what
    finished.write_bytes(save(state, {"gmixout": text}))
    with pytest.raises(StateError, match=r"model\.safetensors was not written by gmixout"):
        load_model(finished)


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("content", [b"", b"half", None])
def test_a_finished_run_whose_model_is_damaged_is_trained_again(content, finished, capsys):
    whole = finished.read_bytes()
    finished.write_bytes(whole[: len(whole) // 2] if content == b"half" else content or b"")
    if content is None:
        finished.unlink()
        finished.mkdir()
        with pytest.raises(StateError, match=r"model\.safetensors is not a file"):
            bench.finetune(out=finished.parent, resume=True, method=get_method("full"), **QUICK)
        return
    capsys.readouterr()
    bench.finetune(out=finished.parent, resume=True, method=get_method("full"), **QUICK)
    assert "trained again" in capsys.readouterr().err
    assert finished.read_bytes() == whole
    assert len(records(finished.parent)) == 1


NOTES = [
    "",
    "[]",
    "x: [",
    "\x00",
    "a: &a [*a]",
    "[" * 3000,
    "a: 1e999",
    "2024-01-01: x",
    "a: !!set",
]


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("name", ["config.yaml", "identity.json"])
@pytest.mark.parametrize("text", NOTES, ids=lambda text: text[:12] or "empty")
def test_damaged_notes_of_a_run_are_named_and_kept(name, text, finished):
    file = finished.parent / name
    mark = "# A gmixout run: what was run, with every setting.\n" if name == "config.yaml" else ""
    file.write_text(mark + text)
    with pytest.raises(StateError, match=rf"{name}|another run|hold"):
        bench.finetune(out=finished.parent, resume=True, method=get_method("full"), **QUICK)
    assert file.read_text() == mark + text


@pytest.mark.parametrize("launcher", ["accelerate", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_one_of_several_processes_leaves_no_folder(launcher, tmp_path, monkeypatch):
    if launcher == "accelerate":
        monkeypatch.setattr(processes.PartialState(), "num_processes", 2)
    else:
        monkeypatch.setenv(launcher, "2")
    with pytest.raises(ConfigError, match="one of 2 processes"):
        bench.compare(out=tmp_path / "run", **QUICK)
    if launcher != "accelerate":  # which finetune would join
        with pytest.raises(ConfigError, match="started 2 processes, of which 1 were joined"):
            bench.finetune(out=tmp_path / "run", **QUICK)
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("_no_report")
def test_a_run_that_ends_below_its_start_says_so(tmp_path, monkeypatch, capsys):
    good, gentle = tmp_path / "good", {**ALONE, "methods": [get_method("full")], "steps": 200}
    bench.compare(out=good, lrs=(1e-2,), head_lr=None, **{**gentle, "steps": 200})
    start, _ = load_model(next(good.glob("runs/*")))

    def trained():
        model = net()
        model.load_state_dict(start)
        return model

    install(monkeypatch, lambda: toy_task(trained()))
    capsys.readouterr()
    wild = {**QUICK, "lr": 30.0, "head_lr": 30.0}
    bench.finetune(out=tmp_path / "wild", method=get_method("full"), **wild)
    (record,) = records(tmp_path / "wild")
    assert record.below_start in record.notes
    assert "below its start of" in record.below_start
    assert f"full lr=30 seed=0 {record.below_start}" in capsys.readouterr().err
    options = {**ALONE, "head_lr": 30.0, "methods": [get_method(n) for n in ("zero_shot", "full")]}
    bench.compare(out=tmp_path / "both", lrs=(30.0, 0.0), **options | {"head_lr": None})
    said = capsys.readouterr().err
    assert said.count("below its start of") == 1
    assert [r.lr for r in records(tmp_path / "both") if r.below_start] == [30.0]


@pytest.mark.usefixtures("_no_report")
def test_a_damaged_checkpoint_is_reported_and_kept(tmp_path):
    settings = {**QUICK, "method": get_method("full"), "out": tmp_path}
    bench.finetune(**settings)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(StateError, match=r"truncated.*--overwrite"):
        bench.finetune(**settings, resume=True)
    assert (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"benchmark": "imagenot"}, "digits"),
        ({"lrs": ()}, "at least one"),
        ({"lrs_of": {"full": []}}, "at least one"),
        (
            {"lrs_of": {"wise_ft": [1e-3]}},
            "lrs_of names wise_ft, which is not a method that is trained",
        ),
        ({"lrs": (1e-3, -1.0)}, r"lr=-1\.0"),
        ({"methods": []}, "at least one"),
    ],
)
def test_a_wrong_comparison_leaves_no_folder(tmp_path, settings, says):
    with pytest.raises(GmixoutError, match=says):
        bench.compare(**{**ALONE, "out": tmp_path / "out", **settings})
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_no_report")
def test_soups_take_the_runs_of_their_seed(tmp_path, trainings):
    methods = [get_method("full"), get_method("uniform_soup"), get_method("greedy_soup")]
    settings = {**ALONE, "lrs": (1e-3, 1e-2), "seeds": (0, 1), "out": tmp_path}
    found = bench.compare(methods=methods, **settings)
    assert len(trainings) == 4  # soups train nothing
    soups = [record for record in found if record.method.name == "uniform_soup"]
    assert [(record.seed, record.lr, len(record.pool)) for record in soups] == [
        (0, None, 2),
        (1, None, 2),
    ]
    runs = [r for r in found if r.method.name == "full" and r.seed == 1]
    assert soups[1].steps == sum(record.steps for record in runs)
    states = [load_file(tmp_path / "runs" / r.run / "model.safetensors") for r in runs]
    saved = load_file(tmp_path / "runs" / soups[1].run / "model.safetensors")
    for key, value in uniform_soup(states).items():
        assert torch.equal(saved[key], value)
    assert bench.evaluate(tmp_path / "runs" / soups[1].run) == soups[1].of("accuracy")
    assert bench.compare(methods=methods, **settings, resume=True) == found
    with pytest.raises(ConfigError, match="gmixout compare --methods greedy_soup"):
        bench.finetune(method=get_method("greedy_soup"), out=tmp_path / "one", **QUICK)


@pytest.fixture
def fail_at_lr_1(monkeypatch):
    """Lets the training at learning rate 1 end with an error of one's own."""
    train = job_module.train

    def use(error):
        def failing(model, start, dataset, arguments, *rest, **named):
            if arguments.lr == 1.0:
                raise error
            return train(model, start, dataset, arguments, *rest, **named)

        monkeypatch.setattr(job_module, "train", failing)

    return use


@pytest.mark.usefixtures("_no_report")
def test_a_run_that_fails_fails_alone(tmp_path, fail_at_lr_1):
    fail_at_lr_1(TrainingError("the loss is nan"))
    settings = {**ALONE, "methods": [get_method("full"), get_method("uniform_soup")]}
    with pytest.raises(TrainingError, match=r"1 of 2 runs failed.*full lr=1 seed=0: the loss is"):
        bench.compare(lrs=(1.0, 1e-2), out=tmp_path, **settings)
    assert [(r.method.name, len(r.pool)) for r in records(tmp_path)] == [
        ("full", 0),
        ("uniform_soup", 1),
    ]


@pytest.mark.usefixtures("_no_report")
def test_an_error_nobody_foresaw_ends_its_own_run_alone(tmp_path, fail_at_lr_1):
    fail_at_lr_1(RuntimeError("CUDA out of memory"))
    settings = {**ALONE, "methods": [get_method("full")], "out": tmp_path}
    with pytest.raises(TrainingError, match=r"RuntimeError: CUDA out of memory.*error\.txt"):
        bench.compare(lrs=(1.0, 1e-2), **settings)
    assert [record.lr for record in records(tmp_path)] == [1e-2]
    (note,) = tmp_path.glob("runs/*/error.txt")
    assert "in failing" in note.read_text()


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("error", [RuntimeError, TrainingError])
def test_a_failed_run_leaves_the_next_one_its_memory(tmp_path, monkeypatch, error):
    train, failed = job_module.train, []

    def fail_once(model, *rest, **named):
        if not failed:
            failed.append(weakref.ref(model))
            raise error("out of memory")
        assert failed[0]() is None
        return train(model, *rest, **named)

    monkeypatch.setattr(job_module, "train", fail_once)
    settings = {**ALONE, "methods": [get_method("full")], "out": tmp_path}
    with pytest.raises(TrainingError, match="1 of 2 runs failed"):
        bench.compare(lrs=(1e-1, 1e-2), **settings)


@pytest.mark.usefixtures("_no_report")
def test_models_on_the_way_are_recorded(tmp_path):
    method = get_method("gmixout")
    found = bench.finetune(method=method, out=tmp_path, evaluate_every_steps=2, **QUICK)
    assert [(record.step, record.final) for record in found] == [(2, False), (4, False), (6, True)]
    assert len({record.run for record in found}) == 1
    assert found[0].scores["id_test"].nll > found[-1].scores["id_test"].nll
    assert found[0].training.loss > found[-1].training.loss
    plain = bench.finetune(method=method, out=tmp_path / "plain", **QUICK)
    assert plain[0].scores == found[-1].scores  # looking changes nothing


def everything_in(folder: Path):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("way", [{"resume": True}, {"overwrite": True}], ids=str)
def test_two_processes_cannot_write_one_folder(tmp_path, way):
    settings = {**ALONE, "methods": [get_method("full")], "lrs": (1e-2,), "out": tmp_path}
    bench.compare(**settings)
    before = everything_in(tmp_path)
    with at_work(tmp_path):
        with pytest.raises(StateError, match="another gmixout process"):
            bench.compare(**{**settings, "seeds": (1,)}, **way)
        with pytest.raises(StateError, match="another gmixout process"):
            bench.finetune(method=get_method("full"), out=tmp_path, overwrite=True, **QUICK)
        assert everything_in(tmp_path) == before
    bench.compare(**settings, **way)


@pytest.mark.usefixtures("_no_report")
def test_a_method_may_have_rates_of_its_own(tmp_path):
    methods = [get_method(name) for name in ("zero_shot", "full", "gmixout", "gmixout_wise_ft")]
    own = {"gmixout": [1e-4, 1e-3], "lora": [1.0]}  # what is not asked for does no harm
    found = bench.compare(
        methods=methods, lrs=(1e-3, 1e-2), lrs_of=own, seeds=(0,), out=tmp_path, **ALONE
    )
    rates = {record.method.name: set() for record in found}
    for record in found:
        rates[record.method.name].add(record.lr)
    assert rates == {
        "zero_shot": {None},
        "full": {1e-3, 1e-2},
        "gmixout": {1e-4, 1e-3},
        "gmixout_wise_ft": {1e-4, 1e-3},
    }
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["lrs_of"] == own


@pytest.mark.usefixtures("_no_report")
def test_a_soup_brings_its_ingredients(tmp_path, trainings):
    settings = {**ALONE, "methods": [get_method("greedy_soup")], "out": tmp_path}
    found = bench.compare(lrs=(1e-3, 1e-2), **settings)
    assert [record.method.name for record in found] == ["full", "full", "greedy_soup"]
    assert found[-1].pool == [found[0].run, found[1].run]
    assert set(found[-1].members) <= set(found[-1].pool)
    trainings.clear()
    assert bench.compare(lrs=(1e-2, 1e-3), resume=True, **settings)[:3] == found
    assert trainings == []
    more = bench.compare(lrs=(1e-3, 1e-2, 3e-2), resume=True, **settings)
    assert len(trainings) == 1
    soups = [cell for cell in Study(more).settings if cell.method == "greedy_soup"]
    assert [len(record.pool) for cell in soups for record in cell.records] == [3]  # the latest


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("command", ["compare", "finetune"])
def test_a_run_is_not_resumed_on_other_data_or_from_other_weights(
    tmp_path, monkeypatch, trainings, command
):
    def known_by(**identity):
        install(monkeypatch, lambda: toy_task(identity=identity))

    settings = {"method": get_method("full"), "out": tmp_path, **QUICK}
    if command == "compare":
        settings = {"methods": [get_method("full")], "lrs": (1e-2,), "out": tmp_path, **ALONE}
    images = {"train": "a1", "photo": "b2"}
    known_by(pretrained="c3", images=images, shares=(0.1, 0.2))
    getattr(bench, command)(**settings)
    before = everything_in(tmp_path)
    trainings.clear()
    getattr(bench, command)(**settings, resume=True)
    for changed, says in {
        r"pretrained \(c3 there, d4 now\)": {"pretrained": "d4", "images": images},
        r"images\.photo \(b2 there, absent now\)": {"pretrained": "c3", "images": {"train": "a1"}},
    }.items():
        known_by(**says, shares=(0.1, 0.2))
        with pytest.raises(StateError, match=f"another run: {changed}. Resume with the same data"):
            getattr(bench, command)(**settings, resume=True)
    assert trainings == []
    assert everything_in(tmp_path) == before
    (tmp_path / "identity.json").write_text("torn")
    with pytest.raises(StateError, match=r"identity\.json cannot be read.*--overwrite"):
        getattr(bench, command)(**settings, resume=True)
    getattr(bench, command)(**settings, overwrite=True)
    assert len(trainings) == 1


@pytest.mark.usefixtures("_no_report")
def test_what_a_config_does_not_have_yet_is_at_its_default(tmp_path, trainings):
    settings = {**ALONE, "methods": [get_method("full")], "lrs": (1e-2,), "out": tmp_path}
    first = bench.compare(**settings)
    trainings.clear()
    file = tmp_path / "config.yaml"
    text = file.read_text()
    for newer in ("num_workers: null\n", "ema_decay: null\n"):
        assert newer in text
        file.write_text(text.replace(newer, ""))
        assert bench.compare(**settings, resume=True) == first
    file.write_text(text.replace("ema_decay: null\n", ""))
    with pytest.raises(StateError, match=r"ema_decay \(None there, 0.5 now\)"):
        bench.compare(**settings, ema_decay=0.5, resume=True)
    assert trainings == []


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("held", [None, {"name": "toy"}, {"schema": 1}])
def test_a_run_of_an_older_schema_is_not_begun_anew_in_silence(held, tmp_path, trainings):
    settings = {**ALONE, "methods": [get_method("full")], "lrs": (1e-2,), "out": tmp_path}
    bench.compare(**settings)
    trainings.clear()
    (tmp_path / "identity.json").unlink()
    if held:
        (tmp_path / "identity.json").write_text(json.dumps(held))
    with pytest.raises(StateError, match=rf"schema 1, now {IDENTITY_SCHEMA}\): it can be"):
        bench.compare(**settings, resume=True)
    assert trainings == []


@pytest.mark.usefixtures("_no_report")
def test_processes_that_load_images_do_so_for_every_model(tmp_path, monkeypatch):
    asked = []

    def counting(dataset, device, num_workers, **batching):
        asked.append(num_workers)
        return alone(dataset, device, num_workers, **batching)

    def alone(dataset, device, num_workers, **batching):
        return make_loader(dataset, device, 0, **batching)

    monkeypatch.setattr(metrics, "make_loader", counting)
    monkeypatch.setattr(trainer, "make_loader", alone)  # training has tests of its own
    settings = {**ALONE, "methods": [get_method("greedy_soup")], "out": tmp_path}
    found = bench.compare(lrs=(1e-3, 1e-2), num_workers=2, **settings)
    runs = [tmp_path / "runs" / record.run for record in found if not record.pool]
    bench.soup(runs, out=tmp_path / "soup", num_workers=2)
    bench.interpolate(*runs, out=tmp_path / "between", num_workers=2)
    bench.evaluate(runs[0], num_workers=2)
    bench.diagnose(runs[0], members=1, repeats=1)
    assert set(asked) == {2}


@pytest.mark.usefixtures("_no_report")
def test_damaged_records_are_found_before_training(tmp_path, trainings):
    settings = {**ALONE, "methods": [get_method("full")], "lrs": (1e-2,), "out": tmp_path}
    bench.compare(**settings)
    log = tmp_path / "records.jsonl"
    log.write_text("damaged\n" + log.read_text())
    trainings.clear()
    with pytest.raises(StateError, match="line 1: not a line of JSON"):
        bench.compare(**{**settings, "lrs": (1e-2, 1e-3)}, resume=True)
    assert trainings == []


def test_memory_does_not_depend_on_which_run_comes_first(tmp_path):
    """In a process of its own, where nothing is imported yet; then each method runs once more."""
    program = (
        "import sys, importlib; from gmixout.cli import main\n"
        "report = importlib.import_module('gmixout.bench.commands.report')\n"
        "report.write_report = lambda *_, **__: []\n"
        "sys.exit(main())"
    )
    words = ["compare", "--benchmark", "toy_benchmark:toy_task", "--methods", "full,gmixout"]
    words += ["--lrs", "1", "--seeds", "0,1", "--workers", "1", "--out", str(tmp_path)]
    words += ["--steps", "4", "--batch_size", "8"]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", "-c", program, *words]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    peaks = [record.training.peak_memory_bytes / 2**20 for record in records(tmp_path)]
    assert len(peaks) == 4
    assert max(peaks) - min(peaks) < 20  # MB; imports took 150


@pytest.mark.usefixtures("_no_report")
def test_all_methods_are_all_that_the_model_allows(tmp_path, capsys):
    found = bench.compare(methods="all", lrs=(1e-2,), out=tmp_path, **ALONE)
    assert {record.method.name for record in found} == METHODS.keys() - {"shira", "lp_ft"}
    said = " ".join(capsys.readouterr().err.split())
    assert "lp_ft(probe_steps=100) in a run of 6 steps would never train the backbone" in said
    assert "shira is left out: shira(rank=8) trains" in said


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("wrap", [lambda of: of, lambda of: get_method("swa", of=of)])
def test_a_run_that_would_only_probe_is_refused(tmp_path, wrap):
    """LP-FT by name and a linear probe in fact, with nobody told."""
    for probe_steps in (5, 6):
        method = wrap(get_method("lp_ft", probe_steps=probe_steps))
        if probe_steps < 6:
            assert bench.finetune(method=method, out=tmp_path / "fine", **QUICK)
            continue
        with pytest.raises(ConfigError, match="never train the backbone: set probe_steps below 6"):
            bench.finetune(method=method, out=tmp_path / "probe", **QUICK)
    assert not (tmp_path / "probe").exists()


@pytest.mark.usefixtures("_no_report")
def test_models_of_different_starts_are_not_averaged(tmp_path, monkeypatch):
    bench.finetune(method=get_method("full"), out=tmp_path / "a", **QUICK)
    install(monkeypatch, lambda: toy_task(other_net()))
    bench.finetune(method=get_method("full"), out=tmp_path / "b", **QUICK)
    for make in (
        lambda: bench.soup([tmp_path / "a", tmp_path / "b"], out=tmp_path / "c"),
        lambda: bench.interpolate(tmp_path / "a", tmp_path / "b", out=tmp_path / "c"),
    ):
        with pytest.raises(StateError, match="share their pretrained start"):
            make()
    assert not (tmp_path / "c").exists()


def other_net():
    model = net()
    with torch.no_grad():
        model.head.bias += 1
    return model


def test_a_sweep_names_what_cannot_be_swept(tmp_path):
    with pytest.raises(ConfigError, match=r"no option rate; its options: mask_rate, "):
        bench.sweep(over={"rate": [0.5]}, out=tmp_path / "out", **ALONE)
    with pytest.raises(ConfigError, match="no values to try for mask_rate"):
        bench.sweep(over={"mask_rate": []}, out=tmp_path / "out", **ALONE)
    with pytest.raises(ConfigError, match="workers=0"):
        bench.compare(methods=[get_method("full")], out=tmp_path / "o", **{**ALONE, "workers": 0})
