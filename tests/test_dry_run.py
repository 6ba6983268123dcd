"""What runs would take: the arithmetic, and what is measured, said and left behind."""

from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_benchmark import install, toy

from gmixout import bench
from gmixout.bench import task as task_module
from gmixout.bench.costs import Costs, MethodCosts
from gmixout.bench.grid import Grid
from gmixout.bench.task import Task
from gmixout.cost_model import DEVICES
from gmixout.errors import ConfigError
from gmixout.methods import get_method
from gmixout.methods.average import swa
from gmixout.methods.probing import lp_ft
from gmixout.training import TrainingArguments

dry_run = import_module("gmixout.bench.dry_run")
QUICK = {"benchmark": "toy", "batch_size": 8}


@pytest.fixture(autouse=True)
def _toy(monkeypatch, tmp_path):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # of the table, so that no name is broken
    task_module._load.cache_clear()
    yield
    task_module._load.cache_clear()


seconds, counts = st.floats(0, 10), st.integers(0, 2**20)
kinds = st.builds(
    MethodCosts,
    name=st.just("full"),
    runs=st.integers(1, 5),
    models=st.integers(1, 5),
    steps=st.integers(0, 100),
    step_seconds=seconds,
    peak_memory_bytes=counts,
    fits=st.booleans(),
)
several = st.builds(
    Costs,
    kinds=st.lists(kinds, min_size=1, max_size=4).map(tuple),
    soups=st.integers(0, 3),
    images=st.integers(1, 1000),
    batch_size=st.integers(1, 64),
    loading=seconds,
    forward=seconds,
    processes=st.integers(0, 8),
    workers=st.integers(1, 4),
    devices=st.integers(1, 4),
    model_bytes=counts,
    evaluation_bytes=counts,
)


def each_run(costs):
    return [costs.run_seconds(k) for k in costs.kinds if k.fits for _ in range(k.runs)]


@given(several)
def test_one_worker_takes_the_sum_and_more_take_a_fair_share_or_the_longest(costs):
    soups = costs.soups * costs.evaluation_seconds
    runs = each_run(costs)
    alone = replace(costs, workers=1).seconds
    assert alone == pytest.approx(sum(runs) + soups)
    least = max([sum(runs) / costs.workers, *runs]) + soups
    assert least <= costs.seconds * (1 + 1e-9)
    assert costs.seconds <= alone * (1 + 1e-9)


@given(several)
def test_loading_beside_the_run_is_free_until_it_sets_the_pace(costs):
    inside, beside = replace(costs, processes=0), replace(costs, processes=1)
    for kind in costs.kinds:
        loading = costs.batch_size * costs.loading
        assert inside.step_seconds(kind) == pytest.approx(kind.step_seconds + loading)
        assert beside.step_seconds(kind) in (kind.step_seconds, loading)
        assert beside.run_seconds(kind) <= inside.run_seconds(kind) * (1 + 1e-9)


@given(several, st.integers(1, 5))
def test_a_run_takes_its_steps_and_the_evaluations_of_its_models(costs, more):
    for kind in costs.kinds:
        longer = replace(kind, steps=kind.steps + more, models=kind.models + more)
        added = more * (costs.step_seconds(kind) + costs.evaluation_seconds)
        assert costs.run_seconds(longer) == pytest.approx(costs.run_seconds(kind) + added)


