"""Losses for training data in which some classes are rare.

Both add to the logits what makes a class likely in training alone, so that the model itself need
not learn it; a test set with equally many images of each class then asks the plain logits.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

from gmixout.errors import ConfigError


def adjusted(logits: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    """Logits with the training set's class frequencies added.

        f'_y(x) = f_y(x) + tau log pi_y,    pi_y = n_y / sum_j n_j

    Args:
        logits: `[B, C]`.
        counts: `[C]`, training images of each class. A class without any gets -inf, and is then
            never the answer; as a label it makes the loss infinite.
        tau: How much; 0 leaves the logits as they are.

    Raises:
        ConfigError: `counts` does not go with the logits, or `tau` is negative.
    """
    if counts.shape != logits.shape[-1:]:
        raise ConfigError(
            f"counts has shape {list(counts.shape)}, and there are {logits.shape[-1]} classes: it "
            "must hold the number of training images of each"
        )
    if tau < 0:
        raise ConfigError(f"tau={tau} must be 0 or more")
    if tau == 0:
        return logits
    counts = counts.to(logits)
    return logits + tau * (counts / counts.sum()).log()


def logit_adjusted(logits: Tensor, labels: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    """Logit adjusted cross-entropy, the mean over the batch.

        l(y, f(x)) = -log( e^(f_y(x) + tau log pi_y) / sum_j e^(f_j(x) + tau log pi_j) )

    Args:
        logits: `[B, C]`.
        labels: `[B]`, or probabilities `[B, C]`.
        counts: `[C]`, training images of each class.
        tau: How much to adjust; 1 is consistent for the balanced error.

    Source: Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, eq. 10.
    """
    return cross_entropy(adjusted(logits, counts, tau), labels)


def balanced_softmax(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of the balanced softmax, the mean over the batch.

        l(y, f(x)) = -log( n_y e^(f_y(x)) / sum_j n_j e^(f_j(x)) )

    The number of images, n_j = pi_j sum_k n_k, brings a factor that cancels: it is the logit
    adjusted loss at tau = 1.

    Args:
        logits: `[B, C]`.
        labels: `[B]`, or probabilities `[B, C]`.
        counts: `[C]`, training images of each class.

    Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020,
        eq. 4.
    """
    return logit_adjusted(logits, labels, counts, tau=1.0)
