"""The figures of docs/claims.md, from the raw records: `python benchmarks/claims.py`.

One table for each body of evidence: the setting of every method that in-domain validation chooses,
its differences to GMixout's, and the method's OOD accuracy minus GMixout's at equal in-domain
accuracy, at three positions in GMixout's in-domain range. Differences are paired by task and seed,
in points; intervals are 95%, over seeds (`gmixout.results.across`); n counts pairs.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gmixout.results import Record, RunFolder
from gmixout.results.across import AcrossRow, compare_across
from gmixout.results.statistics import Estimate, Pooled
from gmixout.results.study import Study

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Evidence:
    """Records that bear on the paper's claims."""

    title: str
    folders: tuple[str, ...]
    """Below `results`."""
    reference: str = "gmixout"
    """GMixout, as `gmixout report --reference` takes it."""
    leave_out: frozenset[tuple[str, str]] = frozenset()
    """Folder and method of records that a later folder replaces."""
    keep: Callable[[Record], bool] = lambda record: True
    """Which records are evidence."""

    def studies(self) -> list[Study]:
        """Return one study for each benchmark."""
        records: dict[str, list[Record]] = {}
        for folder in self.folders:
            for record in RunFolder(RESULTS / folder).log.read():
                if (folder, record.method.name) not in self.leave_out and self.keep(record):
                    records.setdefault(record.benchmark.name, []).append(record)
        return [Study(each) for each in records.values()]


LRS_OF_PAINTINGS = {
    "full": 6e-4,
    "wise_ft": 6e-4,
    "lora": 2e-3,
    "mixout": 1e-3,
    "gmixout": 6e-4,
    "gmixout_wise_ft": 6e-4,
}
"""The learning rates that in-domain validation chose on paintings (docs/real.md)."""


DEFAULTS = {"mask_rate": 0.7, "anchor_decay": 0.7, "resample_every": 10, "residual": "reset"}


def at_default(record: Record) -> bool:
    """Return whether a record has the defaults of today, if it is GMixout's."""
    options = record.method.options
    if record.method.name == "gmixout_wise_ft":  # before, `of` was left out at its default
        return bool(options.get("of") == "gmixout(mask_rate=0.7, anchor_decay=0.7)")
    return record.method.name != "gmixout" or DEFAULTS.items() <= options.items()


def fixed_on_paintings(record: Record) -> bool:
    """Return whether a record has the setting that paintings' validation data chose."""
    name = record.method.name
    return name == "zero_shot" or (record.lr == LRS_OF_PAINTINGS.get(name) and at_default(record))


EVIDENCE = (
    Evidence(
        "Digits, tiny ViT of our own",
        ("digits-study", "digits-bounded"),
        leave_out=frozenset(
            ("digits-study", name) for name in ("gmixout", "gmixout_wise_ft")
        ),  # with an older scale of the learning rate
    ),
    Evidence(
        "PACS, small CNN of our own",
        tuple(f"pacs/cnn-{d}" for d in ("photo", "art_painting", "cartoon")),
    ),
    Evidence(
        "PACS, small ViT of our own",
        tuple(f"pacs/vit-{d}" for d in ("photo", "art_painting", "cartoon")),
        reference="gmixout(anchor_decay=0.9, anchor_pull=0.0)",
    ),
    Evidence(
        "Paintings of PACS, EfficientNet-Lite0",
        ("real/art_painting", "real/art_painting-rates"),
        keep=at_default,
    ),
    Evidence(
        "Cartoons and photos of PACS, EfficientNet-Lite0",
        ("real/cartoon", "real/cartoon-fixed", "real/photo"),
        keep=fixed_on_paintings,
    ),
    Evidence(
        "PACS, one domain left out, EfficientNet-Lite0",
        tuple(f"real/without_{d}" for d in ("art_painting", "cartoon", "photo")),
        keep=fixed_on_paintings,
    ),
    Evidence(
        "CIFAR-10 with corruptions, EfficientNet-Lite0",
        tuple(f"real/cifar10{part}" for part in ("", "-rates", "-mixout", "-lora")),
    ),
    Evidence(
        "Long-tailed Caltech-101 with corruptions, EfficientNet-Lite0",
        tuple(f"real/caltech101_tail{part}" for part in ("", "-rates", "-low")),
    ),
)
ON_PACS = slice(3, 6)

EVERY_REAL = Evidence(
    "GMixout + WiSE-FT against WiSE-FT, EfficientNet-Lite0, all benchmarks of PACS",
    tuple(folder for evidence in EVIDENCE[ON_PACS] for folder in evidence.folders),
    keep=at_default,
)
HELD_OUT = EVIDENCE[4:6]
"""With settings that were chosen elsewhere."""
LABELS = {
    "zero_shot": "linear probe, the start",
    "full": "full finetuning",
    "wise_ft": "WiSE-FT",
    "lora": "LoRA r=8",
    "mixout": "Mixout",
    "gmixout": "**GMixout**",
    "gmixout_wise_ft": "GMixout + WiSE-FT",
}
ALPHAS = (0.3, 0.5, 0.7)
VALUES: dict[str, Callable[[Record], float]] = {
    "ID": lambda record: record.id,
    "OOD": lambda record: record.ood,
}

