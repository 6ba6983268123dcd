"""Cross-entropy for training data in which some classes are rare: of adjusted logits.

What makes a class likely in training alone is added to the logits, so that the model itself need
not learn it; a test set with equally many images of each class then asks the plain logits.
"""

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from gmixout.errors import ConfigError


def adjusted(logits: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    """Logits with the training set's class frequencies added.

        f'_y(x) = f_y(x) + tau log pi_y,    pi_y = n_y / sum_j n_j

    Cross-entropy of them is the logit adjusted loss; with tau = 1 it is the balanced softmax,
    -log( n_y e^(f_y(x)) / sum_j n_j e^(f_j(x)) ), too.

    Source: Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, eq. 10; Ren et al.,
        "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, eq. 4.

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


def class_counts(dataset: Dataset[Any], classes: int) -> Tensor:
    """`[classes]`: images of each class.

    Args:
        dataset: Has its labels as a tensor `labels`, `[N]`.
        classes: How many the model has.

    Raises:
        ConfigError: The labels are not known without reading every image.
    """
    labels = getattr(dataset, "labels", None)
    if not isinstance(labels, Tensor):
        raise ConfigError(
            "logit_adjustment needs the number of images of each class: give the data set its "
            "labels as a tensor `labels`, or leave logit_adjustment at 0"
        )
    return labels.bincount(minlength=classes)
