"""The training loop, its settings, and checkpoints."""

from gmixout.training.arguments import TrainingArguments
from gmixout.training.loop import (
    TrainingInterrupted,
    TrainingResult,
    check_training_settings,
    refuse_several_processes,
    train,
)
from gmixout.training.memory import PeakMemory

__all__ = [
    "PeakMemory",
    "TrainingArguments",
    "TrainingInterrupted",
    "TrainingResult",
    "check_training_settings",
    "refuse_several_processes",
    "train",
]
