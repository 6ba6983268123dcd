"""Values that anybody moved, however, are what the model computes with, saves and exports."""

import copy
import io
import pickle

import pytest
import torch
from tiny import CUTS, STRUCTURES, UNPAIRED, PlainNet, TinyNet, batches, loss_of, same_state, train
from torch import nn

import gmixout
from gmixout import GMixout, dropconnect, mixout, random_mask
from gmixout.errors import AttachError

SETTINGS = {
    "gmixout": GMixout(mask_rate=0.5, resample_every=3),
    "rescaled": GMixout(mask_rate=0.5, resample_every=3, rescale=True, anchor_decay=0.5),
    "mixout": mixout(0.5),
    "random mask": random_mask(0.5),
    "dropconnect": dropconnect(0.5),
}

IMAGES = next(batches(1))[0]


def start(config=SETTINGS["gmixout"], net=TinyNet, lr=1e-2):
    torch.manual_seed(0)
    model = net()
    masked = gmixout.attach(model, config)
    return model, masked, masked.bind(torch.optim.AdamW(masked.param_groups(lr=lr)))


def truth(masked):
    """Phi of each weight, computed from the values alone."""
    found = {}
    for name, m in masked._weights.items():
        phi = m.weight.clone()
        values = m.values.detach()
        if m.scale != 1:
            values = m.held + m.scale * (values - m.held)
        m.structure.scatter_(phi, m.index, values)
        found[name] = phi
    return found


def in_place(values, change):
    with torch.no_grad():
        values.add_(change)


def by_data(values, change):
    values.data.add_(change)


def by_new_data(values, change):
    values.data = values.data + change


def by_foreach(values, change):
    with torch.no_grad():
        torch._foreach_add_([values], [change])


def by_vector(values, change):
    nn.utils.vector_to_parameters((values.detach() + change).flatten(), [values])


def by_swapping(values, change):
    before = values.detach().clone()
    values.data.copy_(before + change)


MOVES = [in_place, by_data, by_new_data, by_foreach, by_vector, by_swapping]


def forward(model, masked):
    model(IMAGES)
    return {n: m.weight for n, m in masked._weights.items()}


def without_gradients(model, masked):
    with torch.no_grad():
        return forward(model, masked)


def inference(model, masked):
    with torch.inference_mode():
        return forward(model, masked)


def of_a_submodule(model, masked):
    """As `forward_features` does: the model's own forward is not called."""
    model.conv(IMAGES)
    return {"conv.weight": masked._weights["conv.weight"].weight}


def by_attribute(model, masked):
    return {n: model.get_submodule(n.rpartition(".")[0]).weight for n in ("conv.weight",)}


def evaluation(model, masked):
    model.eval()
    return {n: m.weight for n, m in masked._weights.items()}


LOOKS = {
    "forward": forward,
    "no_grad": without_gradients,
    "inference_mode": inference,
    "a submodule": of_a_submodule,
    "an attribute": by_attribute,
    "state_dict": lambda model, masked: model.state_dict(),
    "eval": evaluation,
    "write": lambda model, masked: (masked.write(), model.state_dict())[1],
    "named_weights": lambda model, masked: dict(masked.named_weights()),
}  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("move", MOVES)
def test_what_is_moved_is_what_is_seen(move, look):
    for setting in ("gmixout", "rescaled"):
        model, masked, optimizer = start(SETTINGS[setting])
        train(model, optimizer, list(batches(2)))
        for values in masked.parameters():
            move(values, torch.full_like(values, 0.25))
        expected = truth(masked)
        seen = LOOKS[look](model, masked)
        for name in expected.keys() & seen.keys():
            torch.testing.assert_close(seen[name], expected[name], rtol=0, atol=1e-6, msg=name)
        assert expected.keys() & seen.keys()


@pytest.mark.parametrize("setting", SETTINGS)
def test_swapped_in_and_out_again_leaves_everything(setting):
    """An average of the values is validated, and training goes on as if it had not been."""
    runs = []
    for swap in (False, True):
        model, masked, optimizer = start(SETTINGS[setting])
        for batch in batches(7):
            train(model, optimizer, [batch])
            if swap:
                kept = [v.detach().clone() for v in masked.parameters()]
                for values in masked.parameters():
                    values.data.mul_(0.5)
                model.eval()
                moved = model(IMAGES)
                for values, old in zip(masked.parameters(), kept, strict=True):
                    values.data.copy_(old)
                assert not torch.equal(model(IMAGES), moved)
                model.train()
        runs.append(masked.detach())
    assert same_state(*runs)


