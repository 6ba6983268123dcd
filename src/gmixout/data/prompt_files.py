"""Files of the user's own prompts and class names, for zero-shot heads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from gmixout.data.prompts import class_texts
from gmixout.data.reading import lines_of, table_columns, table_rows
from gmixout.errors import DataError
from gmixout.plain import listed
from gmixout.settings import shown

Templates: TypeAlias = tuple[str, ...] | Mapping[str, tuple[str, ...]]
"""Prompts of all classes, or those of each class by its name; `{}` stands for the class."""
PLACE = "{}"
_TABLES = (".csv", ".tsv", ".tab")


def templates_in(file: Path, classes: Sequence[str]) -> Templates:
    """Return the prompts in a file.

    Args:
        file: Text with a prompt on each line, in which `{}` stands for the class; or a table (.csv,
            .tsv) with columns class and prompt, where a class may have several rows and `{}` may be
            left out.
        classes: The classes, all of which a table must have.

    Raises:
        DataError: It cannot be read, holds no prompt, or a line has no `{}`; or a table lacks a
            class or has one that is not there.
    """
    if file.suffix.lower() in _TABLES:
        found: dict[str, list[str]] = {}
        for _, name, prompt in _pairs(file, "prompt"):
            found.setdefault(name, []).append(prompt)
        _check_classes(file, [*found], classes)
        return {name: tuple(found[name]) for name in classes}
    templates = []
    for number, line in lines_of(file):
        if PLACE not in line:
            raise DataError(
                f"{file}, line {number}: the prompt {shown(line)} must have {PLACE} where the "
                "class belongs; prompts of single classes go into a table (.csv) with columns "
                "class and prompt"
            )
        templates.append(line)
    if not templates:
        raise DataError(f"{file} holds no prompt: one a line, for example `a photo of a {PLACE}.`")
    return tuple(templates)


def class_names_in(file: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the name of each class in prompts, as a file has them.

    Args:
        file: Text with a name on each line, in the order of the classes; or a table (.csv, .tsv)
            with columns class and name, in which classes that keep their name may be left out.
        classes: The classes.

    Raises:
        DataError: It cannot be read, has another number of names, or names a class that is not
            there or twice.
    """
    if file.suffix.lower() in _TABLES:
        named: dict[str, str] = {}
        for number, name, text in _pairs(file, "name"):
            if name in named:
                raise DataError(f"{file}, line {number}: class {shown(name)} has a name already")
            named[name] = text
        _check_classes(file, [*named], classes, all_of_them=False)
        usual = class_texts(classes)
        return tuple(named.get(name, text) for name, text in zip(classes, usual, strict=True))
    names = [line for _, line in lines_of(file)]
    if len(names) != len(classes):
        raise DataError(
            f"{file} has {len(names)} names, one a line, and there are {len(classes)} classes, in "
            f"this order: {listed([*classes], 10)}"
        )
    return tuple(names)


def _pairs(file: Path, second: str) -> list[tuple[int, str, str]]:
    """Return line, class and the text of another column of each row.

    Raises:
        DataError: A column is missing, or a cell is empty.
    """
    columns = {name.strip().lower(): name for name in table_columns(file)}
    wanted = [columns.get(name, name) for name in ("class", second)]
    found = []
    for number, row in table_rows(file, wanted):
        name, text = (row[column].strip() for column in wanted)
        if not name or not text:
            raise DataError(f"{file}, line {number}: {wanted[1] if name else wanted[0]} is empty")
        found.append((number, name, text))
    if not found:
        raise DataError(f"{file} has no row of {' and '.join(wanted)}")
    return found


def _check_classes(
    file: Path, named: Sequence[str], classes: Sequence[str], all_of_them: bool = True
) -> None:
    if unknown := [name for name in named if name not in classes]:
        raise DataError(
            f"{file} names {shown(unknown[0])}, which is none of the classes: "
            f"{listed([*classes], 10)}"
        )
    if all_of_them and (absent := [name for name in classes if name not in named]):
        raise DataError(f"{file} has no prompt of the class {shown(absent[0])}")
