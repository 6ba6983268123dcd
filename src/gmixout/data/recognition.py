"""Recognize which kind of data set a user's folder or file holds."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from gmixout.data.folders import pictures, subfolders
from gmixout.data.source import Source
from gmixout.errors import DataError
from gmixout.plain import counted


def recognized(root: Path) -> tuple[type[Source], Path]:
    """Return the kind of data at a place, and the root that it takes.

    Every kind is asked, in the order of the table (`Source.recognize`): published benchmarks first,
    then what may hold a user's own images. Nothing is decoded.

    Raises:
        DataError: It is none of them; the message says what is there and what to do.
    """
    kinds = cast(Mapping[str, type[Source]], Source._table)
    for kind in kinds.values():
        found = kind.recognize(root)
        if found is not None:
            return kind, found
    raise DataError(
        f"{root} {_content(root)}. Images in one folder for each class are read as they are, or "
        "train/, val/ and test/ of such folders, a table (.csv, .tsv, .parquet) of files and "
        f"labels, or a Hugging Face data set. To name the kind: --benchmark NAME, one of: "
        f"{', '.join(kinds)}"
    )


def _content(root: Path) -> str:
    """Return what is at a place that is not a data set."""
    if not os.path.lexists(root):
        return "is not there"
    if not root.is_dir():
        return "is a file that is not a table"
    folders, images = subfolders(root), pictures(root)
    beside = sum("/" not in name for name in images)
    if beside:
        return (
            f"holds {counted(beside, 'image')} in no class folder: sort images into one folder per "
            "class"
        )
    what = f"{len(folders):,} folders with {len(images):,} images"
    return f"holds {what}, which are not two or more classes"
