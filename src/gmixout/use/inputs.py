"""The image files that words of a command line name."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gmixout.data.folders import pictures
from gmixout.data.reading import MOST_TEXT, regular
from gmixout.data.source import Problems
from gmixout.errors import ConfigError, DataError

STANDARD_INPUT = "-"
LIST_MARK = "@"


@dataclass
class Inputs:
    """Files in the order of the words that name them."""

    files: list[str] = field(default_factory=list)
    """Paths as typed, or below the folder as typed."""
    notes: list[str] = field(default_factory=list)
    """What was passed over."""


def inputs_of(words: Iterable[str]) -> Inputs:
    """Return the image files that some words name.

    Args:
        words: A file; a folder, which is walked without what is hidden; `@FILE`, a list of these,
            one a line (or separated by NUL, as `find -print0` does); `-`, such a list on standard
            input. Paths in lists start from the working directory, as the words do.

    Raises:
        ConfigError: There are no words.
        DataError: A list cannot be read, or no file is named at all.
    """
    found, problems, words = Inputs(), Problems(), list(words)
    if not words:
        raise ConfigError("name image files, folders, @LIST, or - for a list on standard input")
    for word in _spread(words):
        if os.path.isdir(word):
            try:
                inside = pictures(Path(word), problems)
            except DataError:  # a folder in it cannot be read: one row says so
                found.files.append(word)
                continue
            if not inside:
                found.notes.append(f"{word} holds no image")
            found.files += [os.path.join(word, name) for name in inside]
        else:
            found.files.append(word)
    found.notes += problems.notes
    if not found.files:
        raise DataError(f"no image is named: {'; '.join(found.notes) or 'the list is empty'}")
    return found


def _spread(words: Iterable[str]) -> Iterator[str]:
    """Yield the words, and in place of a list its entries."""
    for word in words:
        if word == STANDARD_INPUT:
            yield from _entries(sys.stdin.buffer.read())
        elif word.startswith(LIST_MARK) and not os.path.exists(word):
            file = regular(Path(word.removeprefix(LIST_MARK)))
            if file.stat().st_size > MOST_TEXT:
                raise DataError(f"{file} has more than {MOST_TEXT:,} bytes: split the list")
            yield from _entries(file.read_bytes())
        else:
            yield word


def _entries(held: bytes) -> Iterator[str]:
    """Yield the names in a list; they may be in any encoding, as file names may."""
    held = held.removeprefix(b"\xef\xbb\xbf")
    for name in held.split(b"\0") if b"\0" in held else held.splitlines():
        if name.strip():
            yield os.fsdecode(name)
