"""What a model is trained to say of an image: one file each, and a table of all."""

from gmixout.tasks.base import Basics, LearningTask
from gmixout.tasks.multi_label import multi_label
from gmixout.tasks.regression import regression
from gmixout.tasks.single_label import single_label

__all__ = [
    "DEFAULT_TASK",
    "TASKS",
    "Basics",
    "LearningTask",
    "multi_label",
    "regression",
    "single_label",
]

TASKS: dict[str, type[LearningTask]] = {
    task.__name__: task for task in (single_label, multi_label, regression)
}
"""Tasks by name. Where a table of the user's own fits several, the first counts."""

LearningTask._table = TASKS

DEFAULT_TASK = single_label()
"""The task of most data."""
