from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from gmixout import losses
from gmixout.data.batch import Batch


def logit_adjusted(logits, labels, counts, tau=1.0):
    """The loss after a training set with these numbers of images."""
    classes = torch.arange(len(counts)).repeat_interleave(counts)
    dataset = SimpleNamespace(labels=classes)
    loss = losses.cross_entropy(logit_adjustment=tau).start(dataset)
    return loss.mean(logits, Batch(images=logits, labels=labels))


balanced_softmax = logit_adjusted


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    return logits, torch.tensor([0, 1, 2, 3, 0, 2]), torch.tensor([500, 100, 20, 5])


@settings(deadline=None)
@given(st.integers(1, 10_000), st.floats(0, 3))
def test_equal_counts_give_cross_entropy(count, tau):
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(count))
    labels, counts = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([count] * 3)
    plain = cross_entropy(logits, labels)
    torch.testing.assert_close(balanced_softmax(logits, labels, counts), plain)
    torch.testing.assert_close(logit_adjusted(logits, labels, counts, tau), plain)


def test_tau_0_is_cross_entropy_and_tau_1_is_the_balanced_softmax(batch):
    logits, labels, _ = batch
    assert torch.equal(logit_adjusted(*batch, tau=0), cross_entropy(logits, labels))
    torch.testing.assert_close(logit_adjusted(*batch, tau=1), balanced_softmax(*batch))


def test_the_balanced_softmax_is_its_definition(batch):
    logits, labels, counts = batch
    weighted = counts * logits.exp()
    share = weighted[range(6), labels] / weighted.sum(1)
    torch.testing.assert_close(balanced_softmax(*batch), -share.log().mean())


def test_only_the_proportion_of_counts_matters(batch):
    logits, labels, counts = batch
    for tau in (0.5, 1.0, 2.0):
        torch.testing.assert_close(
            logit_adjusted(logits, labels, counts, tau),
            logit_adjusted(logits, labels, 7 * counts, tau),
        )


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_gradients(tau, batch):
    logits, labels, counts = batch
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: logit_adjusted(x, labels, counts, tau), logits)
    assert torch.autograd.gradcheck(lambda x: balanced_softmax(x, labels, counts), logits)


def test_a_rare_class_has_to_win_by_more(batch):
    """Where the plain logits tie, the loss pushes a rare label up harder than a common one."""
    counts = batch[2]
    logits = torch.zeros(1, 4, requires_grad=True)
    pushes = []
    for label in range(4):
        (push,) = torch.autograd.grad(
            balanced_softmax(logits, torch.tensor([label]), counts), logits
        )
        pushes.append(-push[0, label].item())
    assert pushes == sorted(pushes)
    assert pushes[0] < pushes[-1]


def test_trained_to_the_end_the_plain_logits_know_nothing_of_the_frequencies():
    """On labels that say nothing of the images, the best adjusted logits are the frequencies."""
    counts = torch.tensor([6, 3, 1])
    labels = torch.repeat_interleave(torch.arange(3), counts)
    logits = torch.zeros(3, requires_grad=True)
    loss = balanced_softmax(logits.expand(10, 3), labels, counts)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros(3))


def test_a_class_without_images_is_never_the_answer(batch):
    logits, labels, _ = batch
    counts = torch.tensor([500, 100, 20, 0])
    seen = labels != 3
    others = balanced_softmax(logits[seen][:, :3], labels[seen], counts[:3])
    torch.testing.assert_close(balanced_softmax(logits[seen], labels[seen], counts), others)
    assert balanced_softmax(logits, labels, counts) == torch.inf


def test_the_logits_keep_their_precision(batch):
    logits, labels, counts = batch
    assert logit_adjusted(logits.float(), labels, counts).dtype == torch.float32
    assert logit_adjusted(logits, labels, counts).dtype == torch.float64