METHODS = (
    "zero_shot",
    "full",
    "wise_ft",
    "uniform_soup",
    "greedy_soup",
    "lora",
    "random_mask",
    "mixout",
    "gmixout",
    "gmixout_wise_ft",
)


def main() -> None:
    """Print the tables."""
    for evidence in EVIDENCE:
        print("\n".join(["", f"## {evidence.title}", "", *table(evidence)]))
    print("\n".join(["", f"## {EVERY_REAL.title}", "", *along_the_path(EVERY_REAL)]))
    print("\n".join(["", "## In short", "", *in_short()]))


def table(evidence: Evidence) -> Iterable[str]:
    """Yield the lines of a table in Markdown."""
    across = compare_across(evidence.studies(), evidence.reference)
    (base,) = (row for row in across.rows if row.series == across.reference)
    yield (
        "| method | ID | OOD | chosen: ID minus GMixout's | chosen: OOD minus GMixout's "
        "| equal ID: OOD at 25% | at 50% | at 75% |"
    )
    yield "|---|" + "---:|" * 7
    for row in across.rows:
        if row.series[0] in METHODS:
            yield f"| {' | '.join(cells(row, base))} |"


def along_the_path(evidence: Evidence) -> Iterable[str]:
    """Yield a table of GMixout + WiSE-FT minus WiSE-FT at each mixing coefficient."""
    yield "| alpha | ID: GMixout + WiSE-FT minus WiSE-FT | OOD |"
    yield "|---:|---:|---:|"
    studies = evidence.studies()
    for alpha in ALPHAS:
        differences = []
        for value in VALUES.values():
            parts = {}
            for study in studies:
                base, ours = (
                    {
                        record.seed: value(record)
                        for record in study.records
                        if (record.method.name, record.alpha) == (name, alpha)
                        and fixed_on_paintings(record)
                    }
                    for name in ("wise_ft", "gmixout_wise_ft")
                )
                if both := ours.keys() & base.keys():
                    parts[study.benchmark] = Estimate.of(ours[s] - base[s] for s in both)
            differences.append(difference(Pooled(parts)))
        yield f"| {alpha} | {' | '.join(differences)} |"


def in_short() -> Iterable[str]:
    """Yield the table of the README: two bodies of evidence side by side."""
    found: dict[str, list[str]] = {name: [] for name in LABELS}
    for evidence in HELD_OUT:
        across = compare_across(evidence.studies(), evidence.reference)
        (base,) = (row for row in across.rows if row.series == across.reference)
        for row in across.rows:
            _, *own, _, ood = cells(row, base)[:5]
            found[row.series[0]] += [*own, re.sub(r" \[[^]]*\]| \(n=\d+\)", "", ood)]
    yield (
        "| | cartoons, photos: ID | OOD | OOD minus GMixout's "
        "| one domain left out: ID | OOD | OOD minus GMixout's |"
    )
    yield "|---|" + "---:|" * 6
    for name, label in LABELS.items():
        yield f"| {label} | {' | '.join(found[name])} |"


def cells(row: AcrossRow, base: AcrossRow) -> list[str]:
    """Return the cells of a method."""
    method, variant = row.series
    name = f"{method}({variant})" if variant else method
    own = [f"{100 * row.estimate(value).mean:.1f}" for value in VALUES.values()]
    if row is base:
        return [f"**{name}**", *own, *[""] * (2 + len(row.at_places))]
    chosen = [difference(paired(row, base, value)) for value in VALUES.values()]
    return [name, *own, *chosen, *map(difference, row.at_places)]


def paired(row: AcrossRow, base: AcrossRow, value: Callable[[Record], float]) -> Pooled | None:
    """Return a value at the chosen setting minus the reference's, by task and seed."""
    parts = {}
    for task in row.chosen.keys() & base.chosen.keys():
        of = {record.seed: value(record) for record in base.chosen[task].records}
        both = [r for r in row.chosen[task].records if r.seed in of and r.training is not None]
        if both:
            parts[task] = Estimate.of(value(record) - of[record.seed] for record in both)
    return Pooled(parts) if parts else None


def difference(pooled: Pooled | None) -> str:
    """Return a difference in points with its interval, bold if significant over three pairs."""
    if pooled is None:
        return ""
    interval = pooled.interval()
    if interval is None:
        return f"{100 * pooled.mean:+.1f} (n={pooled.n})"
    low, high = interval
    text = f"{100 * pooled.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] (n={pooled.n})"
    return f"**{text}**" if pooled.n > 2 and (low > 0 or high < 0) else text


if __name__ == "__main__":
    main()
