"""A batch in parts gives the steps of the whole batch."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from toy_benchmark import Toy, net, toy, toy_pretrained

from gmixout.data.batch import Batch
from gmixout.errors import ConfigError
from gmixout.methods import get_method
from gmixout.regularizers import REGULARIZERS, Regularizer
from gmixout.regularizers.blending import blend, next_one
from gmixout.training import TrainingArguments, TrainingInterrupted, train

STEPS = 9


class Doubles(Toy):
    """Images in float64."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image.double(), label


def run(name="full", accumulate=1, checkpoint=None, on_progress=lambda *_: None, **settings):
    model = net().double()
    model.dropout.p = 0.0  # draws of parts are not those of the whole
    arguments = TrainingArguments(
        **{
            "steps": STEPS,
            "batch_size": 7,
            "lr": 1e-2,
            "accumulate": accumulate,
            "log_every_steps": 1,
            "max_grad_norm": 0.5,
            **settings,
        }
    )
    method = get_method(name, **({"resample_every": 2} if name == "gmixout" else {}))
    return train(
        toy_pretrained(model),
        partial(method.start, seed=3),
        Doubles(24, 0.3, seed=1),
        arguments,
        checkpoint,
        "run",
        on_progress,
        regularizers=method.regularizers,
    )


def distance(first, second) -> float:
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


MIXED = {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1}


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("full", {}),
        ("gmixout", {}),
        ("mixout", MIXED),
        ("full", {"batches": "even_classes", "logit_adjustment": 1.0}),
        ("gmixout+sam", {}),
        ("full", {"regularizers": (REGULARIZERS["teacher"](),)}),
    ],
)
def test_parts_equal_the_whole_batch(name, settings, parts):
    whole, split = run(name, **settings), run(name, parts, **settings)
    assert split.losses == pytest.approx(whole.losses, rel=1e-9)
    # masked values are float32, whatever the model is
    assert distance(whole, split) < (1e-12 if name == "full" else 1e-6)
    assert len(split.losses) == STEPS


def test_parts_are_passed_one_after_another():
    sizes = []
    model = net()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    arguments = TrainingArguments(steps=2, batch_size=7, accumulate=3)
    train(toy_pretrained(model), partial(get_method("full").start, seed=0), toy().train, arguments)
    assert sizes == [3, 2, 2] * 2


@pytest.mark.parametrize("name", ["full", "gmixout"])
def test_a_resumed_run_equals_an_uninterrupted_one(name, tmp_path):
    def stop(step, loss):
        if step == 4:
            torch.manual_seed(9)
            raise TrainingInterrupted("stop")

    whole = run(name, 3, checkpoint_every_steps=2)
    with pytest.raises(TrainingInterrupted):
        run(name, 3, tmp_path / "c.pt", stop, checkpoint_every_steps=2)
    resumed = run(name, 3, tmp_path / "c.pt", checkpoint_every_steps=2)
    assert resumed.losses == whole.losses
    assert distance(whole, resumed) == 0.0


class Whole(Regularizer):
    def term(self, seen, step):
        return seen.logits.std()


@pytest.mark.parametrize("regularizer", [REGULARIZERS["regmixup"](), Whole()])
def test_what_sees_the_whole_batch_is_refused_by_name(regularizer):
    with pytest.raises(ConfigError, match=f"accumulate=2 cannot be combined .*{regularizer.name}"):
        run(accumulate=2, regularizers=(regularizer,))


@pytest.mark.parametrize("parts", [0, -1, 8, 1.5, True])
def test_more_parts_than_images_and_fewer_than_one_are_refused(parts):
    with pytest.raises(ConfigError, match="accumulate"):
        TrainingArguments(batch_size=7, accumulate=parts)


def test_parts_of_a_mixed_batch_keep_their_targets():
    labels = torch.tensor([0, 1, 2, 3, 0])
    images = torch.arange(5.0).reshape(5, 1, 1, 1)
    batch = blend(Batch(images, labels, places=labels + 7), next_one(Batch(images, labels)), 0.3)
    batch = blend(batch, torch.tensor([2, 0, 1, 4, 3]), 0.6)
    for count in (1, 2, 3, 5, 9):
        parts = batch.split(count)
        assert len(parts) == min(count, 5)
        for name in ("images", "labels", "places"):
            assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name))
        targets = torch.cat([part.targets(4) for part in parts])
        torch.testing.assert_close(targets, batch.targets(4))
        again = [one for part in parts for one in part.split(2)]
        torch.testing.assert_close(torch.cat([p.targets(4) for p in again]), batch.targets(4))


def test_an_option_that_is_off_leaves_no_trace():
    usual = TrainingArguments()
    for name in ("accumulate", "select", "patience", "validate_every_steps", "checkpointing"):
        assert name not in usual.identity()
    assert replace(usual, accumulate=2).identity()["accumulate"] == 2
