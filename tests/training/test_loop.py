import math
import re
import signal
import time
from functools import partial

import pytest
import torch
from torch import nn
from toy_benchmark import Toy, net, toy, toy_pretrained

from gmixout.errors import ConfigError, DataError, StateError, TrainingError
from gmixout.methods import METHODS, get_method
from gmixout.training import TrainingArguments, TrainingInterrupted, TrainingResult, train, trainer
from gmixout.training.batches import Batches
from gmixout.training.checkpoint import load_checkpoint, save_checkpoint
from gmixout.training.faults import savings
from gmixout.training.interrupts import Stopped, exit_code

TRAINED = [name for name in METHODS if get_method(name).trained == get_method(name)]
STEPS = 12

OPTIONS = {"gmixout": {"resample_every": 4}, "lp_ft": {"probe_steps": 5}, "shira": {"rank": 2}}
"""What defaults for real models are too long or too large for."""


def run(
    name="full",
    checkpoint=None,
    on_progress=lambda step, loss: None,
    observe=None,
    observe_at=(),
    **settings,
) -> TrainingResult:
    arguments = TrainingArguments(
        **{
            "steps": STEPS,
            "batch_size": 7,
            "lr": 1e-2,
            "seed": 3,
            "log_every_steps": 2,
            "weight_decay": 0.1,
            **settings,
        }
    )
    start = partial(get_method(name, **OPTIONS.get(name, {})).start, seed=arguments.seed)
    return train(
        toy_pretrained(),
        start,
        toy().train,
        arguments,
        checkpoint,
        "run",
        on_progress,
        observe,
        observe_at,
    )


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def interrupt_at(step):
    def on_progress(now, loss):
        if now == step:
            signal.raise_signal(signal.SIGINT)

    return on_progress


def test_training_learns_and_leaves_the_random_state_alone(rng_untouched):
    with rng_untouched():
        result = run(steps=60, lr=0.03, head_lr=0.03)
    assert len(result.losses) == 60
    assert sum(result.losses[-10:]) < 0.5 * sum(result.losses[:10])
    assert result.trainable == sum(p.numel() for p in net().parameters())
    assert not any(module.training for module in result.model.modules())
    assert 0 < result.step_seconds < result.seconds


@pytest.mark.parametrize("name", ["full", "lora", "gmixout"])
def test_a_seed_gives_one_model_to_the_bit(name):
    first, second, other = run(name), run(name), run(name, seed=4)
    assert first.losses == second.losses
    assert_same(first.model, second.model)
    assert not torch.equal(first.model.head.weight, other.model.head.weight)


@pytest.mark.parametrize("name", TRAINED)
def test_a_resumed_run_equals_an_uninterrupted_one(name, tmp_path):
    whole = run(name, warmup_steps=3, max_grad_norm=0.5)
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(TrainingInterrupted, match="after step 7 of 12"):  # within a mask's period
        run(name, file, interrupt_at(6), warmup_steps=3, max_grad_norm=0.5)
    resumed = run(name, file, warmup_steps=3, max_grad_norm=0.5)
    assert resumed.losses == whole.losses
    assert_same(resumed.model, whole.model)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resume_for_each_optimizer_and_precision(optimizer, tmp_path):
    settings = {"optimizer": optimizer, "mixed_precision": "bf16", "schedule": "constant"}
    whole = run("gmixout", **settings)
    with pytest.raises(TrainingInterrupted):
        run("gmixout", tmp_path / "c.pt", interrupt_at(4), **settings)
    assert_same(run("gmixout", tmp_path / "c.pt", **settings).model, whole.model)
    assert not torch.equal(run("gmixout").model.body.weight, whole.model.body.weight)


EVERYTHING = {
    "augment": "randaugment",
    "mixup": 0.4,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "ema_decay": 0.8,
    "schedule": "constant",
    "steps": 6,
}


@pytest.mark.parametrize("name", TRAINED)
def test_options_of_training_go_with_every_method_and_resume(name, tmp_path):
    whole = run(name, **EVERYTHING)
    assert all(math.isfinite(loss) for loss in whole.losses)
    with pytest.raises(TrainingInterrupted):
        run(name, tmp_path / "c.pt", interrupt_at(4), **EVERYTHING)
    resumed = run(name, tmp_path / "c.pt", num_workers=1, **EVERYTHING)
    assert resumed.losses == whole.losses
    assert_same(resumed.model, whole.model)


