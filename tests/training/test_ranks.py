"""Processes that share a run take the steps of one process."""

import os
import socket
from functools import partial

import pytest
import torch
import torch.multiprocessing as mp
import toy_benchmark
from hypothesis import given
from hypothesis import strategies as st
from toy_benchmark import Toy, net, toy_pretrained

from gmixout.bench import finetune
from gmixout.bench.crew import check_same
from gmixout.errors import GmixoutError
from gmixout.evaluation.metrics import predict
from gmixout.methods import get_method
from gmixout.ranks import Ranks, together
from gmixout.regularizers import REGULARIZERS
from gmixout.results import RunFolder
from gmixout.results.model_file import load_model
from gmixout.tasks import multi_label
from gmixout.training import TrainingArguments, train
from gmixout.training.processes import launched_ranks

STEPS = 8
RUNS = {
    "full": ("full", {}),
    "parts of parts": ("full", {"accumulate": 3}),
    "ema": ("ema", {}),
    "even classes": ("full", {"batches": "even_classes", "label_smoothing": 0.1}),
    "sam": ("full+sam", {}),
    "teacher": ("full", {"regularizers": (REGULARIZERS["teacher"](),)}),
    "gmixout": ("gmixout(resample_every=2)", {}),
    "gmixout, parts of parts": ("gmixout(resample_every=2)", {"accumulate": 2}),
    "element": ("gmixout(resample_every=2,structure='element')", {}),
    "column": ("gmixout(resample_every=2,structure='column')", {}),
    "depth": ("gmixout(resample_every=2,mean_start_depth=0.5)", {}),
    "persist": ("gmixout(resample_every=2,residual='persist')", {}),
    "pull": ("gmixout(resample_every=2,anchor_pull=0.2)", {}),
    "mixout": ("mixout", {}),
    "lora": ("lora(rank=2)", {}),
}
"""Methods and settings."""
REFUSED = {
    "group_dro": ("full+group_dro", {"batch_size": 7}),
    "lp_ft": ("lp_ft", {}),
    "one image": ("full", {"batch_size": 1}),
    "batch norm": ("full", {"freeze_batch_norm": False}),
}


class Doubles(Toy):
    """Images in float64; classes serve as domains."""

    def __init__(self, *toy) -> None:
        super().__init__(*toy)
        self.groups, self.group_names = self.labels, tuple("abcd")

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image.double(), label


def run(name, checkpoint=None, on_progress=lambda *_: None, norm=False, **settings):
    model = net().double()
    model.dropout.p = 0.0  # draws follow the number of processes
    if norm:
        model.body = torch.nn.Sequential(model.body, torch.nn.BatchNorm1d(12).double())
    given = {"steps": STEPS, "batch_size": 7, "lr": 1e-2, "log_every_steps": 1}
    given |= {"max_grad_norm": 0.5, "checkpoint_every_steps": 3}
    method = get_method(name)
    return train(
        toy_pretrained(model),
        partial(method.start, seed=3),
        Doubles(24, 0.3, 1),
        TrainingArguments(**given | settings),
        checkpoint,
        "run",
        on_progress,
        regularizers=method.regularizers,
    )


def stop_at(wanted):
    def on_progress(step, loss):
        if step == wanted:
            os.kill(os.getpid(), 15)

    return on_progress


def message(function, *arguments, **named) -> str:
    """The error that a function raises, by its class and text."""
    try:
        function(*arguments, **named)
    except (GmixoutError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


class Spoilt(Toy):
    """The label of one image is none of the classes'."""

    def __init__(self, *toy) -> None:
        super().__init__(*toy)
        self.labels[-1] = 9


class Several(Toy):
    """Any number of labels for each image."""

    def __init__(self, *toy) -> None:
        super().__init__(*toy)
        self.labels = torch.nn.functional.one_hot(self.labels, toy_benchmark.CLASSES).float()

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


class Projected(Spoilt):
    """Images of classes of their own."""

    def project(self, logits):
        return logits[:, :2]


def work(rank, count, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with launched_ranks() as ranks:
        assert (ranks.rank, ranks.count, ranks.leads) == (rank, count, rank == 0)
        found = {}
        with together(ranks):
            for case, (name, settings) in RUNS.items():
                result = run(name, **settings)
                found[case] = (result.losses, result.model.state_dict(), result.trainable)
            for case, (name, settings) in REFUSED.items():
                found[case] = message(run, name, norm=case == "batch norm", **settings)
            gmixout = RUNS["gmixout"][0]
            found["stopped"] = message(
                run, gmixout, folder / "ranks.pt", stop_at(5) if rank == count - 1 else no_stop
            )
            found["resumed"] = run(gmixout, folder / "alone.pt").model.state_dict()
            found["nan"] = message(run, "full", lr=1e308, max_grad_norm=None)
            model = net()
            for size in (1, 2, 7):
                found[f"predict {size}"] = predict(model, Toy(size, 0.3, 2))
                found[f"several {size}"] = predict(model, Several(size, 0.3, 2), task=multi_label())
                found[f"unknown {size}"] = predict(model, Projected(size, 0.3, 2), unknown=True)
            found["label"] = message(predict, model, Spoilt(5, 0.3, 2))
        found["other runs"] = message(check_same, ranks, f"run {rank}")
        toy_benchmark.register()
        settings = {"steps": 6, "batch_size": 7, "log_every_steps": 1, "evaluate_every_steps": 2}
        settings |= {"select": "id_validation"}
        records = finetune("toy", out=folder / "finetune", **settings)
        found["records"] = [record.to_json() for record in records]
    torch.save(found, folder / f"{rank}.pt")


def no_stop(step, loss):
    pass


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.long)])
def found(request, tmp_path_factory):
    """What each process has, and their folder: they import torch anew, which takes most time."""
    count, folder = request.param, tmp_path_factory.mktemp("ranks")
    assert "TrainingInterrupted" in message(
        run, RUNS["gmixout"][0], folder / "alone.pt", stop_at(4)
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (count, port, folder), nprocs=count)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)], folder


