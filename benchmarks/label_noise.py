"""Measure which planted wrong labels `gmixout data check --model` finds.

    python benchmarks/label_noise.py --data DATA/PACS/photo --image-size 128 --seeds 2

A share of the labels of a folder of classes is replaced by other classes, drawn anew for each seed.
The candidates of the data check are compared with them, and so are those of the plain rule that
takes every image whose most probable class is not its own.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from gmixout.data import SOURCES
from gmixout.evaluation.label_noise import off_diagonal, out_of_fold
from gmixout.models import load_pretrained
from gmixout.models.probe import head_inputs


def planted(labels: Tensor, share: float, classes: int, seed: int) -> tuple[Tensor, set[int]]:
    """Return labels of which a share is wrong, and the positions of these."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    moved = torch.randint(1, classes, (len(wrong),), generator=generator)
    changed = labels.clone()
    changed[wrong] = (changed[wrong] + moved) % classes
    return changed, {*wrong.tolist()}


def line(seed: int, rule: str, found: set[int], wrong: set[int]) -> str:
    """Return a row of the table."""
    hits = len(found & wrong)
    return (
        f"| {seed} | {rule} | {len(wrong)} | {len(found)} | {hits} | "
        f"{hits / max(1, len(found)):.2f} | {hits / max(1, len(wrong)):.2f} |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    benchmark = SOURCES["imagefolder"](args.data).load()
    start = load_pretrained(
        args.model, benchmark.classes, head="random", image_size=args.image_size
    )
    sets = (benchmark.train, benchmark.id_val, benchmark.id_test)
    parts = [head_inputs(start, images.transformed(start.transform)) for images in sets]
    features, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    print(f"{len(labels):,} images of {len(benchmark.classes)} classes, {args.model}")
    print("| seed | rule | planted | candidates | hits | precision | recall |")
    print("|---|---|---|---|---|---|---|")
    for seed in range(args.seeds):
        given, wrong = planted(labels, args.share, len(benchmark.classes), seed)
        shares = out_of_fold(features, given, len(benchmark.classes))
        print(line(seed, "data check", {*off_diagonal(shares, given)}, wrong), flush=True)
        denied = (shares.nan_to_num().argmax(1) != given) & ~shares.isnan().any(1)
        print(line(seed, "argmax", {*denied.nonzero().flatten().tolist()}, wrong), flush=True)


if __name__ == "__main__":
    main()