@pytest.mark.parametrize("name", ["augment", "mixup", "cutmix", "label_smoothing", "ema_decay"])
def test_each_option_changes_the_model(name):
    changed = run(**{name: EVERYTHING[name]}).model
    assert not torch.equal(changed.head.weight, run().model.head.weight)


def test_settings_that_do_not_fit_the_model_are_found_before_training():
    with pytest.raises(ConfigError, match="layer_decay"):
        run(layer_decay=0.5)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(checkpoint=tmp_path / "c.pt")
    seen = []
    again = run(checkpoint=tmp_path / "c.pt", on_progress=lambda step, loss: seen.append(step))
    assert seen == []
    assert again.seconds == first.seconds
    assert_same(again.model, first.model)


def test_checkpoints_come_as_often_as_promised(tmp_path):
    file, there = tmp_path / "c.pt", []
    run(
        checkpoint=file,
        checkpoint_every_steps=5,
        log_every_steps=1,
        on_progress=lambda step, loss: there.append((step, file.exists())),
    )
    assert next(step for step, exists in there if exists) == 6  # written right after step 5


def test_ctrl_c_leaves_the_signal_handler_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted):
        run(checkpoint=tmp_path / "c.pt", on_progress=interrupt_at(2))
    assert signal.getsignal(signal.SIGINT) is before


def signal_at(step, *numbers):
    def on_progress(now, loss):
        if now == step:
            for number in numbers:
                signal.raise_signal(number)

    return on_progress


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_that_asks_for_an_end_is_heard_and_the_run_goes_on_to_the_same_model(
    number, tmp_path
):
    file = tmp_path / "c.pt"
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(TrainingInterrupted, match="after step 3 of 12") as stopped:
        run(checkpoint=file, on_progress=signal_at(2, number))
    assert exit_code(stopped.value) == 128 + number
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert_same(run(checkpoint=file).model, run().model)


def test_a_second_signal_cuts_no_step_and_no_saving_short(tmp_path, monkeypatch):
    file, save = tmp_path / "c.pt", trainer.save_checkpoint

    def slow(path, name, state):
        for _ in range(5):
            signal.raise_signal(signal.SIGINT)
        save(path, name, state)

    monkeypatch.setattr(trainer, "save_checkpoint", slow)
    with pytest.raises(TrainingInterrupted, match="after step 3 of 12"):
        run(checkpoint=file, on_progress=signal_at(2, signal.SIGINT, signal.SIGINT))
    assert load_checkpoint(file, "run")["progress"]["step"] == 3


def test_a_third_signal_ends_a_step_that_may_hang(tmp_path):
    with pytest.raises(Stopped, match="in the middle") as stopped:
        run(checkpoint=tmp_path / "c.pt", on_progress=signal_at(2, *[signal.SIGTERM] * 3))
    assert exit_code(stopped.value) == 143


def test_a_signal_in_the_last_step_is_heard(tmp_path):
    with pytest.raises(TrainingInterrupted, match="after step 12 of 12"):
        run(checkpoint=tmp_path / "c.pt", on_progress=interrupt_at(12))


def test_processes_that_load_images_may_end_with_the_same_signal(tmp_path):
    class Ended(Toy):
        """The process that loads dies, as a signal to the whole group makes it."""

        def __getitem__(self, index):
            Ended.looks = getattr(Ended, "looks", 0) + 1
            if Ended.looks > 7 * 3:
                signal.raise_signal(signal.SIGTERM)
                raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")
            return super().__getitem__(index)

    arguments = TrainingArguments(steps=STEPS, batch_size=7)
    start = partial(get_method("full").start, seed=0)
    file = tmp_path / "c.pt"
    with pytest.raises(TrainingInterrupted, match="after step 2 of 12"):
        train(toy_pretrained(), start, Ended(24, 0.3, seed=1), arguments, file, "run")
    assert load_checkpoint(file, "run")["progress"]["step"] == 2  # one batch is fetched ahead


