"""Pure bfloat16 beside float32 on digits: `python benchmarks/precision.py`.

The table of docs/levers.md, from the raw records: OOD accuracy at matched ID accuracy, mean and
standard deviation over the seeds that reach the level, and what in-domain validation chooses.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from gmixout.results import RunFolder, Study
from gmixout.results.statistics import Estimate

RESULTS = Path(__file__).parent / "results"
LEVELS = (0.92, 0.93, 0.935)
LRS = (3e-4, 1e-3, 3e-3)
ROWS: tuple[tuple[str, str, str, Mapping[str, object]], ...] = (
    ("full finetuning, float32", "digits-study", "full", {}),
    ("full finetuning, bfloat16", "digits-bf16", "full", {}),
    ("GMixout, masked biases, float32", "digits-structures", "gmixout", {"biases": "masked"}),
    ("GMixout, masked biases, bfloat16", "digits-bf16", "gmixout", {"biases": "masked"}),
)
"""Label, folder, method and options."""


def main() -> None:
    """Print the table."""
    print(f"| | {' | '.join(f'OOD at ID {100 * x:g}' for x in LEVELS)} | validation | ID | OOD |")
    print("|---|" + "---:|" * (len(LEVELS) + 3))
    for label, folder, method, options in ROWS:
        study = Study(
            record
            for record in RunFolder(RESULTS / folder).log.read()
            if record.method.name == method
            and options.items() <= record.method.options.items()
            and record.seed < 3
            and record.lr in LRS
        )
        ((series, chosen),) = study.selected.items()
        curves = study.curves_of[series].values()
        cells = [_text(curve.ood_at(level) for curve in curves) for level in LEVELS]
        values = (lambda r: r.id_val, lambda r: r.id, lambda r: r.ood)
        cells += [f"{100 * chosen.estimate(value).mean:.1f}" for value in values]
        print(f"| {label} | {' | '.join(cells)} |")


def _text(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    estimate = Estimate.of(known)
    sd = "" if estimate.sd is None else f" ± {100 * estimate.sd:.1f}"
    return f"{100 * estimate.mean:.1f}{sd} (n={len(known)})"


if __name__ == "__main__":
    main()