class HalfSteps(torch.optim.Optimizer):
    """SAM in its published shape: two half steps around an optimizer's own."""

    def __init__(self, groups, base, rho, data):
        super().__init__(groups, {"rho": rho})
        self.base_optimizer = base(self.param_groups)
        self.param_groups = self.base_optimizer.param_groups
        self.data = data

    @torch.no_grad()
    def first_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["old"] = p.detach().clone()
                    p.add_(p.grad, alpha=group["rho"])
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if self.data:
                        p.data = self.state[p]["old"]
                    else:
                        p.copy_(self.state[p]["old"])
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


def sharpness_aware(model, sam, data, closure):
    for batch in data:
        loss_of(model, batch).backward()
        if closure:
            sam.step(lambda batch=batch: loss_of(model, batch).backward())
        else:
            sam.first_step()
            loss_of(model, batch).backward()
            sam.second_step()


@pytest.mark.parametrize("bound", ["sam", "its base"])
@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("data", [False, True])
def test_half_steps_at_rate_zero_of_masking_are_those_of_full_finetuning(bound, closure, data):
    torch.manual_seed(0)
    plain = PlainNet()
    model = copy.deepcopy(plain)
    masked = gmixout.attach(model, GMixout(mask_rate=0, residual="persist", resample_every=2))

    def make(groups):
        return HalfSteps(groups, lambda g: torch.optim.SGD(g, lr=0.1), 0.05, data)

    sam = make([{"params": g["params"]} for g in masked.param_groups(lr=0.1)])
    masked.bind(sam if bound == "sam" else sam.base_optimizer)
    sharpness_aware(model, sam, list(batches(5)), closure)
    sharpness_aware(plain, make(plain.parameters()), list(batches(5)), closure)
    assert masked.steps == 5
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_half_steps_see_the_perturbed_weights_and_move_masked_entries_alone():
    model, masked, _ = start()
    masked.unbind()
    sam = HalfSteps(masked.param_groups(lr=0.1), lambda g: torch.optim.SGD(g, lr=0.1), 0.5, False)
    masked.bind(sam)
    before = {n: m.weight.clone() for n, m in masked._weights.items()}
    sharpness_aware(model, sam, list(batches(2)), False)
    for name, m in masked._weights.items():
        changed = (m.weight != before[name]).flatten(1).any(1)
        assert changed.any()
        assert set(changed.nonzero().flatten().tolist()) <= set(m.index.tolist())


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_that_nobody_bound_is_an_error_at_its_first_step(fused):
    model, masked, _ = start()
    masked.unbind()
    loss_of(model, next(batches(1))).backward()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    with pytest.raises(AttachError, match=r"no process follows it.*masked\.bind"):
        optimizer.step()
    expected = truth(masked)  # and what it did is not lost
    for name, value in model.state_dict().items():
        if name in expected:
            assert torch.equal(value, expected[name])


def test_one_mask_for_the_whole_run_needs_no_binding():
    model, masked, _ = start(SETTINGS["random mask"])
    masked.unbind()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    train(model, optimizer, list(batches(3)))
    expected = truth(masked)
    state = masked.detach().state_dict()
    assert all(torch.equal(state[name], phi) for name, phi in expected.items())