WRONG = {
    "no progress": lambda c: c.pop("progress"),
    "a step too many": lambda c: c["progress"].update(step=STEPS + 1),
    "a step of no kind": lambda c: c["progress"].update(step="4"),
    "a step below": lambda c: c["progress"].update(step=-3),
    "losses missing": lambda c: c["progress"]["losses"].pop(),
    "a loss that is none": lambda c: c["progress"]["losses"].append("x"),
    "another field": lambda c: c["progress"].update(more=1),
    "no model": lambda c: c.update(model=None),
    "a weight missing": lambda c: c["model"].popitem(),
    "a weight too many": lambda c: c["model"].update(more=torch.zeros(1)),
    "another shape": lambda c: c["model"].update({"head.bias": torch.zeros(9)}),
    "another type": lambda c: c["model"].update({"head.bias": torch.zeros(4, dtype=torch.int64)}),
    "no method": lambda c: c.pop("method"),
    "an odd method": lambda c: c.update(method=[1]),
    "no optimizer": lambda c: c.update(optimizer={}),
    "groups missing": lambda c: c["optimizer"].update(param_groups=[]),
    "odd moments": lambda c: c["optimizer"]["state"].update({0: {"exp_avg": torch.zeros(77)}}),
    "moments of nobody": lambda c: c["optimizer"]["state"].update({99: {"step": torch.ones(())}}),
    "an odd schedule": lambda c: c["scheduler"].update(base_lrs="high"),
    "no random state": lambda c: c.update(rng=None),
    "a short random state": lambda c: c.update(rng=torch.zeros(3, dtype=torch.uint8)),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_sound_file_with_wrong_contents_is_refused_and_kept(what, tmp_path):
    file = tmp_path / "c.pt"
    with pytest.raises(TrainingInterrupted):
        run("gmixout", file, interrupt_at(4))
    content = load_checkpoint(file, "run")
    WRONG[what](content)
    save_checkpoint(file, "run", {k: v for k, v in content.items() if k not in ("format", "run")})
    before = file.read_bytes()
    with pytest.raises(StateError):
        run("gmixout", file)
    assert file.read_bytes() == before


def test_one_image_a_batch_under_a_batch_norm_is_explained():
    class Normed(nn.Sequential):
        def forward(self, images):
            return super().forward(images.flatten(1))

    model = Normed(nn.Linear(9, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    arguments = TrainingArguments(steps=2, batch_size=1, freeze_batch_norm=False)
    start = partial(get_method("full").start, seed=0)
    with pytest.raises(ConfigError, match=r"batch_size of 2 or more, or freeze_batch_norm"):
        train(toy_pretrained(model, "2"), start, toy().train, arguments)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "smaller batch_size"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: "
                      "you tried to allocate 9 bytes."), "smaller batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "smaller batch"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "fewer num_work"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "fewer num_workers"),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "shm"),
    ],
)  # fmt: skip
def test_what_the_machine_lacks_is_explained(error, advice, monkeypatch):
    def fail(self, batch):
        raise error

    monkeypatch.setattr(trainer.Trainer, "_step", fail)
    with pytest.raises(TrainingError, match=advice):
        run()


class Unreadable(Toy):
    def __getitem__(self, index):
        raise DataError(f"image {index}.png cannot be read: it is truncated")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_by_itself_whoever_loads_it(workers):
    arguments = TrainingArguments(steps=2, batch_size=7, num_workers=workers)
    start = partial(get_method("full").start, seed=0)
    with pytest.raises(DataError) as error:
        train(toy_pretrained(), start, Unreadable(24, 0.3, seed=1), arguments)
    assert re.fullmatch(r"image \d+\.png cannot be read: it is truncated", str(error.value))


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path):
    class Spoilt(Toy):
        """Its images become infinite after a number of looks."""

        looks = 0

        def __getitem__(self, index):
            Spoilt.looks += 1
            image, label = super().__getitem__(index)
            return image * (math.nan if Spoilt.looks > 7 * 8 else 1.0), label

    arguments = TrainingArguments(
        steps=STEPS, batch_size=7, lr=0.125, checkpoint_every_steps=4, log_every_steps=3
    )
    file = tmp_path / "c.pt"
    start = partial(get_method("full").start, seed=0)
    with pytest.raises(TrainingError, match=r"step 9 of 12 \(lr=0\.125.*smaller"):
        train(toy_pretrained(), start, Spoilt(24, 0.3, seed=1), arguments, file, "run")
    assert torch.load(file, weights_only=True)["progress"]["step"] == 8