@given(several)
def test_memory_is_that_of_the_largest_run_for_each_run_on_a_device(costs):
    alone = replace(costs, workers=1).memory_bytes
    for kind in costs.kinds:
        assert costs.model_bytes + kind.peak_memory_bytes <= alone
    assert costs.memory_bytes == alone * -(-costs.workers // costs.devices)
    assert replace(costs, devices=costs.workers).memory_bytes == alone


@given(several)
def test_there_is_a_file_for_each_run_and_soup(costs):
    one_more = replace(costs, soups=costs.soups + 1)
    assert one_more.disk_bytes - costs.disk_bytes == costs.model_bytes
    assert costs.disk_bytes >= costs.model_bytes * (costs.runs + costs.soups)


def measured(names, seeds=(0, 1), lrs=(1e-3, 1e-2), workers=1, on=None, **settings):
    methods = [get_method(name) if isinstance(name, str) else name for name in names]
    arguments = TrainingArguments(**{"batch_size": 8, "steps": 40, **settings})
    grid = Grid(Task("toy"), methods, lrs, seeds, arguments, Path("out"), workers)
    return dry_run.measure_costs(grid, methods, None if on is None else DEVICES[on])


def test_runs_and_models_are_counted_as_a_comparison_makes_them():
    names = ["zero_shot", "full", "wise_ft", "uniform_soup", "gmixout"]
    costs = measured(names, evaluate_every_steps=10)
    assert (costs.runs, costs.soups, costs.workers) == (1 + 4 + 4, 2, 1)
    assert costs.images == 40 + 60 + 50 + 50
    pretrained, full, gmixout = costs.kinds
    assert (pretrained.runs, pretrained.models, pretrained.steps) == (1, 1, 0)
    assert (full.runs, full.models, full.steps) == (4, 1 + 5 + 3, 40)
    assert "wise_ft" in full.name
    assert gmixout.models == 1 + 3
    assert 0 < gmixout.trainable < full.trainable
    assert full.step_seconds > 0


def test_loading_is_measured_apart_from_computing(monkeypatch):
    delay, batch = 0.004, 8
    monkeypatch.setenv("TOY_SECONDS_AN_IMAGE", str(delay))
    costs = measured(["full"], batch_size=batch)
    assert costs.loading >= delay
    (kind,) = costs.kinds
    assert kind.step_seconds < batch * delay <= costs.step_seconds(kind)


@pytest.mark.parametrize("method", [lp_ft(probe_steps=30), swa(of=lp_ft(probe_steps=30))], ids=str)
def test_the_phase_that_trains_everything_is_measured(monkeypatch, method):
    trained, real = [], dry_run.train

    def train(pretrained, start, *more, **options):
        start = partial(noting, start)
        return real(pretrained, start, *more, **options)

    def noting(start, pretrained):
        finetuning = start(pretrained)
        trained.append(all(p.requires_grad for p in pretrained.model.parameters()))
        return finetuning

    monkeypatch.setattr(dry_run, "train", train)
    measured([method], steps=40)
    assert trained == [True]


@pytest.mark.parametrize("processes", [0, 2])
def test_a_batch_is_the_first_that_training_would_see(processes):
    settings = TrainingArguments(batch_size=8, num_workers=processes)
    batch, _ = dry_run._load(toy().train, settings)
    assert batch.images.shape == (8, 1, 3, 3)
    assert len(batch) == 8


def test_every_command_that_trains_says_it_and_writes_nothing(tmp_path, capsys, rng_untouched):
    with rng_untouched():
        assert bench.finetune(dry_run=True, **QUICK) == []
        assert bench.compare(dry_run=True, workers=1, **QUICK) == []
        assert bench.sweep(dry_run=True, workers=1, over={"mask_rate": [0.5, 0.75]}, **QUICK) == []
    printed = capsys.readouterr().out
    assert printed.count("Nothing was written") == 3
    assert "mask_rate=0.75" in printed
    assert "train 24, id_val 40, id_test 60, noise 100" in printed
    assert "runs 1 " in printed
    assert list(tmp_path.iterdir()) == []


def test_methods_that_cannot_go_with_the_model_are_named(capsys):
    wrong = get_method("shira")  # its rank 8 is for larger layers
    with pytest.raises(ConfigError):
        bench.compare(methods=[wrong, get_method("full")], **QUICK)
    bench.compare(methods=[wrong, get_method("full")], dry_run=True, workers=1, **QUICK)
    printed = capsys.readouterr().out
    assert "shira does not work with this model: shira(rank=8)" in printed
    assert "full" in printed
    with pytest.raises(ConfigError, match="none of the methods"):
        bench.compare(methods=[wrong], dry_run=True, **QUICK)


def test_too_little_memory_is_said_of_the_method_that_needs_more(monkeypatch, capsys):
    real = dry_run.train

    def train(pretrained, start, *more, **options):
        def begin(pretrained):
            finetuning = start(pretrained)
            if type(finetuning).__name__ != "DenseFinetuning":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return finetuning

        return real(pretrained, begin, *more, **options)

    monkeypatch.setattr(dry_run, "train", train)
    monkeypatch.setattr(dry_run, "SMALL_GPU", 10)
    methods = [get_method("full"), get_method("mixout")]
    bench.compare(methods=methods, dry_run=True, workers=1, **QUICK)
    printed = capsys.readouterr().out
    assert "warning: mixout does not fit" in printed
    assert "full does not fit" not in printed
    assert "more than a 24 GB GPU has" in printed
    assert "more than this device has" not in printed


def test_a_disk_that_is_too_small_is_said(monkeypatch, capsys):
    usage = dry_run.shutil.disk_usage(".")
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda _: usage._replace(free=10))
    bench.finetune(dry_run=True, **QUICK)
    assert "warning: models take" in capsys.readouterr().out


def test_costs_of_a_gpu_are_predicted_without_training(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(dry_run, "train", None)
    small = replace(DEVICES["l4"], memory_bytes=dry_run.CONTEXT + 4000)
    monkeypatch.setitem(DEVICES, "l4", small)
    methods = [get_method("full"), get_method("gmixout")]
    bench.compare(methods=methods, dry_run=True, device_spec="RTX 4090", **QUICK)
    printed = capsys.readouterr().out
    assert "NVIDIA GeForce RTX 4090 24 GB, 24.00 GiB; predicted" in printed
    assert "does not fit" not in printed
    assert "Nothing was written" in printed
    bench.finetune(method=get_method("full"), dry_run=True, device_spec="l4", **QUICK)
    assert "warning: full does not fit" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_predicted_steps_follow_precision_and_size():
    def kind(**settings):
        return measured(["gmixout"], lrs=(1e-3,), seeds=(0,), **settings, on="l4").kinds[0]

    few, many = kind(), kind(batch_size=24)
    assert few.step_seconds <= many.step_seconds
    assert few.peak_memory_bytes < many.peak_memory_bytes
    assert few.trainable == many.trainable > 0
    assert kind(mixed_precision="fp16", max_grad_norm=1.0).step_seconds > 0


def test_a_device_that_is_not_known_or_not_asked_for_is_refused():
    with pytest.raises(ConfigError, match="did you mean rtx4090"):
        bench.finetune(dry_run=True, device_spec="rtx4080", **QUICK)
    with pytest.raises(ConfigError, match="add --dry-run"):
        bench.compare(device_spec="h100", **QUICK)
