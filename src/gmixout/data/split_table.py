"""The split of a user's own images as a table, which `csv` reads back."""

import csv
import io
from pathlib import Path

from gmixout.data.base import Benchmark
from gmixout.data.common_corruptions import CorruptedImages
from gmixout.data.images import ImageSet
from gmixout.plain import printable

_SPLITS = {"id_val": "val", "id_test": "test"}
_FORMULA = ("=", "+", "-", "@")


def split_table(benchmark: Benchmark[ImageSet], root: Path) -> str:
    """Return a table of all images, with columns path, label, split and domain.

    In the folder of the data it makes the same split again, whatever is added there later.
    Corrupted images, which are made of others, and images of unknown classes are left out.

    Args:
        benchmark: The images.
        root: The folder or table of the data: paths are relative to the folder.
    """
    folder = root if root.is_dir() else root.parent
    has_domains = bool(benchmark.domains)
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    writer.writerow(["path", "label", "split", *(["domain"] if has_domains else [])])
    for part, images in benchmark.sets.items():
        if isinstance(images, CorruptedImages) or part in benchmark.unknown_tests:
            continue
        for index, label in enumerate(images.labels.tolist()):
            name = images.name(index).removeprefix(f"{folder}/")
            # no spreadsheet may take a cell for a formula, and a path stays a path
            row = [f"./{name}" if name.startswith(_FORMULA) else name]
            row += [_text(benchmark.classes[label]), _text(_SPLITS.get(part, part))]
            if has_domains:
                group = None if images.groups is None else int(images.groups[index])
                row.append(_text(images.group_names[group] if group is not None else part))
            writer.writerow(map(printable, row))
    return held.getvalue()


def _text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value
