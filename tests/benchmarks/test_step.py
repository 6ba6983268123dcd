"""`benchmarks/step.py` and what it is made of, on tiny models."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import _memory
import pytest
import step
import torch
from _timing import in_turn
from _trainers import METHODS, PRECISIONS, Setting, Trainer
from hypothesis import given, settings
from hypothesis import strategies as st

TINY = Setting(
    model="vit_tiny_patch16_224",
    options={"embed_dim": 64, "num_heads": 1, "depth": 2, "img_size": 32, "num_classes": 10},
    density=0.25,
)
CHOSEN = ["full", "gmixout_row"]  # each takes processes of its own


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The raw values that the script wrote."""
    out = tmp_path_factory.mktemp("step") / "raw" / "step.json"
    words = ["--model", "test_vit", "--batch", "2", "--repeats", "1", "--density", "0.25"]
    step.main([*words, "--methods", *CHOSEN, "--out", str(out)])
    return json.loads(out.read_text())


def test_one_row_a_method(run: dict) -> None:
    table = step.make_table(run, "wall")
    assert list(table.columns[1].cells) == CHOSEN
    assert all("-" not in cell for cell in table.columns[3].cells)


def test_a_round_holds_exactly_one_redraw(run: dict) -> None:
    for method in CHOSEN[1:]:
        (rounds,) = (b["times"][method] for b in run["batches"])
        assert [sum(step["redraw"] for step in steps) for steps in rounds] == [1]


def test_kept_bytes_of_masked_weights_are_their_density(run: dict) -> None:
    memory = run["batches"][0]["memory"]
    masked, full = memory["gmixout_row"]["masked"], memory["full"]["gradient_and_optimizer_bytes"]
    kept = masked["bytes"]["gradient"] + masked["bytes"]["optimizer"]
    share = kept / sum(full[name] for name in masked["weights"])
    assert abs(share - masked["density"]) < 0.01
    assert abs(masked["density"] - 0.25) < 0.01


def test_masked_training_takes_less_memory_by_both_allocators(run: dict) -> None:
    full, row = (run["batches"][0]["memory"][m]["peak_bytes"] for m in CHOSEN[:2])
    assert full.keys() == row.keys() == _memory.ALLOCATORS.keys()
    assert 0 < row["in_use"] < full["in_use"]


def test_raw_values_name_no_host_and_no_path(run: dict) -> None:
    text = json.dumps(run)
    assert str(Path.home()) not in text
    assert str(Path(step.__file__).parents[1]) not in text
    assert sys.executable not in text
    assert os.uname().nodename not in text


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_in_every_precision(method: str, precision: str) -> None:
    setting = replace(TINY, precision=precision)
    trainer = setting.start(method, model := setting.build())
    batch = setting.make_batch(model, 2)
    before = trainer.loss(*batch).item()
    trainer.time(*batch, range(4))
    assert trainer.loss(*batch).item() < before


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("method", [m for m in METHODS if m != "linear_probe"])
def test_checkpointing_runs_blocks_twice_and_trains_the_same(method: str) -> None:
    losses, calls = [], []
    for checkpointing in (False, True):
        setting = replace(TINY, checkpointing=checkpointing)
        trainer = setting.start(method, model := setting.build())
        counts = [0]
        model.blocks[-1].register_forward_pre_hook(lambda *_, c=counts: c.__setitem__(0, c[0] + 1))
        batch = setting.make_batch(model, 2)
        torch.manual_seed(0)  # DenseMixout draws from the global generator
        trainer.time(*batch, range(2))
        calls.append(counts[0])
        losses.append(trainer.loss(*batch).item())
    assert calls == [2, 4]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_lora_goes_where_there_is_no_linear_layer_and_shira_says_that_it_cannot() -> None:
    setting = replace(TINY, model="test_resnet", options={})
    adapted = setting.start("lora", setting.build())
    assert any("lora_" in name for name, _ in adapted.model.named_parameters())
    with pytest.raises(SystemExit, match="test_resnet has none"):
        setting.start("shira", setting.build())


