"""Records for tests, spelled flat: `changed(EXAMPLE, method="lora", lr=1e-3, ood=0.5)`."""

from dataclasses import fields, replace
from typing import Any

from gmixout.evaluation.metrics import Scores
from gmixout.results import BenchmarkFacts, Machine, MethodFacts, Record, Training

ACCURACY = {"id_val": 0.9, "id_test": 0.9, "noise/1": 0.8, "noise/2": 0.6, "fonts": 0.5}
EXAMPLE = Record(
    run="0123456789ab",
    benchmark=BenchmarkFacts(name="digits"),
    method=MethodFacts(name="full"),
    training=Training(
        lr=1e-3,
        head_lr=1e-3,
        seed=0,
        step=300,
        steps=300,
        batch_size=32,
        settings={"label_smoothing": 0.0},
        loss=0.1,
        trainable=100,
        seconds=3.0,
        step_seconds=0.01,
        peak_memory_bytes=10_000_000,
    ),
    scores={
        name: Scores(accuracy=value, nll=0.3, ece=0.05, examples=100)
        for name, value in ACCURACY.items()
    },
    parameters=1000,
    machine=Machine(
        device="cpu", threads=2, versions={"python": "3.12.1", "torch": "2.15.0"}, git=None
    ),
)
_NAMED = {"benchmark": BenchmarkFacts, "method": MethodFacts}
_PARTS = {**_NAMED, "training": Training, "machine": Machine}
_SETS = [field.name for field in fields(Scores)]


def changed(record: Record, **changes: Any) -> Record:
    """Return the record with other values, whichever part they are in.

    `benchmark` and `method` are names; `accuracy`, `nll`, `ece`, `examples` and `figures` are by
    set, and `accuracy` says which sets there are; `steps=0` is no training.
    """
    scores = {name: vars(each) for name, each in changes.pop("scores", record.scores).items()}
    for name, values in [(n, changes.pop(n)) for n in _SETS if n in changes]:
        if name == "accuracy":
            scores = {n: {**vars(EXAMPLE.scores["fonts"]), **scores.get(n, {})} for n in values}
        for part, value in values.items():
            scores[part] = {**scores[part], name: value}
    found: dict[str, Any] = {"scores": {n: Scores(**each) for n, each in scores.items()}}
    for part, kind in _PARTS.items():
        own = {f.name: changes.pop(f.name) for f in fields(kind) if f.name in changes}
        if part in _NAMED and part in changes:
            own["name"] = changes.pop(part)
        found[part] = getattr(record, part)
        if own and (part != "training" or own.get("steps", 1)):
            found[part] = replace(found[part] or EXAMPLE.training, **own)
        elif own:
            found[part] = None
    return replace(record, **found, **changes)


def sets(record: Record, name: str) -> dict[str, Any]:
    """Return a score of every set, for example the accuracy."""
    return {part: getattr(each, name) for part, each in record.scores.items()}
