"""Plain values from untrusted files: of the right types, bounded, and safe to print.

Anybody may have written a file. Every format of ours (records, model files, notes on runs) is read
through here: `read_json` or a YAML reader, then `checked`, once and completely.
"""

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gmixout.errors import needs

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MOST_LEVELS = 20
"""Most levels of nesting."""
MOST_VALUES = 1_000_000
MOST_CHARACTERS = 20_000
"""Most characters of one text."""
LARGEST_INTEGER = 2**63

# Controls, line breaks of every kind, what turns the direction of writing, halves of characters
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    r"""Return the text on one line, safe for any terminal, table and file, the rest escaped.

    Args:
        text: Any text.
        keep: Characters that stay unescaped.

    Example:
        >>> printable("a\nb \x1b[31m")
        'a\\nb \\x1b[31m'
    """
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(),
        text,
    )


def spreadsheet_cell(value: object) -> object:
    """Return a cell of a table that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@") else value


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def whole_number(text: str) -> int | None:
    """Return the number of one to nine ASCII digits; None: it is anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, which takes an s in the plural."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def bounded(value: object) -> Any:
    """Return a plain value with every text in it `printable` and every tuple a list.

    Raises:
        ValueError: It holds another kind of value, a number without bounds, or too much of it.
    """
    left = MOST_VALUES

    def visit(value: object, levels: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or levels < 0:
            raise _Refused(f"more than {MOST_VALUES} values, or {MOST_LEVELS} levels of them")
        key: object = None
        try:
            if isinstance(value, dict):
                kept = {}
                for key, each in value.items():
                    kept[visit(key, 0)] = visit(each, levels - 1)
                return kept
            if isinstance(value, list | tuple):
                items = []
                for key in range(len(value)):
                    items.append(visit(value[key], levels - 1))
                return items
        except _Refused as refused:
            refused.place.insert(0, key)
            raise
        return _scalar(value)

    try:
        return visit(value, MOST_LEVELS)
    except _Refused as refused:
        raise ValueError(f"{_place(refused.place)}{refused}") from None


class _Refused(Exception):
    """A value is not allowed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.place: list[object] = []


def _scalar(value: object) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Refused(f"{value}, which is not a finite number")
    elif isinstance(value, str):
        if len(value) > MOST_CHARACTERS:
            raise _Refused(f"a text of {len(value)} characters; allowed are {MOST_CHARACTERS}")
        return printable(value)
    elif isinstance(value, int):
        if abs(value) >= LARGEST_INTEGER:
            raise _Refused("a number of 64 bits or more")
    elif value is not None:
        raise _Refused(f"a {type(value).__name__}, which is not a plain value")
    return value


def _place(keys: Iterable[object]) -> str:
    """Return the name of a place in nested values; empty for the outermost."""
    path = ".".join(map(str, keys))
    return f"`{printable(path)[:200]}` is " if path else ""


def read_json(text: str | bytes) -> Any:
    """Return the values of a JSON text, at most 200 levels of them; see `bounded`.

    Raises:
        ValueError: It is not JSON (of RFC 8259, so without NaN).
    """
    with needs("pydantic", "train", "reading files of runs"):
        from pydantic_core import from_json
    return from_json(text, allow_inf_nan=False)


def checked(values: object, kind: type) -> Any:
    """Check that plain values have a declared form, and return them `bounded`.

    Args:
        values: The content of a file; whole numbers may stand for floats.
        kind: A `TypedDict`; fields may be `Annotated` with the bounds of `annotated_types`.

    Raises:
        ValueError: They have another form; the message names the first place.
    """
    values = bounded(values)
    form = _form(kind)  # imports pydantic, or says how to get it
    from pydantic import ValidationError

    try:
        return form.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        reason = first["msg"].replace("Input should be", "it must be")
        raise ValueError(f"{_place(first['loc'])}{first['input']!r:.80}: {reason}") from None


@lru_cache(maxsize=32)
def _form(kind: type) -> "TypeAdapter[Any]":
    with needs("pydantic", "train", "reading files of runs"):
        from pydantic import ConfigDict, TypeAdapter, with_config
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return TypeAdapter(with_config(strict)(kind))
