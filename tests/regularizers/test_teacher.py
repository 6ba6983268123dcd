"""Distillation from the pretrained model pulls towards what it answers."""

import torch
from small_run import Domains, run
from torch.nn.functional import cross_entropy, log_softmax
from toy_benchmark import net

from gmixout.data.batch import Batch
from gmixout.regularizers.teacher import teacher


class Asking:
    def __init__(self, answer):
        self.pretrained = lambda batch: Given(answer)


class Given:
    def __init__(self, logits):
        self.logits = logits
        self.batch = Batch(torch.zeros(len(logits), 1, 1, 1), torch.zeros(len(logits)).long())


def test_it_is_the_divergence_of_softened_answers():
    torch.manual_seed(0)
    own, goal, heat = *torch.randn(2, 6, 4, dtype=torch.float64), 3.0
    p, q = (log_softmax(each / heat, 1) for each in (goal, own))
    expected = 0.7 * heat**2 * (p.exp() * (p - q)).sum(1).mean()
    found = teacher(weight=0.7, temperature=heat).term(Given(own), Asking(goal))
    torch.testing.assert_close(found, expected)


def test_a_model_that_answers_as_before_is_not_pulled():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    term = teacher().term(Given(logits), Asking(logits.detach()))
    (slope,) = torch.autograd.grad(term, logits)
    torch.testing.assert_close(term, torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_it_keeps_answers_and_the_teacher_stays_what_it_was():
    images = Domains().images

    def away(**settings):
        model = run(**settings, steps=30, lr=3e-2, head_lr=3e-2).model
        with torch.no_grad():
            goal = net()(images).softmax(1)
            return float(cross_entropy(model(images), goal))

    assert away(method="full+teacher(weight=30)") < away() - 0.05


def test_nothing_of_it_is_left_in_the_model():
    plain, taught = run().model, run("full+teacher").model
    assert taught.state_dict().keys() == plain.state_dict().keys()
    assert not taught._forward_pre_hooks
    assert all(each.requires_grad for each in taught.parameters())
