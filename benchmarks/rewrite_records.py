"""Rewrite records of schema 2 in the layout of today: `python benchmarks/rewrite_records.py PATH`.

Each PATH is a file of records or a folder, in which every records.jsonl is rewritten, whole or not
at all. Each new line must say what the old one says, figure for figure; the old form is read in any
case, so this only saves time and space for thought.
"""

import json
import sys
from pathlib import Path
from typing import Any

from gmixout.files import write_text
from gmixout.results import Record, RunFolder

SETS = ("accuracy", "nll", "ece", "examples")


def main(paths: list[Path]) -> None:
    """Rewrite the files and say how many records each has."""
    for path in paths:
        name = RunFolder(path).log.path.name
        for file in sorted(path.rglob(name)) if path.is_dir() else [path]:
            print(f"{file}: {rewrite(file)} records")


def rewrite(file: Path) -> int:
    """Rewrite one file and return the number of its records.

    Raises:
        StateError: A line is broken; the file is as before.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    records = [Record.from_json(line) for line in lines]
    for line, record in zip(lines, records, strict=True):
        old = json.loads(line)
        if old["schema"] == 2 and (differing := differences(old, record)):
            raise SystemExit(f"{file}, run {record.run}: {', '.join(differing)} would differ")
    write_text(file, "".join(record.to_json() + "\n" for record in records))
    return len(records)


def differences(old: dict[str, Any], record: Record) -> list[str]:
    """Return the fields of schema 2 whose values the record does not have."""
    training = vars(record.training) if record.training else UNTRAINED
    now = {
        "time": record.time,
        "run": record.run,
        "benchmark": record.benchmark.name,
        "metric": record.benchmark.metric,
        "digests": record.benchmark.digests,
        "method": record.method.name,
        "options": record.method.spelled,
        **{name: value for name, value in training.items() if name not in ("settings", "loss")},
        "training": training["settings"],
        "train_loss": training["loss"],
        **{kind: {n: getattr(s, kind) for n, s in record.scores.items()} for kind in SETS},
        "figures": {name: each.figures for name, each in record.scores.items() if each.figures},
        "summary": record.summary,
        "notes": record.notes,
        "pool": record.pool,
        "members": record.members,
        "parameters": record.parameters,
        **vars(record.machine),
    }
    return [name for name, value in old.items() if name != "schema" and now[name] != value]


UNTRAINED = {
    "lr": None,
    "head_lr": None,
    "seed": 0,
    "step": 0,
    "steps": 0,
    "batch_size": None,
    "settings": {},
    "loss": None,
    "trainable": 0,
    "seconds": 0.0,
    "step_seconds": None,
    "peak_memory_bytes": None,
}
"""What schema 2 said of a model that was not trained."""

if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
