"""`--tune`: the learning rate by in-domain validation alone, in a budget that is said before."""

import itertools

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from toy_benchmark import Toy, install, toy, toy_pretrained

from gmixout import bench
from gmixout.bench import job as job_module
from gmixout.bench.task import Task
from gmixout.bench.tuning import Search, ValidationTask
from gmixout.cli import main
from gmixout.errors import ConfigError, DivergedError, StateError, TrainingError
from gmixout.methods import get_method
from gmixout.results import RunFolder
from gmixout.training import TrainingArguments, TrainingInterrupted

FULL = get_method("full")
QUICK = {"steps": 120, "batch_size": 8, "lr": 1e-3}


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    install(monkeypatch)
    monkeypatch.setattr("gmixout.bench.grid.workers_for", lambda small, asked=None: (1, 1))


class Rates(list):
    """The rates of the runs so far, and what happens to some."""

    diverges_above = float("inf")
    stops_at = None


@pytest.fixture
def rates(monkeypatch):
    found, real = Rates(), job_module.train

    def train(pretrained, start, dataset, arguments, *more, **named):
        if arguments.lr == found.stops_at:
            raise TrainingInterrupted("stop")
        found.append(arguments.lr)
        if arguments.lr > found.diverges_above:
            raise DivergedError("the loss is nan")
        return real(pretrained, start, dataset, arguments, *more, **named)

    monkeypatch.setattr(job_module, "train", train)
    return found


def tune(out, count=True, method=FULL, **settings):
    (record,) = bench.finetune("toy", method=method, out=out, tune=count, **QUICK | settings)
    return record


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("_no_report")
def test_the_best_rate_on_validation_is_the_runs(tmp_path, rates, capsys):
    record = tune(tmp_path, 3)
    tried = [3.2e-4, 1e-3, 3.2e-3]
    assert rates == [*tried, record.lr]
    held = RunFolder(tmp_path).tuning.log.read()
    assert [each.lr for each in held] == tried
    assert {each.steps for each in held} == {50}
    best = max(held, key=lambda each: (each.id_val, -each.lr))
    assert record.lr == best.lr
    assert record.steps == 120
    text = said(capsys)
    assert "tune: 3 learning rates around 0.001 (0.00032, 0.001, 0.0032), a run of 50 steps" in text
    assert "budget: 150 steps, 1.2 times those of the run itself" in text
    assert text.index("budget:") < text.index("<- chosen")
    config = (tmp_path / "config.yaml").read_text()
    assert yaml.safe_load(config)["lr"] == record.lr
    assert "tune" not in yaml.safe_load(config)
    for each in held:
        assert f"# lr {each.lr:g}: {100 * each.id_val:.1f}%" in config.replace("#   ", "# ")
    again = tune(tmp_path / "again", 3)
    assert (again.lr, again.run, again.id_val) == (record.lr, record.run, record.id_val)


class Closed(Toy):
    """Images that nobody may look at."""

    def __getitem__(self, index):
        raise AssertionError("a test image was looked at")


def test_test_images_and_shifts_are_not_looked_at(tmp_path, monkeypatch):
    closed = {"id_test": Closed(9, 0.3, 1), "shifts": {"x": Closed(9, 0.3, 1)}}
    install(monkeypatch, lambda: (toy(**closed), toy_pretrained()))
    search = Search(Task("toy"), FULL, TrainingArguments(**QUICK), 2)
    lr, _ = search.carry_out(tmp_path, resume=False, overwrite=False, comments=())
    assert lr in search.rates
    assert {*RunFolder(tmp_path).tuning.log.read()[0].scores} == {"id_val", "id_test"}
    task = ValidationTask.of_task(Task("toy"))
    assert task.load().pretrained is Task("toy").load().pretrained  # loaded once
    assert task.identity() != Task("toy").identity()


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_stopped_search_goes_on_where_it_was(place, tmp_path, rates):
    whole = tune(tmp_path / "whole", 3)
    tried = rates[:3]
    rates.clear()
    rates.stops_at = tried[place]
    with pytest.raises(TrainingInterrupted):
        tune(tmp_path / "two", 3)
    with pytest.raises(StateError, match=r"tuning already holds a run: --resume"):
        tune(tmp_path / "two", 3)
    rates.stops_at = None
    again = tune(tmp_path / "two", 3, resume=True)
    assert rates == [*tried, again.lr]
    assert (again.lr, again.run, again.id_val) == (whole.lr, whole.run, whole.id_val)
    rates.clear()
    assert tune(tmp_path / "two", 3, resume=True) == again
    assert rates == []


