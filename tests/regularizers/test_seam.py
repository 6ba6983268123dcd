"""The hooks: when each is called, with what, and what does not go together."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from small_run import Domains, run, same
from torch import nn
from toy_benchmark import Toy, net

from gmixout.data.batch import Batch
from gmixout.errors import ConfigError, TrainingError
from gmixout.methods.beside import beside
from gmixout.regularizers import REGULARIZERS, Hooks, Regularizer


def with_(*adds, **settings):
    return run(beside(adds=adds), **settings)


CALLS: list[str] = []


@dataclass(frozen=True)
class every_hook(Regularizer):
    """Notes each call."""

    asks: ClassVar = frozenset({"domains", "places", "views", "features", "pretrained"})

    def batch(self, batch, step):
        CALLS.append(f"batch {step.number} of {step.steps}")
        data = Domains()
        assert torch.equal(batch.labels, data.labels[batch.places])
        assert torch.equal(batch.domains, data.groups[batch.places])
        assert batch.views.shape == batch.images.shape
        assert not torch.equal(batch.views, batch.images)
        return batch

    def inside(self, batch, step):
        CALLS.append("inside")
        return batch, {}

    def risk(self, seen, step):
        CALLS.append(f"risk {step.passes}")
        assert seen.features.shape == (8, 12)
        torch.testing.assert_close(seen.losses.mean(), seen.mean())
        return seen.mean()

    def term(self, seen, step):
        CALLS.append("term")
        answer = step.pretrained(seen.batch)
        assert torch.equal(answer.logits, net()(seen.batch.images))
        assert torch.equal(net().head(answer.features), answer.logits)
        assert not answer.logits.requires_grad
        assert step.forward(seen.batch).logits.requires_grad

    def gradients(self, loss, weights):
        CALLS.append("gradients")
        assert all(each.grad is None for each in weights.parameters)
        first = loss()
        for each in weights.parameters:
            each.grad = None
        assert loss() == first  # the second repeats the first one's dropout
        return first


def test_hooks_are_called_in_order_with_all_they_ask_for():
    CALLS.clear()
    found = with_(every_hook(), steps=2, augment="randaugment")
    step = ["inside", "gradients", "risk 0", "term", "risk 1", "term"]
    assert ["batch 0 of 2", *step, "batch 1 of 2", *step] == CALLS
    assert not found.model.head._forward_pre_hooks


def test_what_nobody_asks_for_is_not_loaded():
    @dataclass(frozen=True)
    class look(Regularizer):
        def batch(self, batch, step):
            assert (batch.domains, batch.places, batch.views, batch.shares) == (None,) * 4
            return batch

    assert len(with_(look()).losses) == 6


@dataclass(frozen=True)
class halve_inside(Regularizer):
    """Halves what a layer gives, and is silent about targets."""

    layer: str = "body"

    def inside(self, batch, step):
        return batch, {self.layer: lambda output: output / 2}


class Whole(nn.Module):
    """The toy network without dropout."""

    divisor = 1

    def __init__(self):
        super().__init__()
        self.body, self.head = net().body, net().head

    def forward(self, images):
        return self.head(torch.tanh(self.body(images.flatten(1)) / self.divisor))


class Half(Whole):
    divisor = 2


def test_what_happens_inside_happens_in_the_main_pass_alone():
    inside = run(beside(adds=(halve_inside(),)), model=Whole())
    assert same(inside, run(model=Half()))
    assert not inside.model.body._forward_hooks
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        with_(halve_inside("nowhere"))


@dataclass(frozen=True)
class its_own(Regularizer):
    """A term with a parameter of its own, which is pulled to 1."""

    def start(self, beginning):
        assert beginning.heads == ("head",)
        return _Own()


class _Own(Hooks):
    seen: ClassVar[list[float]] = []

    def __init__(self):
        self.scale = nn.Parameter(torch.zeros(1))

    def parameters(self):
        return [self.scale]

    def term(self, seen, step):
        self.seen.append(self.scale.item())
        return (self.scale - 1).square().sum()

    def state_dict(self):
        return {"scale": self.scale.detach()}

    def load_state_dict(self, state):
        self.scale.data.copy_(state["scale"])


def test_parameters_of_a_regularizer_are_trained_beside_the_model():
    found = with_(its_own(), steps=30, head_lr=0.1, schedule="constant")
    assert abs(_Own.seen[-1] - 1) < 0.2
    assert found.trainable == run().trainable + 1
    assert found.model.state_dict().keys() == run().model.state_dict().keys()


def test_what_does_not_go_together_is_refused():
    @dataclass(frozen=True)
    class risky(Regularizer):
        def risk(self, seen, step):
            return seen.losses.max()

    @dataclass(frozen=True)
    class riskier(risky):
        pass

    with pytest.raises(ConfigError, match="risky, riskier cannot be combined"):
        with_(risky(), riskier())
    with pytest.raises(ConfigError, match="mixup is given twice"):
        run("full+mixup", regularizers=(REGULARIZERS["mixup"](),))
    with pytest.raises(ConfigError, match=r"second view.*--augment"):
        with_(every_hook())
    with pytest.raises(ConfigError, match="--train-domains"):
        with_(every_hook(), augment="randaugment", dataset=Toy(24, 0.3, seed=1))


def test_a_batch_goes_to_a_device_and_keeps_what_is_not_there():
    batch = Batch(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), domains=torch.tensor([1, 1]))
    there = batch.to("meta")
    assert (there.images.device.type, there.domains.device.type) == ("meta", "meta")
    assert there.places is None
    assert len(batch) == 2


@dataclass(frozen=True)
class domain_by_domain(Regularizer):
    """The gradient of the whole batch, one domain after another, as rules over domains need it."""

    asks: ClassVar = frozenset({"domains"})

    def gradients(self, loss, weights):
        total = 0.0
        for domain in loss.batch.domains.unique():
            own = loss.batch.domains == domain
            share = own.double().mean().item()
            before = [None if p.grad is None else p.grad.clone() for p in weights.parameters]
            for parameter in weights.parameters:
                parameter.grad = None
            total += share * loss(loss.batch.part(own))
            for parameter, earlier in zip(weights.parameters, before, strict=True):
                parameter.grad.mul_(share)
                if earlier is not None:
                    parameter.grad.add_(earlier)
        return total


def test_a_rule_may_take_the_gradients_of_parts_of_the_batch():
    """Weighted by their sizes they are those of the whole."""
    parts = run(beside(adds=(domain_by_domain(),)), model=Whole())
    whole = run(model=Whole())
    torch.testing.assert_close(torch.tensor(parts.losses), torch.tensor(whole.losses))


def test_a_mixed_batch_is_not_taken_apart():
    batch = Batch(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), shares=torch.eye(2))
    with pytest.raises(ConfigError, match="mixed cannot be taken apart"):
        batch.part(torch.tensor([0]))


def test_mistakes_of_ones_own_are_named():
    @dataclass(frozen=True)
    class wrong_shape(Regularizer):
        def term(self, seen, step):
            return seen.losses

    @dataclass(frozen=True)
    class wrong_word(Regularizer):
        asks: ClassVar = frozenset({"domain"})

    @dataclass(frozen=True)
    class not_a_number(Regularizer):
        def term(self, seen, step):
            return seen.logits.sum() * float("nan")

    with pytest.raises(ConfigError, match=r"the term of wrong_shape has shape \[8\]"):
        with_(wrong_shape())
    with pytest.raises(ConfigError, match="asks for domain; it may ask for domains"):
        with_(wrong_word())
    with pytest.raises(TrainingError, match=r"loss is nan at step 1.*look at not_a_number"):
        with_(not_a_number())


def test_a_state_that_changes_its_form_is_found_at_the_first_checkpoint(tmp_path):
    class Growing(Hooks):
        seen = torch.zeros(0)

        def term(self, seen, step):
            self.seen = torch.cat([self.seen, torch.zeros(1)])

        def state_dict(self):
            return {"seen": self.seen}

    @dataclass(frozen=True)
    class growing(Regularizer):
        def start(self, beginning):
            return Growing()

    with pytest.raises(ConfigError, match="state of regularizer growing changes"):
        with_(growing(), checkpoint=tmp_path / "c.pt")
