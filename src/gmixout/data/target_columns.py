"""The columns of a user's table that hold what is to be predicted."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gmixout.data.parquet import parquet_columns
from gmixout.data.reading import table_columns
from gmixout.errors import DataError
from gmixout.plain import listed
from gmixout.tasks import TASKS, LearningTask, single_label
from gmixout.tasks.base import Cells

LABEL = "label"
"""The usual name of a column of classes."""
TARGETS = frozenset(name for kind in TASKS.values() for name in kind.usual_columns)
"""Names of columns, in lower case, that are understood as what is to be predicted."""


class TargetColumns(NamedTuple):
    """What is to be predicted, and where the table has it."""

    kind: type[LearningTask]
    columns: tuple[str, ...]
    """One column, or one for each output."""
    by_column: bool
    """There is a column for each output."""

    def names(self, rows: Sequence[Cells]) -> tuple[str, ...]:
        """Return the names of all outputs, in order."""
        return self.columns if self.by_column else self.kind.outputs_of(rows)

    def names_in(self, cells: Cells) -> tuple[str, ...]:
        """Return the names that a row holds, which come to stand in tables and names of files."""
        return () if self.by_column else self.kind.outputs_of([cells])

    def wrong(self, cells: Cells) -> tuple[list[str], str]:
        """Return the columns that must not be empty and are, and what is wrong with another one."""
        found = [self.kind.wrong(cell, self.by_column) for cell in cells]
        empty = [n for n, said in zip(self.columns, found, strict=True) if said == "is empty"]
        odd = [f"{n} {said}" for n, said in zip(self.columns, found, strict=True) if said]
        return empty, "" if empty or not odd else odd[0]

    def encoder(self, outputs: Sequence[str]) -> Callable[[Cells], Any]:
        """Return the function from a row's cells to its label."""
        return self.kind.encoder(outputs, self.by_column)

    def notes(self, outputs: Sequence[str]) -> list[str]:
        """Return the task that was understood, or hints that another one may be meant."""
        if self.kind is single_label:
            return [*filter(None, (kind.hint(outputs) for kind in TASKS.values()))]
        return [f"task {self.kind.__name__}, {self.kind.title}: column {listed(self.columns)}"]


def target_columns_of(
    table: Path, task: str, label_column: str, several: Mapping[str, tuple[str, ...]]
) -> TargetColumns:
    """Return what a table has to predict.

    Args:
        table: The table.
        task: A name in `TASKS`, or auto: as the columns say.
        label_column: Name of the one column; the usual name may stand for another usual one.
        several: For each task the columns that an option names, one for each output.

    Raises:
        DataError: Several columns may be meant.
    """
    for name, named in several.items():
        if named:
            return TargetColumns(TASKS[name], named, by_column=True)
    present = column_names(table)
    kinds = [*TASKS.values()] if task == "auto" else [TASKS[task]]
    if label_column != LABEL or LABEL in present:
        return TargetColumns(kinds[0], (label_column,), by_column=False)
    found = {kind: [c for c in present if _folded(c) in kind.usual_columns] for kind in kinds}
    fitting = [(kind, columns) for kind, columns in found.items() if columns]
    if not fitting and task != "auto":
        fitting = [(kinds[0], [c for c in present if _folded(c) in TARGETS])]
    if not fitting or not fitting[0][1]:
        return TargetColumns(kinds[0], (label_column,), by_column=False)
    kind, columns = fitting[0]
    if kind is single_label:
        fitting = fitting[:1]  # a table of classes may have other columns of any name
    if len(fitting) > 1 or len(columns) > 1:
        every = [column for _, own in fitting for column in own]
        raise DataError(
            f"{table} has no column {LABEL}, and {' or '.join(every)} may be meant: name it with "
            f"label_column={every[0]}" + (f" task={kind.__name__}" if len(fitting) > 1 else "")
        )
    return TargetColumns(kind, (columns[0],), by_column=False)


def _folded(column: str) -> str:
    return column.strip().lower()


def column_names(table: Path) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        DataError: It cannot be read.
    """
    if table.suffix.lower() == ".parquet":
        return [*parquet_columns(table)]
    return table_columns(table)