def test_other_optimizers_of_the_process_are_not_bothered():
    start()
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    before = other.weight.detach().clone()
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(other.weight, before - 0.1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_averages_of_the_model_are_what_a_copy_computes_with(setting):
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model, masked, optimizer = start(SETTINGS[setting])
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    expected = {n: v.clone() for n, v in model.state_dict().items()}
    for batch in batches(7):
        train(model, optimizer, [batch])
        average.update_parameters(model)
        average(IMAGES)
        for name, value in model.state_dict().items():
            if average.n_averaged == 1:
                expected[name].copy_(value)
            else:
                expected[name].lerp_(value, 0.5)
    plain = TinyNet()
    plain.load_state_dict(average.module.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    plain.train(model.training)
    torch.testing.assert_close(average(IMAGES), plain(IMAGES))
    del masked


def test_a_compiled_model_says_that_it_cannot_look():
    model, masked, optimizer = start(net=PlainNet)
    compiled = torch.compile(model, backend="aot_eager")
    train(compiled, optimizer, list(batches(4)))
    for values in masked.parameters():
        values.data.mul_(0.5)
    with pytest.raises(AttachError, match=r"compiled.*masked\.write"):
        loss_of(compiled, next(batches(1))).backward()
    optimizer.zero_grad()
    masked.write()
    train(compiled, optimizer, list(batches(2)))
    assert masked.steps == 6


def test_moving_values_between_forward_and_backward_is_an_error():
    model, masked, _ = start()
    loss = loss_of(model, next(batches(1)))
    for values in masked.parameters():
        in_place(values, 0.1)
    with pytest.raises((AttachError, RuntimeError), match=r"moved|modified by an inplace"):
        loss.backward()


def test_functional_calls_compute_with_what_they_are_given():
    from torch.func import functional_call

    model, masked, optimizer = start()
    train(model, optimizer, list(batches(4)))
    other = {n: v * 0.5 for n, v in masked.snapshot().items()}
    plain = TinyNet()
    plain.load_state_dict(other)
    before = copy.deepcopy((model.state_dict(), [v.detach().clone() for v in masked.parameters()]))
    torch.testing.assert_close(functional_call(model, other, IMAGES), plain(IMAGES))
    values = {n: p * 0.5 for n, p in model.named_parameters() if n.endswith("values")}
    with pytest.raises(AttachError, match="snapshot"):
        functional_call(model, values, IMAGES)
    assert all(torch.equal(before[0][n], v) for n, v in model.state_dict().items())
    assert all(map(torch.equal, before[1], masked.parameters()))


def test_a_penalty_on_weights_reaches_the_values():
    for structure in STRUCTURES:
        config = GMixout(mask_rate=0.5, **CUTS[structure], block_size=4)
        model, masked, _ = start(config)
        plain = TinyNet()
        plain.load_state_dict(model.state_dict())
        assert [n for n, _ in masked.named_weights()] == [n for n, _ in plain.named_parameters()]
        sum((w**2).sum() for _, w in masked.named_weights()).backward()
        sum((w**2).sum() for w in plain.parameters()).backward()
        for name, parameter in plain.named_parameters():
            if name in masked._weights:
                m = masked._weights[name]
                wanted = m.structure.gather(parameter.grad, m.index)
                torch.testing.assert_close(m.values.grad, wanted)


def test_a_hand_that_changes_weights_before_training_makes_a_new_start():
    """As an initialization after attach() does, or DDP, which hands on rank 0's weights."""
    for setting in ("gmixout", "rescaled", "mixout"):
        model, masked, optimizer = start(SETTINGS[setting])
        with torch.no_grad():
            for m in masked._weights.values():
                m.parameter.mul_(0.5)
        early = TinyNet()
        early.load_state_dict({n: v.clone() for n, v in model.state_dict().items()})
        its = gmixout.attach(early, SETTINGS[setting])
        train(model, optimizer, list(batches(7)))
        train(early, its.bind(torch.optim.AdamW(its.param_groups(lr=1e-2))), list(batches(7)))
        assert same_state(masked.detach(), its.detach())


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("by_data", [False, True])
def test_a_model_put_back_by_its_parameters_is_what_it_was(setting, by_data):
    """The best weights so far, or an average, of all parameters, masks redrawn in between."""
    model, masked, optimizer = start(SETTINGS[setting])
    train(model, optimizer, list(batches(4)))
    model.eval()
    best = [p.detach().clone() for p in model.parameters()]
    expected = model(IMAGES)
    train(model, optimizer, list(batches(5)))
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), best, strict=True):
            (parameter.data if by_data else parameter).copy_(value)
    torch.testing.assert_close(model(IMAGES), expected)
    plain = TinyNet().eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(IMAGES), expected)
    del masked


