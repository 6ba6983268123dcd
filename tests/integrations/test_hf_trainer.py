"""Hugging Face's Trainer in the ways that its users have it."""

from pathlib import Path

import framework_runs as runs
import pytest
import torch
from safetensors.torch import load_file
from tiny import same_state

import gmixout

transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the framework

DATA = [{"pixel_values": i, "labels": y} for i, y in zip(runs.IMAGES, runs.LABELS, strict=True)]


def arguments(folder: Path, **more) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(
        str(folder),
        max_steps=10,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        weight_decay=0.1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        seed=3,
        **more,
    )


def bound(config):
    net, masked = runs.start(config)
    return net, masked, masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))


@pytest.mark.parametrize("config", runs.CONFIGS.values(), ids=runs.CONFIGS)
def test_the_best_model_at_the_end_is_what_detach_leaves(config, tmp_path):
    net, masked, optimizer = bound(config)
    scores = iter([2.0, 3.0, 1.0])  # the second of three is the best
    trainer = transformers.Trainer(
        net,
        arguments(
            tmp_path,
            eval_strategy="steps",
            eval_steps=4,
            save_steps=4,
            load_best_model_at_end=True,
            metric_for_best_model="score",
        ),
        train_dataset=DATA,
        eval_dataset=DATA,
        compute_metrics=lambda _: {"score": next(scores)},
        optimizers=(optimizer, None),
    )
    trainer.train()
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-8"
    best, last = (load_file(tmp_path / f"checkpoint-{n}" / "model.safetensors") for n in (8, 10))
    state = masked.detach().state_dict()
    assert all(torch.equal(state[name], value) for name, value in best.items())
    assert not torch.equal(state["hidden.weight"], last["hidden.weight"])


class RobustTrainer(transformers.Trainer):
    """As docs/trainers.md has it."""

    def create_optimizer(self, *_):
        self.masked = gmixout.attach(self.model, runs.CONFIG)
        groups = self.masked.param_groups(
            self.args.learning_rate, weight_decay=self.args.weight_decay
        )
        self.optimizer = self.masked.bind(torch.optim.AdamW(groups))
        return self.optimizer


def made() -> runs.Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return runs.Net()


def test_a_trainer_that_makes_the_model_is_one_that_was_given_the_optimizer(tmp_path):
    trainer = RobustTrainer(args=arguments(tmp_path / "made"), model_init=made, train_dataset=DATA)
    trainer.train()
    net = made()
    masked = gmixout.attach(net, runs.CONFIG)
    groups = masked.param_groups(lr=1e-2, weight_decay=0.1)
    optimizer = masked.bind(torch.optim.AdamW(groups))
    given = transformers.Trainer(
        net, arguments(tmp_path / "given"), train_dataset=DATA, optimizers=(optimizer, None)
    )
    given.train()
    assert trainer.masked.steps == masked.steps == 10
    assert same_state(trainer.masked.detach(), masked.detach())


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_masks_count_steps_and_not_batches(bf16, tmp_path):
    net, masked, optimizer = bound(runs.CONFIG)
    settings = arguments(tmp_path, gradient_accumulation_steps=3, bf16=bf16, max_grad_norm=0.1)
    transformers.Trainer(net, settings, train_dataset=DATA, optimizers=(optimizer, None)).train()
    assert masked.steps == 10
    assert masked.period == 3
    assert {p.dtype for p in masked.parameters()} == {torch.float32}