@pytest.mark.usefixtures("_no_report")
def test_a_rate_that_diverges_is_a_bad_one_and_not_the_end(tmp_path, rates, capsys):
    rates.diverges_above = 2e-3
    record = tune(tmp_path, 3)
    assert record.lr <= 1e-3
    assert "lr 0.0032: diverged" in said(capsys)
    rates.diverges_above = 0
    with pytest.raises(TrainingError, match="3 of 3 runs failed"):
        tune(tmp_path / "all", 3)


@pytest.mark.usefixtures("_no_report")
def test_another_failure_is_the_end(tmp_path, monkeypatch):
    def train(*_, **__):
        raise MemoryError

    monkeypatch.setattr(job_module, "train", train)
    with pytest.raises(TrainingError, match="runs failed"):
        tune(tmp_path, 2)
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.usefixtures("_no_report")
def test_of_equal_rates_the_lowest_is_taken_and_said(tmp_path, monkeypatch, capsys):
    few = toy(id_val=Toy(3, 0.0, seed=2))
    install(monkeypatch, lambda: (few, toy_pretrained()))
    record = tune(tmp_path, 3, lr=0.03, head_lr=None)
    text = said(capsys)
    levels = {each.lr: each.id_val for each in RunFolder(tmp_path).tuning.log.read()}
    best = [lr for lr, value in levels.items() if value == max(levels.values())]
    assert len(best) > 1
    assert record.lr == min(best)
    others = ", ".join(f"{lr:g}" for lr in sorted(best)[1:])
    assert f"level with {others}: the lowest is taken" in text
    assert "with 3 validation images one image is 33.3 points" in text


@pytest.mark.usefixtures("_no_report")
def test_a_run_that_is_there_is_refused_first_and_overwritten_with_its_search(tmp_path, rates):
    tune(tmp_path, 2)
    rates.clear()
    with pytest.raises(StateError, match="already holds a run"):
        tune(tmp_path, 2)
    assert rates == []
    record = tune(tmp_path, 3, overwrite=True)
    assert len(rates) == 4
    assert len(RunFolder(tmp_path).tuning.log.read()) == 3
    assert record.lr == rates[-1]
    bench.finetune("toy", method=FULL, out=tmp_path, overwrite=True, **QUICK)
    assert RunFolder(tmp_path).tuning.log.read() == []


@pytest.mark.usefixtures("_no_report")
def test_models_of_a_derived_method_are_judged_by_their_best(tmp_path, rates):
    method = get_method("wise_ft", alphas=(0.3, 0.7))
    records = bench.finetune("toy", method=method, out=tmp_path, tune=2, **QUICK)
    held = RunFolder(tmp_path).tuning.log.read()
    assert len(held) == 4
    assert {each.lr for each in records} == {max(held, key=lambda each: (each.id_val, -each.lr)).lr}


@pytest.mark.parametrize("count", [0, 1, -3, 26])
def test_numbers_that_are_none_are_refused(count, tmp_path):
    with pytest.raises(ConfigError, match=f"--tune {count}: .*from 2 to 25"):
        tune(tmp_path, count)
    assert list(tmp_path.iterdir()) == []


def test_what_has_nothing_to_search_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="trains nothing"):
        tune(tmp_path, method=get_method("zero_shot"))
    with pytest.raises(ConfigError, match="nothing around 0"):
        tune(tmp_path, lr=0.0)


@given(
    lr=st.floats(1e-7, 10), count=st.integers(2, 25), steps=st.integers(1, 10_000),
    share=st.floats(0, 0.99),
)  # fmt: skip
def test_rates_are_a_grid_around_the_given_one(lr, count, steps, share):
    arguments = TrainingArguments(
        lr=lr, steps=steps, warmup_steps=int(share * steps), soup="greedy", soup_of=2
    )
    search = Search(Task("toy"), FULL, arguments, count)
    rates = search.rates
    assert len(rates) == count
    assert lr in rates
    assert all(2.8 < b / a < 3.5 for a, b in itertools.pairwise(rates))
    assert search.short.steps <= steps
    assert search.short.soup == "none"
    assert search.short.warmup_steps <= arguments.warmup_steps


def test_on_the_command_line(tmp_path, capsys):
    words = ["finetune", "--benchmark", "toy", "--method", "full", "--steps", "8"]
    words += ["--batch-size", "8", "--out", str(tmp_path / "x"), "--tune"]
    assert main([*words, "2", "--dry-run"]) == 0
    out = capsys.readouterr()
    assert "tune: 2 learning rates" in " ".join(out.err.split())
    assert "Nothing was written" in out.out
    assert main([*words, "--dry-run"]) == 0
    assert "tune: 5 learning rates" in " ".join(capsys.readouterr().err.split())
    assert main([*words[:-1], "--no-tune", "--dry-run"]) == 0
    assert "tune:" not in capsys.readouterr().err
    assert main([*words, "many"]) == 2
    assert "--tune 'many' must be True or False or a whole number" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
