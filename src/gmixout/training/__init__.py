"""The training loop, its settings, and checkpoints."""

from gmixout.training.arguments import TrainingArguments
from gmixout.training.loop import check_training_settings, train
from gmixout.training.memory import PeakMemory
from gmixout.training.processes import refuse_several_processes
from gmixout.training.trainer import TrainingInterrupted, TrainingResult

__all__ = [
    "PeakMemory",
    "TrainingArguments",
    "TrainingInterrupted",
    "TrainingResult",
    "check_training_settings",
    "refuse_several_processes",
    "train",
]
