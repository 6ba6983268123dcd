"""The interface of a task: what a model is trained to say of an image, and how that is measured."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

from torch import Tensor

from gmixout.errors import ConfigError
from gmixout.named import Named
from gmixout.settings import check_settings

Cells: TypeAlias = tuple[str, ...]
"""The texts of one image in the columns of a table that hold its target."""
Top: TypeAlias = Sequence[tuple[str, float]]
"""Names of outputs and their scores: classes by probability, the best first; numbers in order."""


class Basics(NamedTuple):
    """What is measured on every data set of a task, where it is defined."""

    accuracy: float | None = None
    """Share of images whose class is right."""
    nll: float | None = None
    """Mean negative log-likelihood, in nats."""
    ece: float | None = None
    """Expected calibration error over 15 bins of equal width, in [0, 1]."""


@dataclass(frozen=True)
class LearningTask(Named):
    """A task.

    Subclasses are frozen dataclasses, named the way a user types it (`--task NAME`); their fields
    are what the training set has fixed. A model has one output for each class, or for each number
    that it predicts: `classes` are the names of either.
    """

    title: ClassVar[str]
    """What it is, for the middle of a sentence."""
    usual_columns: ClassVar[Cells]
    """Names of a table's column, in lower case, that show that the task is this one."""
    columns_option: ClassVar[str] = ""
    """Option that names several columns, one for each output; empty: there is one column."""
    least_outputs: ClassVar[int] = 1
    """A data set with fewer is an error."""
    has_classes: ClassVar[bool] = True
    """False if outputs are numbers."""
    loss: ClassVar[str] = ""
    """Name of its loss where none is given; empty: the one that `TrainingArguments` has."""
    answers: ClassVar[tuple[str, str]] = ("logits", "probabilities")
    """Names of the model's outputs and of what users get, in exported programs."""
    problem_type: ClassVar[str] = ""
    """Name of the task in configs of transformers; empty: the usual one, which they leave out."""
    keeps_all: ClassVar[bool] = True
    """True if a prediction is of the scores of all outputs, and not of the best ones alone."""
    threshold: ClassVar[float | None] = 0.0
    """Probability from which a class is predicted, where none is given; None: there is none."""

    def __post_init__(self) -> None:
        """Check the fields against their annotations."""
        check_settings(self)

    @property
    def metric(self) -> str:
        """Its metric, a name in `evaluation.official.METRICS`: choices are made on it."""
        return "accuracy"

    @property
    def extra_metrics(self) -> tuple[str, ...]:
        """Metrics reported in addition."""
        return ()

    def check_outputs(self, outputs: int) -> None:
        """Check that a model of so many outputs can have this task.

        Raises:
            ConfigError: It cannot.
        """
        del outputs

    # ----- from a table

    @classmethod
    def wrong(cls, cell: str, by_column: bool) -> str:
        """Return what is wrong with a cell: "is empty", another clause, or nothing.

        Args:
            cell: Its text, stripped.
            by_column: There is a column for each output.
        """
        del by_column
        return "" if cell else "is empty"

    @classmethod
    def hint(cls, labels: Sequence[str]) -> str:
        """Return a hint that labels, read as classes, may be meant for this task; or nothing."""
        del labels
        return ""

    @classmethod
    @abstractmethod
    def outputs_of(cls, rows: Sequence[Cells]) -> tuple[str, ...]:
        """Return the names of all classes that the one column of a table holds, in order."""

    @classmethod
    @abstractmethod
    def encoder(cls, classes: Sequence[str], by_column: bool) -> Callable[[Cells], Any]:
        """Return the function from an image's cells to its label: a number, or one per output."""

    @classmethod
    def fitted(cls, labels: Tensor) -> "LearningTask":
        """Return the task of a training set.

        Args:
            labels: `[N]` or `[N, outputs]`.

        Raises:
            DataError: Nothing can be learned from these.
        """
        del labels
        return cls()

    @abstractmethod
    def table(self, labels: Tensor, classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        """Return labels as a table that is read back: names of columns, and a row of each image."""

    # ----- labels of a data set

    @abstractmethod
    def problem(self, labels: Tensor, classes: Sequence[str]) -> str:
        """Return what is wrong with the labels of a set, a clause; empty: nothing."""

    def unmeasured(self, labels: Tensor) -> str:
        """Return why the metric is not defined on a set of images, a clause; empty: it is."""
        del labels
        return ""

    @abstractmethod
    def counts(self, labels: Tensor, outputs: int) -> Tensor | None:
        """Return the number of images of each class, `[outputs]`; None if there are no classes."""

    @abstractmethod
    def strata(self, labels: Tensor) -> Tensor:
        """Return the group of each image `[N]` int64, for splits that have all in proportion."""

    def in_order(self, labels: Tensor, places: Sequence[int], outputs: int) -> Tensor:
        """Return labels for another order of the classes.

        Args:
            labels: `[N, outputs]`, or `[N]`.
            places: The new place of each class.
            outputs: Number of classes in the new order.
        """
        changed = labels.new_zeros(len(labels), outputs)
        changed[:, list(places)] = labels
        return changed

    # ----- outputs of a model

    @abstractmethod
    def fit_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the convex loss of a linear probe, summed over the images.

        Args:
            outputs: `[N, outputs]` of the model.
            labels: As the data set has them.
        """

    def basics(self, outputs: Tensor, labels: Tensor, rows: int) -> Basics:
        """Return what is measured on every data set.

        Args:
            outputs: `[N, outputs]` of the model, finite.
            labels: As the data set has them.
            rows: Images at a time, for the memory.
        """
        del outputs, labels, rows
        return Basics()

    def decoded(self, outputs: Tensor) -> Tensor:
        """Return outputs `[N, outputs]` in the units of the labels, for metrics."""
        return outputs

    @abstractmethod
    def scores(self, outputs: Tensor, temperature: float) -> Tensor:
        """Return what a user gets, `[N, outputs]`: probabilities, or numbers in their units."""

    def are_right(self, outputs: Tensor, labels: Tensor) -> bool:
        """Return whether every decision is right, so that no temperature can be fitted.

        Raises:
            ConfigError: The task has no probabilities.
        """
        raise ConfigError(f"{self.name} has no probabilities, and so nothing to calibrate")

    # ----- predictions for people

    def status(self, top: Top, threshold: float) -> str:
        """Return `ok`, or `abstain` where nothing reaches the threshold."""
        del top, threshold
        return "ok"

    @abstractmethod
    def label(self, top: Top, threshold: float) -> str:
        """Return the prediction in words."""

    @abstractmethod
    def columns(self, classes: Sequence[str], top_k: int) -> list[str]:
        """Return the columns of a table of predictions, without the file and the error."""

    @abstractmethod
    def cells(self, top: Top, threshold: float, top_k: int) -> list[Any]:
        """Return the values of these columns; None where there is nothing."""

    def fields(self, top: Top, threshold: float, top_k: int) -> dict[str, Any]:
        """Return the prediction as named values, for JSON."""
        held = dict(zip(self.columns((), 0), self.cells(top, threshold, 0), strict=True))
        return {**held, "top": [{"class": n, "probability": rounded(p)} for n, p in top[:top_k]]}

    def told(self, top: Top, top_k: int) -> str:
        """Return the scores in one line of text."""
        return ", ".join(f"{name} {100 * share:.1f}%" for name, share in top[:top_k])

    def limits(self) -> list[str]:
        """Return sentences for a model card on what the model cannot do."""
        return [
            "It gives every image one of its classes, also an image of something else.",
            "Probabilities are calibrated on in-domain images at most; elsewhere it is too sure.",
        ]

    def reading(self) -> str:
        """Return how outputs become what a user gets, a sentence for a model card."""
        return ""


_DIGITS = 6
"""Significant digits of a score: float32 has no more."""


def rounded(score: float) -> float:
    """Return a score without digits that float32 does not have."""
    return float(f"{score:.{_DIGITS}g}")


def ranks(top: Top, top_k: int) -> list[Any]:
    """Return the first classes and their probabilities in turn, filled up with None."""
    values = [value for name, share in top[:top_k] for value in (name, rounded(share))]
    return [*values, *[None] * (2 * top_k - len(values))]


def rank_columns(top_k: int) -> list[str]:
    """Return the columns of `ranks`."""
    each = range(1, top_k + 1)
    return [name for rank in each for name in (f"class_{rank}", f"probability_{rank}")]
