"""After `detach()` nothing of the process is left, and before it nothing global was touched."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from tiny import CUTS, MASKED_OF_TINY, STRUCTURES, TinyNet, batches, loss_of, train
from torch import nn

import gmixout
from gmixout import GMixout, dropconnect, mixout, random_mask
from gmixout.errors import AttachError

SETTINGS = {
    "reset": GMixout(mask_rate=0.75, resample_every=2),
    "persist": GMixout(mask_rate=0.75, resample_every=2, residual="persist", rescale=True),
    "mixout": mixout(0.75),
    "random mask": random_mask(0.75),
    "dropconnect": dropconnect(0.5),
}


def trace(thing, seen=None):
    """Every object of the package that can be reached from a module."""
    seen = set() if seen is None else seen
    found, stack = [], [thing]
    while stack:
        current = stack.pop()
        if id(current) in seen or isinstance(current, (torch.Tensor, str, int, float)):
            continue
        seen.add(id(current))
        if type(current).__module__.startswith("gmixout"):
            found.append(current)
        if isinstance(current, dict):
            stack += [*current.keys(), *current.values()]
        elif isinstance(current, (list, tuple, set)):
            stack += current
        elif hasattr(current, "__dict__"):
            stack.append(vars(current))
    return found


def description(model):
    return [
        (name, type(module), sorted(vars(module)), module.training)
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_detach_leaves_a_plain_model(setting, structure):
    config = GMixout(**{**vars(SETTINGS[setting]), **CUTS[structure], "block_size": 2})
    plain = TinyNet()
    plain.norm.bias.requires_grad_(False)
    plain.hidden.register_forward_hook(lambda *_: None)
    model = copy.deepcopy(plain)
    classes = description(plain)
    parameters = [id(p) for p in model.parameters()]
    masked = gmixout.attach(model, config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))
    train(model, optimizer, list(batches(5)))
    assert masked.detach() is model
    assert description(model) == classes
    assert not trace(model)
    assert [id(p) for p in model.parameters()] == parameters
    assert [(n, p.requires_grad, p.shape, p.dtype) for n, p in model.named_parameters()] == [
        (n, p.requires_grad, p.shape, p.dtype) for n, p in plain.named_parameters()
    ]
    assert [n for n, _ in model.named_buffers()] == [n for n, _ in plain.named_buffers()]
    assert len(model.hidden._forward_hooks) == 1
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks
    state = model.state_dict()
    assert list(state) == list(plain.state_dict())
    assert state._metadata.keys() == plain.state_dict()._metadata.keys()
    # Copies and files of it are plain models with the same outputs, which train as any other.
    images = next(batches(1))[0]
    expected = model(images)
    plain.load_state_dict(state)
    assert torch.equal(plain(images), expected)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    model.hidden._forward_hooks.clear()  # a lambda of a test cannot be pickled
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(images), expected)
    loss_of(model, next(batches(1))).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_for_reset_the_final_model_is_the_one_that_was_trained():
    model = TinyNet()
    masked = gmixout.attach(model, SETTINGS["reset"])
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))
    train(model, optimizer, list(batches(5)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masked.detach()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_attach_and_detach_at_once_changes_nothing():
    for config in (SETTINGS["reset"], SETTINGS["persist"], SETTINGS["dropconnect"]):
        model = TinyNet()
        before = copy.deepcopy(model.state_dict())
        gmixout.attach(model, config).detach()
        for name, value in model.state_dict().items():
            if config.anchor == "pretrained" or name not in MASKED_OF_TINY:
                assert torch.equal(before[name], value)
            else:
                torch.testing.assert_close(before[name], value)


def test_attach_again_after_detach():
    model = TinyNet()
    first = gmixout.attach(model, SETTINGS["reset"])
    first.detach()
    second = gmixout.attach(model, SETTINGS["persist"])
    train(
        model,
        second.bind(torch.optim.SGD(second.param_groups(lr=0.1))),
        list(batches(3)),
    )
    assert second.steps == 3
    with pytest.raises(AttachError):
        first.detach()
    second.detach()


def test_the_optimizer_goes_on_after_detach_without_moving_the_model():
    model = TinyNet()
    masked = gmixout.attach(model, SETTINGS["reset"])
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
    masked.detach()
    before = copy.deepcopy(model.state_dict())
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not any(parameter is p for p in model.parameters()):
                parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_nothing_keeps_a_detached_model_alive():
    model = TinyNet()
    masked = gmixout.attach(model, SETTINGS["persist"])
    optimizer = masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
    train(model, optimizer, list(batches(3)))
    masked.detach()
    gone = weakref.ref(model.conv)
    del model, masked, optimizer
    gc.collect()
    assert gone() is None


def test_modules_are_what_they_were_while_the_process_is_on():
    model = TinyNet()
    calls = []
    model.hidden.register_forward_hook(lambda *_: calls.append("forward"))
    model.hidden.register_full_backward_hook(lambda *_: calls.append("backward"))
    children = {name: id(module) for name, module in model.named_modules()}
    masked = gmixout.attach(model, SETTINGS["reset"])
    assert isinstance(model.hidden, nn.Linear)
    assert isinstance(model.conv, nn.Conv2d)
    assert isinstance(model.attention, nn.MultiheadAttention)
    assert type(model.hidden).__name__ == "Linear"
    assert {n: id(m) for n, m in model.named_modules() if id(m) in children.values()} == children
    assert list(model.state_dict()) == list(TinyNet().state_dict())
    loss_of(model, next(batches(1))).backward()
    assert calls == ["forward", "backward"]
    assert not any(p.grad is not None for n, p in model.named_parameters() if n in MASKED_OF_TINY)
    del masked


def test_evaluation_in_mid_training_changes_nothing():
    data = list(batches(6))
    states = []
    for evaluate in (False, True):
        torch.manual_seed(0)
        model = TinyNet()
        masked = gmixout.attach(model, SETTINGS["persist"])
        optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))
        for batch in data:
            train(model, optimizer, [batch])
            if evaluate:
                model.eval()
                with torch.no_grad():
                    once = model(batch[0])
                    assert torch.equal(once, model(batch[0]))
                model.train()
        states.append(masked.detach().state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_global_generator_is_touched(setting, rng_untouched):
    model, data = TinyNet(), list(batches(5))
    with rng_untouched():
        masked = gmixout.attach(model, SETTINGS[setting])
        optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-2)))
        train(model, optimizer, data)
        state = copy.deepcopy(masked.state_dict())
        masked.load_state_dict(state)
        str(masked.summary())
        model.eval()(data[0][0])
        masked.detach()


def test_masks_do_not_depend_on_global_generators_dtype_or_order():
    """The same indices for another seed of torch's, another dtype, and parameters reversed."""

    class Reversed(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                self.add_module(name, nn.Linear(32, 32))

    def indices(model):
        gmixout.attach(model, GMixout(mask_rate=0.5, structure="element", seed=3), head=())
        return {n: b for n, b in model.named_buffers() if n.endswith("index")}

    base = indices(Reversed("abc"))
    torch.manual_seed(123)
    for other in (Reversed("cba"), Reversed("abc").double(), Reversed("ab").bfloat16()):
        for name, index in indices(other).items():
            assert torch.equal(index, base[name])
    different = list(base.values())
    assert not torch.equal(different[0], different[1])
    assert not torch.equal(different[1], different[2])
