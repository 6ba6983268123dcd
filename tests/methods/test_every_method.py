"""What holds for every method that is trained, on a transformer and on a convolutional net."""

import copy
from functools import cache

import pytest
import torch
from small_models import ALL, MODELS, TRAINED, Run, batch, copied, difference

every = pytest.mark.parametrize("name", TRAINED)
both = pytest.mark.parametrize("kind", MODELS)


def anatomy(model):
    """All that makes a model plain: classes, keys, shapes, attributes, hooks, what is trainable."""
    return (
        [(name, type(m), sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks))
         for name, m in model.named_modules()],
        [(key, value.shape, value.dtype) for key, value in model.state_dict().items()],
        [(name, p.requires_grad) for name, p in model.named_parameters()],
    )  # fmt: skip


@every
@both
def test_it_leaves_a_plain_model_that_its_snapshot_foretold(name, kind, rng_untouched):
    with rng_untouched():
        run = Run(name, MODELS[kind]()).steps(5)
        snapshot = copied(run.finetuning.snapshot())
        model = run.finetuning.detach()
    assert anatomy(model) == anatomy(MODELS[kind]())
    assert difference(snapshot, model.state_dict()) == set()
    assert difference(model.state_dict(), MODELS[kind]().state_dict())
    run.optimizer.step()  # nothing of the method is behind the optimizer any more
    assert model.training


@every
@both
def test_the_model_in_training_computes_what_its_snapshot_does(name, kind):
    if name in ("mixout", "high_rate_mixout", "dropconnect"):
        pytest.skip("trains a random subnetwork; ends in the mean over masks")
    if name in ("ema", "swa"):
        pytest.skip("ends in another model than the one in training")
    run = Run(name, MODELS[kind]()).steps(5)
    plain = MODELS[kind]()
    plain.load_state_dict(run.finetuning.snapshot())
    images, _ = batch(0)
    torch.testing.assert_close(run.model.eval()(images), plain.eval()(images), rtol=1e-4, atol=1e-5)


@cache
def uninterrupted(name, kind):
    """The states after five steps, with the method on the model and without."""
    run = Run(name, MODELS[kind]()).steps(5)
    return copied(run.model.state_dict()), run.finetuning.detach().state_dict()


@every
@both
def test_a_look_at_the_snapshot_disturbs_nothing(name, kind):
    watched = Run(name, MODELS[kind]())
    for _ in range(5):
        watched.steps(1).finetuning.snapshot()
    assert difference(uninterrupted(name, kind)[0], watched.model.state_dict()) == set()


@every
@both
def test_without_a_learning_rate_the_model_stays_the_pretrained_one(name, kind):
    run = Run(name, MODELS[kind](), lr=0.0, weight_decay=0.1).steps(3)
    before, after = MODELS[kind]().state_dict(), run.finetuning.detach().state_dict()
    buffers = {key for key, _ in MODELS[kind]().named_buffers()}
    if name == "dora":  # multiplies each weight by its norm over its norm
        torch.testing.assert_close(
            {key: after[key] for key in after if key not in buffers},
            {key: before[key] for key in before if key not in buffers},
            rtol=1e-6,
            atol=1e-7,
        )
    elif name == "dropconnect":  # the anchor is zero: half of the weight's bits are in rounding
        torch.testing.assert_close(
            {key: after[key] for key in after if key not in buffers},
            {key: before[key] for key in before if key not in buffers},
        )
    else:
        assert difference(before, after) <= buffers


@every
@both
@pytest.mark.parametrize("at", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(name, kind, at):
    first = Run(name, MODELS[kind]()).steps(at)
    states = copy.deepcopy(first.states())
    resumed = Run(name, MODELS[kind]())
    resumed.load(states)
    resumed.done = at
    resumed.steps(5 - at)
    attached, plain = uninterrupted(name, kind)
    assert difference(attached, resumed.model.state_dict()) == set()
    assert difference(plain, resumed.finetuning.detach().state_dict()) == set()


@every
def test_a_seed_is_a_model(name):
    def end(seed):
        return Run(name, MODELS["vit"](), seed).steps(3).finetuning.detach().state_dict()

    assert difference(end(1), end(1)) == set()
    drawing = {"lora", "dora", "shira", "random_mask", "dropconnect"}
    drawing |= {"mixout", "high_rate_mixout", "gmixout", "swa"}
    assert bool(difference(end(1), end(2))) == (name in drawing)


@every
def test_the_count_of_trained_values(name):
    model = MODELS["vit"]()
    everything = sum(p.numel() for p in model.parameters())
    head = sum(p.numel() for p in model.head.parameters())
    biases = sum(p.numel() for n, p in model.named_parameters() if n.endswith("bias"))
    linears = [m for m in model.blocks.modules() if isinstance(m, torch.nn.Linear)]
    adapters = sum(2 * (m.in_features + m.out_features) for m in linears)
    patch = 2 * (8 + 1 * 4 * 4)
    magnitudes = sum(m.out_features for m in linears) + 8
    expected = {
        "linear_probe": head,
        "bitfit": biases + model.head.weight.numel(),
        "shira": head + adapters,
        "lora": head + adapters + patch,
        "dora": head + adapters + patch + magnitudes,
        **dict.fromkeys(("full", "ema", "l2_sp", "lp_ft"), everything),
    }
    trainable = Run(name, model).trainable
    if name in expected:
        assert trainable == expected[name]
    else:
        assert head < trainable < everything


def test_the_suite_knows_every_method():
    assert set(TRAINED) == {name for name, method in ALL.items() if method.trained == method}
    assert len(TRAINED) >= 15
