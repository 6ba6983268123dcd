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

    In place of label it has the columns of the data's task.

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
    columns, _ = benchmark.task.table(benchmark.train.labels[:0], benchmark.classes)
    columns = ["path", *columns, "split", *(["domain"] if has_domains else [])]
    writer.writerow(map(printable, map(_text, columns)))
    for part, images in benchmark.sets.items():
        if isinstance(images, CorruptedImages) or part in benchmark.unknown_tests:
            continue
        _, targets = benchmark.task.table(images.labels, benchmark.classes)
        for index, target in enumerate(targets):
            name = images.name(index).removeprefix(f"{folder}/")
            # no spreadsheet may take a cell for a formula, and a path stays a path
            row = [f"./{name}" if name.startswith(_FORMULA) else name]
            row += map(_text, target) if benchmark.task.has_classes else target
            row.append(_text(_SPLITS.get(part, part)))
            if has_domains:
                group = None if images.groups is None else int(images.groups[index])
                row.append(_text(images.group_names[group] if group is not None else part))
            writer.writerow(map(printable, row))
    return held.getvalue()


def _text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value
