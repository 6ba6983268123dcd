"""Regularizers, which act beside any method: one file each, and a table of all."""

from gmixout.regularizers import cutmix, group_dro, mixing, mixup, regmixup, sam, teacher
from gmixout.regularizers.base import (
    Beginning,
    Hooks,
    Regularizer,
    Seen,
    Sites,
    Step,
    StepLoss,
    Weights,
)

__all__ = [
    "REGULARIZERS",
    "Beginning",
    "Hooks",
    "Regularizer",
    "Seen",
    "Sites",
    "Step",
    "StepLoss",
    "Weights",
]

REGULARIZERS: dict[str, type[Regularizer]] = {
    regularizer.__name__: regularizer
    for regularizer in (
        mixup.mixup,
        cutmix.cutmix,
        mixing.mixing,
        regmixup.regmixup,
        sam.sam,
        group_dro.group_dro,
        teacher.teacher,
    )
}

Regularizer._table = REGULARIZERS
