"""What holds of each loss."""

import pytest
import torch
from torch.utils.data import TensorDataset

from gmixout.data.batch import Batch
from gmixout.errors import ConfigError
from gmixout.losses import LOSSES, Loss

LABELS = torch.tensor([0, 2, 2, 1, 0])
OTHERS = {
    "multi_label": torch.eye(4, dtype=torch.float64)[LABELS] + torch.eye(4, dtype=torch.float64)[3],
    "regression": torch.linspace(-3, 8, 20, dtype=torch.float64).reshape(5, 4),
}
"""Labels for tasks of several labels and of numbers."""
LOGITS = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SHARES = 0.75 * torch.eye(5, dtype=torch.float64) + 0.25 * torch.eye(5, dtype=torch.float64).roll(
    1, 0
)


def batch(name="cross_entropy", **fields):
    (task,) = LOSSES[name].tasks
    labels = OTHERS.get(task, LABELS)
    return Batch(torch.zeros(5, 1, 2, 2, dtype=torch.float64), labels, **fields)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("mixed", [False, True])
def test_each_example_has_a_loss_and_their_mean_is_the_mean(name, mixed):
    loss, own = LOSSES[name](), batch(name, shares=SHARES if mixed else None)
    losses = loss.losses(LOGITS, own)
    assert losses.shape == (5,)
    assert losses.isfinite().all()
    torch.testing.assert_close(loss.mean(LOGITS, own), losses.mean())
    # an example is judged alone
    part = Batch(own.images[:2], own.labels[:2])
    if not mixed:
        torch.testing.assert_close(loss.losses(LOGITS[:2], part), losses[:2])


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name]().losses(x, batch(name)), logits)


@pytest.mark.parametrize("name", LOSSES)
def test_shares_of_oneself_alone_change_nothing(name):
    alone = batch(name, shares=torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(
        LOSSES[name]().losses(LOGITS, alone), LOSSES[name]().losses(LOGITS, batch(name))
    )


@pytest.mark.parametrize("name", sorted(n for n in LOSSES if LOSSES[n].tasks[0] in OTHERS))
def test_a_mixture_of_targets_that_are_not_classes_is_their_mean(name):
    mixed = batch(name, shares=SHARES)
    labels = OTHERS[LOSSES[name].tasks[0]]
    torch.testing.assert_close(mixed.targets(4), 0.75 * labels + 0.25 * labels.roll(1, 0))
    itself = Batch(mixed.images, mixed.targets(4))
    torch.testing.assert_close(
        LOSSES[name]().losses(LOGITS, mixed), LOSSES[name]().losses(LOGITS, itself)
    )


@pytest.mark.parametrize("name", ["mse", "l1", "huber"])
@pytest.mark.parametrize("unit", [1.0, 1e-4, 2e6])
def test_the_loss_of_numbers_does_not_depend_on_their_unit(name, unit):
    """The model gives standard deviations: a loss in metres is that in millimetres."""
    labels = OTHERS["regression"]

    def losses(labels):
        data = TensorDataset(torch.zeros(5, 1), labels)
        data.labels = labels
        started = LOSSES[name]().start(data)
        return started.losses(LOGITS, Batch(torch.zeros(5, 1, dtype=torch.float64), labels))

    torch.testing.assert_close(losses(unit * labels - 7 * unit), losses(labels))


def test_binary_cross_entropy_is_that_of_each_class_by_itself():
    own = batch("binary_cross_entropy")
    p = LOGITS.sigmoid()
    by_hand = -(own.labels * p.log() + (1 - own.labels) * (1 - p).log()).mean(1)
    torch.testing.assert_close(LOSSES["binary_cross_entropy"]().losses(LOGITS, own), by_hand)


def test_a_loss_of_numbers_needs_numbers():
    classes = TensorDataset(torch.zeros(5, 1), LABELS)
    classes.labels = LABELS
    with pytest.raises(ConfigError, match=r"loss=mse needs .* tensor `labels` \[N, numbers\]"):
        LOSSES["mse"]().start(classes)


@pytest.mark.parametrize("name", ["mse", "l1", "huber"])
def test_numbers_keep_their_digits_in_half_precision(name):
    """3,000 and 3,001 are one number in bfloat16."""
    labels = torch.arange(3000.0, 3005.0)[:, None]
    data = TensorDataset(torch.zeros(5, 1), labels)
    data.labels = labels
    loss, outputs = LOSSES[name]().start(data), torch.zeros(5, 1, dtype=torch.bfloat16)
    losses = loss.losses(outputs, Batch(torch.zeros(5, 1), labels))
    assert losses[2] == 0
    assert (losses[[0, 1, 3, 4]] > 0).all()


def test_one_number_for_all_is_refused():
    class summed(Loss):
        def each(self, logits, batch):
            return logits.sum()

    with pytest.raises(ConfigError, match=r"loss summed returns shape \[\].*one value for each"):
        summed().mean(LOGITS, batch())
