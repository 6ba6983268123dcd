"""Parquet files of encoded images."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gmixout.data.folders import GAPS
from gmixout.data.images import ImageBytes
from gmixout.data.reading import reading, regular
from gmixout.errors import DataError, needs
from gmixout.settings import shown

_COLUMNS = ("image", "label")
_FRACTIONS = ("float", "double", "decimal")
MOST_TIMES = 64
"""Largest ratio of images to file size beyond `SMALL` bytes: images are compressed already."""
SMALL = 2**26


def read_parquet(file: Path) -> tuple[ImageBytes, tuple[str, ...]]:
    """Return the images of a parquet file, encoded, in memory; and their class names.

    Args:
        file: Has columns `image` (bytes of image files) and `label` (integers), perhaps `file`
            (names), and perhaps class names, separated by commas, in its schema's metadata under
            `classes`. Without them the names are numbers.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: A column is missing or of another type, or the file cannot be read.
    """
    with needs("pyarrow", "hub"):
        from pyarrow import parquet
    with reading(file, "a parquet file"), parquet.ParquetFile(regular(file)) as opened:
        schema = opened.schema_arrow
        told = (schema.metadata or {}).get(b"classes", b"").decode()
        columns = _columns(file, schema)
        size = file.stat().st_size
        if opened.metadata.num_rows > size:
            raise DataError(f"{file} says it has {opened.metadata.num_rows:,} rows in {size} bytes")
        # in parts, as a few bytes can say that a column holds one image a million times
        encoded: list[Any] = []
        labels: list[Any] = []
        names: list[Any] = []
        held = 0
        for part in opened.iter_batches(batch_size=64, columns=columns, use_threads=False):
            held += part.nbytes
            if held > MOST_TIMES * size + SMALL:
                raise DataError(f"{file} has {size:,} bytes and grows to more than {held:,}")
            encoded += part["image"].to_pylist()
            labels += part["label"].to_pylist()
            names += (
                part["file"].to_pylist() if "file" in columns else range(len(names), len(labels))
            )
    _check_labels(file, labels)
    classes = told.split(",") if told else [str(n) for n in range(max(labels, default=-1) + 1)]
    return ImageBytes(encoded, [f"{file}: {name}" for name in names], labels), tuple(classes)


def parquet_columns(file: Path) -> dict[str, str]:
    """Return the type of each column of a parquet file, as text, by its name.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: The file cannot be read.
    """
    with needs("pyarrow", "hub"):
        from pyarrow import parquet
    with reading(file, "a parquet file"), parquet.ParquetFile(regular(file)) as opened:
        return {field.name: str(field.type) for field in opened.schema_arrow}


def parquet_rows(
    file: Path, columns: Sequence[str], numbers: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each row, from 1, and its values as text; nothing is empty text.

    Args:
        file: A parquet file.
        columns: Columns of text, whole numbers or booleans, which are the values of the rows.
        numbers: Those that may hold other numbers, too.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: A column is missing or of another type, or the file cannot be read.
    """
    kinds = parquet_columns(file)
    for name in columns:
        if name not in kinds:
            raise DataError(f"{file} has no column {name}; it has: {shown([*kinds])}")
        kind = kinds[name].removeprefix("dictionary<")
        allowed = ("string", "int", "bool", "null", *(_FRACTIONS if name in numbers else ()))
        if "<" in kind or not any(word in kind for word in allowed):
            raise DataError(f"{file}: column {name} must hold text or numbers, and is {kind}")
    from pyarrow import parquet

    number = 0
    with reading(file, "a parquet file"), parquet.ParquetFile(file) as opened:
        for part in opened.iter_batches(columns=list(columns), use_threads=False):
            for row in part.to_pylist():
                number += 1
                yield number, {n: "" if v is None else str(v) for n, v in row.items()}


def _columns(file: Path, schema: Any) -> list[str]:
    """Return the names of the columns to read."""
    from pyarrow import types

    absent = [name for name in _COLUMNS if name not in schema.names]
    if absent:
        there = ", ".join(schema.names)
        raise DataError(f"{file} has no column {' and no '.join(absent)}; it has: {there}")
    image, label = (schema.field(name).type for name in _COLUMNS)
    if not (types.is_binary(image) or types.is_large_binary(image)):
        raise DataError(f"{file}: column image must hold bytes of image files, and is {image}")
    if not types.is_integer(label):
        raise DataError(f"{file}: column label must hold integers, and is {label}")
    return [*_COLUMNS, "file"] if "file" in schema.names else list(_COLUMNS)


def _check_labels(file: Path, labels: Iterable[int | None]) -> None:
    """Refuse labels that are missing, negative or far above the number of distinct ones."""
    most = GAPS * len(set(labels))
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < most:
            allowed = f"it must be an integer from 0 up, and below {most}"
            raise DataError(f"{file}, row {row}: label {shown(label)} is not allowed: {allowed}")