def test_a_round_meets_start_depths_evenly() -> None:
    trainer = TINY.start("gmixout_row_depth", model := TINY.build())
    assert trainer.masked is not None
    batch, layers, starts = TINY.make_batch(model, 2), len(trainer.masked.parameters()), []
    for number in range(TINY.round_steps):
        trainer.seek(number)
        trainer.loss(*batch).backward()
        starts.append(sum(values.grad is None for values in trainer.masked.parameters()))
        trainer.optimizer.zero_grad()
    assert starts == sorted(starts)
    assert abs(sum(starts) / len(starts) - (layers - 1) / 2) < 0.5
    assert len(set(starts)) == min(layers, TINY.round_steps)


def test_seeking_takes_no_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("_timing.time.perf_counter", lambda: float(next(clock)))
    trainer = TINY.start("full", model := TINY.build())
    slow = replace(trainer, seek=lambda number: [next(clock) for _ in range(100)])
    (first, second) = slow.time(*TINY.make_batch(model, 2), range(2))
    assert first["wall"] == second["wall"] == 3
    assert first["update"] == 1


# torch's compiler looks at it of each block's input
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_steps_train_at_every_start_depth() -> None:
    setting = replace(TINY, compiler="aot_eager", options={**TINY.options, "depth": 1})
    trainer = setting.start("gmixout_row_depth", model := setting.build())
    batch = setting.make_batch(model, 2)
    trainer.time(*batch, range(setting.warm_up_steps))
    with torch._dynamo.config.patch(error_on_recompile=True):
        times = trainer.time(*batch, range(setting.round_steps))
    assert len(times) == setting.round_steps


@settings(deadline=None)
@given(most=st.integers(0, 10**6))
def test_the_largest_batch_fits_and_little_more_does_not(most: int) -> None:
    found = _memory.largest_that(lambda batch: batch <= most)
    assert found <= most <= found + max(1, found // 32) - (found < 64)


def test_the_largest_batch_stops_at_the_devices_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Trainer.step

    def train_little(self: Trainer, images: torch.Tensor, *rest) -> None:
        if len(images) > 5:
            raise torch.OutOfMemoryError
        train(self, images, *rest)

    monkeypatch.setattr(Trainer, "step", train_little)
    found = _memory.measure_largest(TINY, "gmixout_row_depth", 1000)
    assert found["batch"] == 5
    assert [b for b, peak in found["peak_bytes"].items() if peak is None] == [8, 6]


def test_a_profile_says_what_takes_time_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "step.json"
    words = ["--model", "test_vit", "--batch", "2", "--methods", "full", "gmixout_row"]
    step.main([*words, "--profile", "--out", str(out)])
    told = capsys.readouterr().out
    assert re.search(r"aten::mm +│? *[\d.]+ \([\d.]+\)", told), told
    (found,) = json.loads(out.read_text())["batches"]
    assert found.keys() == {"batch", "steps", "operations"}
    for operations in found["operations"].values():
        assert operations["aten::addmm"]["ms"] > 0
    # the fused optimizer is called once a step
    assert found["operations"]["full"]["aten::_fused_adamw_"]["calls"] == pytest.approx(1)


def test_one_size_of_batch_for_all_that_fits_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = {"full": 3, "gmixout_row": 4}
    monkeypatch.setattr(step, "apart", lambda _, setting, method, gb: {"batch": room[method]})
    monkeypatch.setattr(
        step, "measure", lambda setting, args, batch, save: save({"batch": batch, "times": {}})
    )
    out = tmp_path / "step.json"
    step.main(["--fit", "1", "--methods", *room, "--out", str(out)])
    assert [each["batch"] for each in json.loads(out.read_text())["batches"]] == [3]


@settings(deadline=None)
@given(st.lists(st.integers(), min_size=1, max_size=5, unique=True))
def test_in_turn_every_name_takes_every_place(names: list[int]) -> None:
    order = list(in_turn(names, len(names)))
    turns = [order[i : i + len(names)] for i in range(0, len(order), len(names))]
    assert all(sorted(turn) == sorted(names) for turn in turns)
    assert all(sorted(place) == sorted(names) for place in zip(*turns, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("default")
def test_on_cuda(tmp_path: Path) -> None:
    words = ["--model", "test_vit", "--device", "cuda", "--precision", "autocast", "--fit", "0.1"]
    out = tmp_path / "step.json"
    step.main([*words, "--methods", *CHOSEN, "lora", "--out", str(out)])
    assert json.loads(out.read_text())["batches"]
