"""Every setting and learning rate on paintings: `python benchmarks/real/rates.py`.

The tables of docs/real.md and, for structures and biases, of docs/levers.md, from the raw records:
means over seeds, accuracies in percent, seconds of a training run on one core of a busy machine.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from gmixout.results import Record, RunFolder

RESULTS = Path(__file__).parents[1] / "results" / "real"
FOLDERS = ("art_painting", "art_painting-shares", "art_painting-rates", "art_painting-averages")
METHODS = (
    "full",
    "ema",
    "l2_sp",
    "random_mask",
    "lora",
    "mixout",
    "high_rate_mixout",
    "gmixout",
)
NAMED = ("mask_rate", "anchor_decay", "resample_every", "residual")
"""Options of GMixout that its rows name."""


def main() -> None:
    """Print the tables."""
    print_table(FOLDERS, METHODS, NAMED)
    print()
    print_table(("art_painting-modes",), ("gmixout",), ("structure", "group_size", "biases"))


def print_table(folders: Sequence[str], methods: Sequence[str], named: Sequence[str]) -> None:
    """Print a table of methods, by some of GMixout's options and the learning rate."""
    runs: defaultdict[tuple[str, str, float], dict[tuple[int, str], Record]] = defaultdict(dict)
    for folder in folders:
        for record in RunFolder(RESULTS / folder).log.read():
            name = record.method.name
            if name in methods and record.lr is not None and record.training:
                options = record.method.options if name == "gmixout" else {}
                setting = ", ".join(str(options[each]) for each in named if each in options)
                key = record.seed, record.machine.git
                runs[name, setting, record.lr].setdefault(key, record)  # one may be in two folders
    print(f"| method | {', '.join(f'`{each}`' for each in named)} ", end="")
    print("| learning rate | validation | ID | OOD | seconds | runs |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    order = {name: place for place, name in enumerate(methods)}
    for (name, setting, lr), found in sorted(runs.items(), key=lambda x: (order[x[0][0]], x[0])):
        records = list(found.values())
        means = [
            100 * fmean(value)
            for value in zip(*((r.id_val, r.id, r.ood) for r in records), strict=True)
        ]
        seconds = fmean(r.training.seconds for r in records if r.training)
        cells = [name, setting, f"{lr:g}", *(f"{mean:.1f}" for mean in means), f"{seconds:.0f}"]
        print(f"| {' | '.join([*cells, str(len(records))])} |")


if __name__ == "__main__":
    main()