@pytest.mark.parametrize("setting", ["gmixout", "rescaled", "mixout"])
def test_weights_changed_by_a_hand_in_training_stay_changed(setting):
    """Clipped by their `.data`, say: no write and no redraw brings back what was there."""
    model, masked, _ = start(SETTINGS[setting])
    masked.unbind()
    groups = [{"params": [p], "lr": 0.0} for p in model.parameters() if p.requires_grad]
    optimizer = masked.bind(torch.optim.SGD(groups, lr=0.0))
    for batch in batches(8):
        model.hidden.weight.data.clamp_(-0.01, 0.01)
        train(model, optimizer, [batch])
    # which the residual of masks to come is no part of
    if masked.config.residual == "reset":
        assert model.state_dict()["hidden.weight"].abs().max() <= 0.01 + 1e-6
    assert masked._weights["hidden.weight"].agreement.is_written()


def test_an_optimizer_from_before_attach_is_an_error():
    model = TinyNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    masked = gmixout.attach(model, SETTINGS["gmixout"])
    loss_of(model, next(batches(1))).backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(AttachError, match="made before attach"):
        optimizer.step()
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    masked.detach()
    assert type(model.hidden.weight) is nn.Parameter
    assert not vars(model.hidden.weight)
    optimizer.step()


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_attached_model_can_be_pickled_and_goes_on(setting):
    model, masked, optimizer = start(SETTINGS[setting])
    train(model, optimizer, list(batches(4)))
    file = io.BytesIO()
    torch.save((model, masked), file)
    file.seek(0)
    again, its = torch.load(file, weights_only=False)
    assert same_state(model, again)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert type(again.conv).__name__ == "Conv2d"
    its.bind(torch.optim.SGD(its.param_groups(lr=0.1)))
    masked.bind(torch.optim.SGD(masked.param_groups(lr=0.1)))
    for net, handle in ((model, masked), (again, its)):
        train(net, handle._bound.optimizer, list(batches(4)))
    assert masked.steps == its.steps == 8
    assert same_state(masked.detach(), its.detach())
    pickle.dumps(again)


def test_second_derivatives_are_the_dense_ones():
    """For Adahessian, and penalties on gradients: they cross layers by their inputs."""
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    for structure in UNPAIRED:
        config = GMixout(
            mask_rate=0.5, **CUTS[structure], block_size=2, rescale=True, residual="persist"
        )
        model = copy.deepcopy(dense)
        lean = gmixout.attach(copy.deepcopy(dense), config, head=())
        with pytest.raises(AttachError, match="higher_order"):
            (lean.model(x) ** 2).sum().backward(create_graph=True)
        masked = gmixout.attach(model, config, head=(), higher_order=True)
        leaves = [m.values for m in masked._weights.values()]
        first = torch.autograd.grad((model(x) ** 2).sum(), leaves, create_graph=True)
        directions = [torch.randn_like(g) for g in first]
        found = torch.autograd.grad(first, leaves, directions)
        weights = [dense.get_parameter(name) for name in masked._weights]
        spread = []
        for m, weight, direction in zip(masked._weights.values(), weights, directions, strict=True):
            spread.append(torch.zeros_like(weight))
            m.structure.scatter_(spread[-1], m.index, m.scale * direction)
        first = torch.autograd.grad((dense(x) ** 2).sum(), weights, create_graph=True)
        wanted = torch.autograd.grad(first, weights, spread)
        for m, ours, theirs in zip(masked._weights.values(), found, wanted, strict=True):
            gathered = m.scale * m.structure.gather(theirs, m.index)
            torch.testing.assert_close(ours, gathered, rtol=1e-9, atol=1e-9, msg=structure)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("steps", [0, 4])
def test_write_takes_the_values_also_where_the_weight_was_in_somebodys_hand(setting, steps):
    """Looking at a weight is no change of it: SAM's perturbation must not be undone by a print."""
    model, masked, optimizer = start(SETTINGS[setting])
    train(model, optimizer, list(batches(steps)))
    moved = {}
    for values in masked.parameters():
        moved[values] = values.detach() + 0.1
    print(*model.parameters())
    for values, change in moved.items():
        in_place(values, 0.1)
        assert torch.equal(values, change)
    masked.write()
    assert all(torch.equal(values, change) for values, change in moved.items())
    held = dict(model.named_parameters())
    for name, expected in truth(masked).items():
        torch.testing.assert_close(held[name].detach(), expected)
