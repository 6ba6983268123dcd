"""How much GMixout trains, at full finetuning's rate: `python benchmarks/real/variants.py`.

The table of docs/real.md, from the raw records: means over seeds, accuracies in percent, seconds of
a training run.
"""

from collections import defaultdict
from pathlib import Path
from statistics import fmean

from gmixout.results import Record, RunFolder

RESULTS = Path(__file__).parents[1] / "results" / "real"
FOLDERS = ("art_painting", "art_painting-shares")
LR = 3e-4


def main() -> None:
    """Print the table."""
    runs: defaultdict[tuple[str, ...], dict[int, Record]] = defaultdict(dict)
    for folder in FOLDERS:
        for record in RunFolder(RESULTS / folder).log.read():
            if record.method.name in ("full", "gmixout") and record.lr == LR:
                options = record.method.options
                names = ("mask_rate", "anchor_decay", "residual")
                setting = tuple(str(options.get(name, "")) for name in names)
                runs[setting].setdefault(record.seed, record)  # one setting is in both folders
    print("| `mask_rate` | `anchor_decay` | `residual` | validation | ID | OOD | seconds | seeds |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for setting, by_seed in sorted(runs.items()):
        found = list(by_seed.values())
        means = [
            100 * fmean(value)
            for value in zip(*((r.id_val, r.id, r.ood) for r in found), strict=True)
        ]
        seconds = fmean(r.training.seconds for r in found if r.training)
        name = setting if any(setting) else ("full finetuning", "", "")
        cells = [*name, *(f"{mean:.1f}" for mean in means), f"{seconds:.0f}", str(len(found))]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
