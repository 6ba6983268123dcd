"""SAM is its definition, on plain and on masked weights."""

import pytest
import torch
from small_run import Domains, run, same
from torch.nn.functional import cross_entropy
from toy_benchmark import net

import gmixout
from gmixout.errors import ConfigError
from gmixout.methods import get_method
from gmixout.regularizers.sam import sam

RHO = 0.5


class Two:
    """Two parameters and a loss of theirs that counts how often it is asked for."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        shapes, how = ((3,), (2, 2)), {"generator": generator, "dtype": torch.float64}
        self.parameters = [torch.nn.Parameter(torch.randn(s, **how)) for s in shapes]
        self.places, self.written = [], 0

    def write(self):
        self.written += 1

    def loss(self):
        self.places.append([each.detach().clone() for each in self.parameters])
        loss = sum((each**4).sum() for each in self.parameters)
        loss.backward()
        return loss.detach()


def test_the_second_gradient_is_taken_at_distance_rho_along_the_first():
    two = Two()
    assert sam(RHO).gradients(two.loss, two) == sum((each**4).sum() for each in two.places[0])
    here, there = (torch.cat([each.flatten() for each in place]) for place in two.places)
    slope = 4 * here**3
    torch.testing.assert_close(there - here, RHO * slope / slope.norm(), rtol=1e-6, atol=0)
    found = torch.cat([each.grad.flatten() for each in two.parameters])
    torch.testing.assert_close(found, 4 * there**3)
    assert torch.equal(torch.cat([each.detach().flatten() for each in two.parameters]), here)
    assert two.written == 2  # there and back


def test_where_the_second_pass_fails_the_weights_are_back():
    two = Two()
    before = [each.detach().clone() for each in two.parameters]

    def fails():
        if two.places:
            raise RuntimeError("no memory")
        return two.loss()

    with pytest.raises(RuntimeError, match="no memory"):
        sam(RHO).gradients(fails, two)
    assert all(map(torch.equal, two.parameters, before))


def by_hand(model, optimizer, batches, write=lambda: None):
    """SAM as one writes it around any model and optimizer."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for images, labels in batches:
        cross_entropy(model(images), labels).backward()
        slopes = [p.grad.clone() for p in parameters]
        norm = torch.stack([slope.norm() for slope in slopes]).norm()
        with torch.no_grad():
            before = [p.clone() for p in parameters]
            for p, slope in zip(parameters, slopes, strict=True):
                p.add_(RHO * slope / norm)
            write()
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            for p, value in zip(parameters, before, strict=True):
                p.copy_(value)
            write()
        optimizer.step()
        optimizer.zero_grad()


def batches(count=4):
    data = Domains(8 * count)
    return [(data.images[i::count].double(), data.labels[i::count]) for i in range(count)]


@pytest.mark.parametrize("structure", ["row", "column", "block", "element"])
def test_with_every_weight_let_through_it_is_sam_of_the_plain_model(structure):
    plain = net().double()
    by_hand(plain, torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9), batches())
    model = net().double()
    config = gmixout.GMixout(
        mask_rate=0.0, anchor_decay=0.0, structure=structure, residual="persist"
    )
    masked = gmixout.attach(model, config, select=lambda name, parameter: True)
    groups = masked.param_groups(lr=0.1, head_lr=0.1)
    optimizer = masked.bind(torch.optim.SGD(groups, 0.1, momentum=0.9))
    by_hand(model, optimizer, batches(), masked.write)
    for found, expected in zip(
        masked.detach().state_dict().values(), plain.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("structure", ["row", "column", "element"])
def test_held_entries_stay_bit_for_bit(structure):
    """Also in the middle of a step: what a mask holds back is not perturbed."""
    method = f"gmixout(mask_rate=0.5, resample_every=None, structure={structure!r})"

    def changed(text):
        """Where the weight differs from its start, in each pass."""
        model = net()
        start, found = model.body.weight.detach().clone(), []
        model.body.register_forward_pre_hook(
            lambda module, _: found.append(module.weight.detach() != start)
        )
        run(text, model)
        return torch.stack(found)

    mask = changed(method).any(0)
    assert 0 < mask.sum() < mask.numel()
    passes = changed(f"{method}+sam(rho=2.0)")
    assert len(passes) == 12
    assert torch.equal(passes[1], mask)  # perturbed before the first optimizer step
    assert torch.equal(passes.any(0), mask)


def test_both_passes_see_the_same_dropout():
    """At a step so small that nothing moves, the two passes are one pass."""
    near = run("full+sam(rho=1e-30)")
    assert same(near, run("full"))


def test_a_loss_that_is_scaled_is_refused():
    with pytest.raises(ConfigError, match="fp16"):
        run("full+sam", mixed_precision="fp16")


def test_two_that_make_the_gradients_are_refused():
    class Another(sam):
        pass

    method = get_method("full+sam")
    object.__setattr__(method, "adds", (sam(), Another()))
    with pytest.raises(ConfigError, match="sam, Another cannot be combined"):
        run(method)
