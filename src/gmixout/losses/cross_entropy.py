"""Cross-entropy, optionally of adjusted logits for training data with rare classes.

The log frequency of each class in training is added to the logits, so that the model need not learn
it. Test sets with equally many images of each class then use the plain logits.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from gmixout.data.batch import Batch
from gmixout.errors import ConfigError
from gmixout.losses.base import Loss
from gmixout.settings import require
from gmixout.tasks import single_label


@dataclass(frozen=True)
class cross_entropy(Loss):
    """Cross-entropy of softmax, of soft targets where images are mixed.

    Args:
        label_smoothing: Share of each target that is spread over all classes, in [0, 1) (Szegedy et
            al., CVPR 2016, arXiv 1512.00567).
        logit_adjustment: Tau of the logit adjusted loss for rare classes (arXiv 2007.07314); 1 is
            the balanced softmax, 0 is off.
    """

    label_smoothing: float = 0.0
    logit_adjustment: float = 0.0

    tasks: ClassVar[tuple[str, ...]] = (single_label.__name__,)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")
        require(self, "logit_adjustment", self.logit_adjustment >= 0, "0 or more")

    @property
    def soft(self) -> bool:  # type: ignore[override]
        """True if labels are smoothed."""
        return self.label_smoothing > 0

    def start(self, dataset: Dataset[Any]) -> Loss:
        """Return the loss, which counts the images of each class if it needs to."""
        return _Adjusted(self, class_counts(dataset)) if self.logit_adjustment else self

    def each(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of each example, `[B]`, in nats."""
        return self._reduced(logits, batch, "none")

    def mean(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy, in nats."""
        return self._reduced(logits, batch, "mean")

    def _reduced(self, logits: Tensor, batch: Batch, reduction: str) -> Tensor:
        target = batch.labels
        if batch.shares is not None:
            target = batch.targets(logits.shape[1]).to(logits.dtype)
        smoothing = self.label_smoothing
        return functional.cross_entropy(
            logits, target, label_smoothing=smoothing, reduction=reduction
        )


class _Adjusted(Loss):
    """A loss of logits to which a training set's class frequencies are added.

        f'_y(x) = f_y(x) + tau log pi_y,    pi_y = n_y / sum_j n_j

    A class without images gets -inf: it is never the answer, and as a label makes the loss
    infinite. With tau = 1 this is the balanced softmax,
    -log( n_y e^(f_y(x)) / sum_j n_j e^(f_j(x)) ), too.

    Source: Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, eq. 10; Ren et al.,
        "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, eq. 4.
    """

    def __init__(self, plain: cross_entropy, counts: Tensor) -> None:
        self._plain, self._counts = plain, counts

    def each(self, logits: Tensor, batch: Batch) -> Tensor:
        return self._plain.each(self._adjusted(logits), batch)

    def mean(self, logits: Tensor, batch: Batch) -> Tensor:
        return self._plain.mean(self._adjusted(logits), batch)

    def _adjusted(self, logits: Tensor) -> Tensor:
        if len(self._counts) != logits.shape[1] or self._counts.device != logits.device:
            missing = logits.shape[1] - len(self._counts)  # classes after the last that has images
            self._counts = functional.pad(self._counts, (0, missing)).to(logits.device)
        counts = self._counts.to(logits)
        return logits + self._plain.logit_adjustment * (counts / counts.sum()).log()


def class_counts(dataset: Dataset[Any], classes: int = 0) -> Tensor:
    """Return the number of images of each class, `[classes]`.

    Args:
        dataset: Has its labels as a tensor `labels`, `[N]`.
        classes: Minimum number of classes.

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
