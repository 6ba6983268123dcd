"""Random start depth at equal rates: `python benchmarks/pacs/depth.py RUN [RUN ...]`.

The RUNs are folders of one or several comparisons of `gmixout` with and without
`mean_start_depth`, on several benchmarks and of several lengths. For each rate: in-domain and OOD
accuracy with all layers, of the shortest runs, and what those with a start depth have more, paired
by benchmark and seed, with 95% intervals over seeds (`Pooled`; bold: clear).
"""

import sys
from pathlib import Path
from statistics import median

from gmixout.results import Record, RunFolder
from gmixout.results.statistics import Estimate, Pooled

FIGURES = {"ID": lambda record: record.id, "OOD": lambda record: record.ood}


def main(folders: list[Path]) -> None:
    """Prints the table."""
    records = [record for each in folders for record in RunFolder(each).log.read()]
    runs = {
        (r.method.options["mean_start_depth"], r.steps, r.lr, (r.benchmark.name, r.seed)): r
        for r in records
        if r.method.name == "gmixout" and not r.method.options["anchor_pull"]
    }
    kinds = sorted({key[:2] for key in runs})
    fewest = kinds[0][1]
    seeds = {key[3] for key in runs if key[0] > 0}
    rates = sorted({key[2] for key in runs if key[0] > 0})
    print("| | run, s |", *(f"rate {r:g}: {name} |" for r in rates for name in FIGURES))
    print("|---|---:|" + "---:|" * len(rates) * len(FIGURES))
    for depth, steps in kinds:
        cells = [f"mean_start_depth {depth:g}, {steps} steps"]
        seconds = [
            r.training.seconds for k, r in runs.items() if k[:2] == (depth, steps) and k[3] in seeds
        ]
        cells.append(f"{median(seconds):.1f}")
        for rate in rates:
            for figure in FIGURES.values():
                pairs = [(runs[0.0, fewest, rate, s], runs[depth, steps, rate, s]) for s in seeds]
                cells.append(_text(pairs, figure, depth > 0))
        print("|", " | ".join(cells), "|")


def _text(pairs: list[tuple[Record, Record]], figure, paired: bool) -> str:  # type: ignore[no-untyped-def]
    if not paired:
        return f"{100 * _pooled([(a.benchmark.name, figure(a)) for a, _ in pairs]).mean:.1f}"
    gain = _pooled([(a.benchmark.name, figure(b) - figure(a)) for a, b in pairs])
    low, high = gain.interval() or (gain.mean, gain.mean)
    text = f"{100 * gain.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"**{text}**" if gain.significant else text


def _pooled(values: list[tuple[str, float]]) -> Pooled:
    """By benchmark, each with a value for each seed."""
    names = sorted({name for name, _ in values})
    return Pooled({name: Estimate.of(v for n, v in values if n == name) for name in names})


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
