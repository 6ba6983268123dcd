"""The figures of docs/claims.md, from the raw records: `python benchmarks/claims.py`.

Each line of a table is a comparison of GMixout with one method, in OOD accuracy at equal in-domain
accuracy: three positions in GMixout's in-domain range, and the in-domain accuracy of the setting
that validation chooses. Differences are paired by task and seed; intervals are 95%, over seeds
(`gmixout.results.across`).
"""

from pathlib import Path

from gmixout.results import Record, RunFolder
from gmixout.results.study import Study

RESULTS = Path(__file__).parent / "results"

EVIDENCE: dict[str, tuple[str, ...]] = {
    "digits": ("digits-study", "digits-bounded"),
    "PACS, small CNN": ("pacs/cnn-photo", "pacs/cnn-art_painting", "pacs/cnn-cartoon"),
    "PACS, small ViT": ("pacs/vit-photo", "pacs/vit-art_painting", "pacs/vit-cartoon"),
    "PACS paintings, EfficientNet-Lite0": ("real/art_painting",),
}
"""Folders of records by the name of what they show."""

RIVALS = (
    "full",
    "wise_ft",
    "uniform_soup",
    "greedy_soup",
    "lora",
    "random_mask",
    "mixout",
    "gmixout_wise_ft",
)


def studies_of(folders: tuple[str, ...]) -> list[Study]:
    """Return a study for each benchmark, with GMixout's default settings alone."""
    records: dict[str, list[Record]] = {}
    for folder in folders:
        for record in RunFolder(RESULTS / folder).log.read():
            options = record.method.options
            masked = options.get("of", {}).get("init_args", options)
            default = not masked.get("anchor_pull") and masked.get("anchor_decay", 0.9) == 0.9
            # digits-study has GMixout with an older scale of the learning rate
            older = folder == "digits-study" and record.method.name.startswith("gmixout")
            if not older and (default or not record.method.name.startswith("gmixout")):
                records.setdefault(record.benchmark.name, []).append(record)
    return [Study(each) for each in records.values()]
