"""Parquet files of encoded images."""

from pathlib import Path

from gmixout.data.images import ImageBytes
from gmixout.errors import DataError, needs

COLUMNS = ("image", "label")


def read_parquet(file: Path) -> tuple[ImageBytes, tuple[str, ...]]:
    """The images of a parquet file, encoded, in memory; and their class names.

    Args:
        file: Has columns `image` (bytes of image files) and `label` (integers), perhaps `file`
            (names), and perhaps class names, separated by commas, in its schema's metadata under
            `classes`. Without them the names are numbers.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: A column is missing, or the file cannot be read.
    """
    with needs("pyarrow", "hub"):
        import pyarrow
        from pyarrow import parquet
    try:
        table = parquet.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file} cannot be read as a parquet file ({error})") from error
    absent = [name for name in COLUMNS if name not in table.column_names]
    if absent:
        there = ", ".join(table.column_names)
        raise DataError(f"{file} has no column {' and no '.join(absent)}; it has: {there}")
    labels = table["label"].to_pylist()
    wrong = [label for label in labels if not isinstance(label, int)]
    if wrong:
        raise DataError(f"{file}: a label must be an integer, and there is {wrong[0]!r}")
    names = table["file"].to_pylist() if "file" in table.column_names else range(len(labels))
    told = (table.schema.metadata or {}).get(b"classes", b"").decode()
    classes = told.split(",") if told else [str(n) for n in range(max(labels, default=-1) + 1)]
    encoded = table["image"].to_pylist()
    return ImageBytes(encoded, [f"{file}: {name}" for name in names], labels), tuple(classes)
