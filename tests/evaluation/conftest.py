from collections.abc import Callable
from dataclasses import replace

import pytest

from gmixout.evaluation.records import Record

ACCURACY = {"id_val": 0.9, "id_test": 0.9, "noise/1": 0.8, "noise/2": 0.6, "fonts": 0.5}
EXAMPLE = Record(
    run="0123456789ab",
    benchmark="digits",
    method="full",
    options={},
    lr=1e-3,
    head_lr=1e-3,
    seed=0,
    step=300,
    steps=300,
    batch_size=32,
    training={"label_smoothing": 0.0},
    train_loss=0.1,
    accuracy=ACCURACY,
    nll=dict.fromkeys(ACCURACY, 0.3),
    ece=dict.fromkeys(ACCURACY, 0.05),
    examples=dict.fromkeys(ACCURACY, 100),
    trainable=100,
    parameters=1000,
    seconds=3.0,
    step_seconds=0.01,
    peak_memory_bytes=10_000_000,
    device="cpu",
    threads=2,
    versions={"python": "3.12.1", "torch": "2.15.0"},
    git=None,
)


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """A record with some fields of one's own; `id`, `ood` and `id_val` set the accuracies."""

    def make(**changes) -> Record:
        accuracy = dict(EXAMPLE.accuracy)
        if "id" in changes:
            accuracy["id_test"] = changes.pop("id")
        if "id_val" in changes:
            accuracy["id_val"] = changes.pop("id_val")
        if "ood" in changes:
            accuracy = {k: accuracy[k] for k in ("id_val", "id_test")} | {"noise": changes["ood"]}
            del changes["ood"]
        accuracy = changes.pop("accuracy", accuracy)
        for name, value in (("nll", 0.3), ("ece", 0.05), ("examples", 100)):
            changes.setdefault(name, dict.fromkeys(accuracy, value))
        if changes.get("steps") == 0:
            changes["step"] = 0
        record = replace(EXAMPLE, **{"accuracy": accuracy, **changes})
        identity = f"{record.method}-{record.lr}-{record.seed}"
        return replace(record, run=changes.get("run", identity))

    return make