def test_workers_do_not_change_the_outcome():
    assert run(num_workers=1).losses == run().losses


def test_a_batch_larger_than_the_data():
    with pytest.raises(ConfigError, match="batch_size=25 is larger than the training set of 24"):
        run(batch_size=25)


def test_batches_walk_through_whole_permutations():
    batches = list(Batches(range(10), batch_size=4, steps=10, seed=0))
    stream = [index for batch in batches for _, index in batch]
    assert [position for batch in batches for position, _ in batch] == list(range(40))
    assert all(len(batch) == 4 for batch in batches)
    assert all(sorted(stream[i : i + 10]) == list(range(10)) for i in range(0, 40, 10))
    assert stream[:10] != stream[10:20]
    assert list(Batches(range(10), 4, 10, seed=0, start=6)) == batches[6:]
    assert list(Batches(range(10), 4, 10, seed=1)) != batches


def test_observations_come_before_the_checkpoint_and_change_nothing(tmp_path):
    whole, file, seen = run(), tmp_path / "c.pt", []

    def observe(step, finetuning, loss):
        saved = torch.load(file, weights_only=True)["progress"]["step"] if file.exists() else 0
        seen.append((step, loss, saved))
        finetuning.model.eval()
        torch.manual_seed(0)  # a loader or a sampler would
        assert "body.weight" in finetuning.snapshot()

    watched = run(checkpoint=file, checkpoint_every_steps=5, observe=observe, observe_at=(3, 5, 12))
    assert_same(watched.model, whole.model)
    assert watched.losses == whole.losses
    assert [(step, saved) for step, _, saved in seen] == [(3, 0), (5, 0), (12, 10)]
    stretches = [whole.losses[:3], whole.losses[3:5], whole.losses[5:]]
    assert [loss for _, loss, _ in seen] == pytest.approx([sum(s) / len(s) for s in stretches])


def test_a_resumed_run_lacks_no_observation(tmp_path):
    seen = []

    def observe(step, finetuning, loss):
        seen.append((step, loss))

    def killed(step, finetuning, loss):
        if step == 8:
            raise RuntimeError("killed while observing")
        observe(step, finetuning, loss)

    settings = {"observe_at": range(2, 13, 3), "checkpoint_every_steps": 4}
    run(observe=observe, **settings)
    whole, seen[:] = list(seen), []
    with pytest.raises(RuntimeError, match="killed"):
        run(checkpoint=tmp_path / "c.pt", observe=killed, **settings)
    run(checkpoint=tmp_path / "c.pt", observe=observe, **settings)
    assert [step for step, _ in seen] == [2, 5, 5, 8, 11]
    assert dict(seen) == dict(whole)


def test_an_observation_costs_the_run_no_time_and_no_memory():
    size = 200 * 10**6

    def observe(step, finetuning, loss):
        time.sleep(1.0)
        assert torch.ones(size, dtype=torch.uint8).all()

    watched = run(observe=observe, observe_at=(4, 8))
    assert watched.seconds < 2.0
    assert watched.peak_memory_bytes < size / 2


def test_the_way_out_of_too_little_memory_follows_from_the_settings():
    def advice(**settings):
        return savings(TrainingArguments(batch_size=12, **settings))

    assert "--accumulate 2 (passes of 6 images, now 12 images; steps stay the same" in advice()
    assert "--checkpointing" in advice()
    assert "--mixed-precision bf16" in advice()
    assert "--accumulate 12 (passes of 1 image, now 2 images" in advice(accumulate=6)
    assert "--accumulate" not in advice(accumulate=12)
    assert "--checkpointing" not in advice(checkpointing=True)
    assert "bf16" not in advice(mixed_precision="bf16")
    assert "batch_size" not in savings(TrainingArguments(batch_size=1))
