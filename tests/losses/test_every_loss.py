"""What holds of each loss."""

import pytest
import torch

from gmixout.data.batch import Batch
from gmixout.errors import ConfigError
from gmixout.losses import LOSSES, Loss

LABELS = torch.tensor([0, 2, 2, 1, 0])
LOGITS = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SHARES = 0.75 * torch.eye(5, dtype=torch.float64) + 0.25 * torch.eye(5, dtype=torch.float64).roll(
    1, 0
)


def batch(**fields):
    return Batch(torch.zeros(5, 1, 2, 2, dtype=torch.float64), LABELS, **fields)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("mixed", [False, True])
def test_each_example_has_a_loss_and_their_mean_is_the_mean(name, mixed):
    loss, own = LOSSES[name](), batch(shares=SHARES if mixed else None)
    losses = loss.losses(LOGITS, own)
    assert losses.shape == (5,)
    assert losses.isfinite().all()
    torch.testing.assert_close(loss.mean(LOGITS, own), losses.mean())
    # an example is judged alone
    part = Batch(own.images[:2], LABELS[:2])
    if not mixed:
        torch.testing.assert_close(loss.losses(LOGITS[:2], part), losses[:2])


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name]().losses(x, batch()), logits)


@pytest.mark.parametrize("name", LOSSES)
def test_shares_of_oneself_alone_change_nothing(name):
    alone = batch(shares=torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(
        LOSSES[name]().losses(LOGITS, alone), LOSSES[name]().losses(LOGITS, batch())
    )


def test_one_number_for_all_is_refused():
    class summed(Loss):
        def each(self, logits, batch):
            return logits.sum()

    with pytest.raises(ConfigError, match=r"loss summed returns shape \[\].*one value for each"):
        summed().mean(LOGITS, batch())