def close(one, other, within=1e-6):
    # masked values are float32, whatever the model is
    torch.testing.assert_close(one, other, rtol=0, atol=within)


@pytest.mark.parametrize("case", RUNS)
def test_ranks_train_as_one(found, case):
    ranks, _ = found
    name, settings = RUNS[case]
    alone = run(name, **settings)
    masked = name.startswith(("gmixout", "mixout"))
    for losses, state, trainable in (each[case] for each in ranks):
        close(state, alone.model.state_dict(), 1e-6 if masked else 1e-11)
        assert losses == pytest.approx(alone.losses, rel=1e-6 if masked else 1e-9)
        assert trainable == alone.trainable
        close(state, ranks[0][case][1], 0)


@pytest.mark.parametrize("case", REFUSED)
def test_what_ranks_cannot_share_is_refused(found, case):
    wanted = {
        "group_dro": "cannot share a batch with group_dro",
        "lp_ft": "frozen at first",
        "one image": "less than one image for each of",
        "batch norm": "freeze_batch_norm=False",
    }
    for each in found[0]:
        assert each[case].startswith("ConfigError")
        assert wanted[case] in each[case]


def test_a_run_stops_on_all_ranks_and_goes_on_with_another_number(found):
    ranks, folder = found
    assert {each["stopped"] for each in ranks} == {"TrainingInterrupted: stopped after step 6 of 8"}
    name, settings = RUNS["gmixout"]
    whole = run(name, **settings).model.state_dict()
    for each in ranks:
        close(each["resumed"], whole)  # from one process to several
    close(run(name, folder / "ranks.pt").model.state_dict(), whole)  # and back


def test_one_rank_reports_an_error_that_all_have(found):
    first, *others = found[0]
    assert first["nan"].startswith("DivergedError: the loss is")
    assert first["label"].startswith("DataError")
    assert "label 9 is out of range" in first["label"]
    assert first["other runs"].startswith("ConfigError: process 1 has another run")
    for each in others:
        assert all(
            each[name].startswith("FollowedError") for name in ("nan", "label", "other runs")
        )


def test_predictions_of_parts_are_the_whole(found):
    for size in (1, 2, 7):
        logits, labels = predict(net(), Toy(size, 0.3, 2))
        for each in found[0]:
            close(each[f"predict {size}"][0], logits)
            assert torch.equal(each[f"predict {size}"][1], labels)
            assert torch.equal(each[f"several {size}"][1], Several(size, 0.3, 2).labels)
            # logits of all of the model's classes, and labels that it does not have
            close(each[f"unknown {size}"][0], logits)
            assert each[f"unknown {size}"][1][-1] == 9


def test_rank_0_alone_writes_the_folder(found):
    ranks, folder = found
    own = RunFolder(folder / "finetune")
    records = own.log.read()
    assert [record.step for record in records] == [2, 4, 6]
    assert all(each["records"] == ranks[0]["records"] for each in ranks)
    assert records[-1].training.kept_step in range(1, 7)
    assert {part.examples for part in records[-1].scores.values()} == {40, 60, 50}
    state, _ = load_model(own.path)
    assert state.keys() == net().state_dict().keys()


@given(st.integers(0, 50), st.integers(1, 9))
def test_parts_are_a_partition_into_almost_equal_runs(size, count):
    parts = [Ranks(rank, count).part(size) for rank in range(count)]
    assert [place for part in parts for place in part] == list(range(size))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
