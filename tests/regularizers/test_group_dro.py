"""GroupDRO is DomainBed's loop over domains, and knows its domains."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import DOMAINS, Domains, run
from toy_benchmark import Toy

from gmixout.data.batch import Batch
from gmixout.errors import ConfigError
from gmixout.regularizers import Beginning
from gmixout.regularizers.group_dro import group_dro


class Given:
    def __init__(self, losses, domains):
        self.losses = losses
        self.batch = Batch(torch.zeros(len(losses), 1, 1, 1), torch.zeros(len(losses)).long(),
                           domains=domains)  # fmt: skip


class Passing:
    passes = 0


def start(eta, domains=3):
    names = tuple(f"d{i}" for i in range(domains))
    return group_dro(eta).start(Beginning(torch.nn.Identity(), (), names, 0))


@settings(deadline=None)
@given(st.integers(1, 4), st.floats(0, 3), st.integers(0, 1000))
def test_it_is_the_published_loop(domains, eta, seed):
    """DomainBed, algorithms.py: q *= exp(eta L), q /= sum(q), risk = L . q, in every step."""
    generator = torch.Generator().manual_seed(seed)
    acting, q = start(eta, domains), torch.ones(domains, dtype=torch.float64)
    for _ in range(4):
        losses = torch.rand(5 * domains, generator=generator, dtype=torch.float64).requires_grad_()
        of = torch.arange(5 * domains) % domains
        risk = acting.risk(Given(losses, of), Passing())
        own = torch.stack([losses[of == domain].mean() for domain in range(domains)])
        q = q * (eta * own.detach()).exp()
        q = q / q.sum()
        torch.testing.assert_close(risk, own @ q, rtol=1e-5, atol=1e-7)
        (slope,) = torch.autograd.grad(risk, losses)
        torch.testing.assert_close(slope, q[of] / 5, rtol=1e-5, atol=1e-7)


def test_at_eta_0_it_is_the_mean_of_the_domains_means():
    losses, of = torch.tensor([1.0, 2.0, 6.0, 3.0]), torch.tensor([0, 0, 2, 2])
    assert start(0.0).risk(Given(losses, of), Passing()) == (1.5 + 4.5) / 2


def test_a_domain_that_is_not_in_the_batch_keeps_its_share_of_the_weights():
    acting = start(1.0)
    acting.risk(Given(torch.tensor([1.0, 0.0]), torch.tensor([0, 1])), Passing())
    grown = torch.tensor([1.0, 0.0, 0.0]).exp()
    torch.testing.assert_close(acting.state_dict()["log_weights"].exp(), grown / grown.sum())


def test_a_second_pass_of_a_step_moves_no_weight():
    acting, again = start(1.0), Passing()
    again.passes = 1
    acting.risk(Given(torch.tensor([1.0, 0.0]), torch.tensor([0, 1])), again)
    assert acting.state_dict()["log_weights"].exp().tolist() == [pytest.approx(1 / 3)] * 3


def test_it_needs_domains_and_their_names():
    with pytest.raises(ConfigError, match="--train-domains"):
        run("full+group_dro", dataset=Toy(24, 0.3, seed=1))
    nameless = Domains()
    nameless.group_names = ()
    with pytest.raises(ConfigError, match="needs a training set that names its domains"):
        run("full+group_dro", dataset=nameless)
    assert len(DOMAINS) == len(Domains().groups.unique())


def test_the_domain_served_worst_counts_most():
    """Labels of one domain are noise: its loss stays high, and its weight grows."""
    data = Domains(60)
    data.labels = torch.where(data.groups == 1, torch.randint(4, (60,)), data.labels)
    acting = []
    original = group_dro.start

    def remember(self, beginning):
        acting.append(original(self, beginning))
        return acting[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_dro, "start", remember)
        run("full+group_dro(eta=0.5)", dataset=data, steps=40, batches="even_domains", batch_size=9)
    assert acting[0].state_dict()["log_weights"].argmax() == 1


@pytest.mark.parametrize("eta", [1000.0, 1e30])
def test_a_large_step_size_takes_the_worst_domain_alone(eta):
    losses, of = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0, 1, 2])
    acting = start(eta)
    for _ in range(3):
        assert acting.risk(Given(losses, of), Passing()) == 3.0
