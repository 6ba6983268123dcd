"""Which of the typed words name a data set, and which its place."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from gmixout.bench.benchmarks import BENCHMARKS
from gmixout.bench.options import Option
from gmixout.data import SOURCES, Source
from gmixout.errors import ConfigError

Given: TypeAlias = Sequence[tuple[str, Sequence[str]]]
"""Options as typed, with `_` for `-`, and the words after each."""


def is_place(text: str) -> bool:
    """Return whether a word is a folder or a file of data, and not a name of ours."""
    if text in SOURCES or text in BENCHMARKS:
        return False
    place = Path(text).expanduser()
    return place.is_dir() or (
        place.is_file() and any(kind.recognize(place) for kind in SOURCES.values())
    )


def with_data(options: Mapping[str, Option], given: Given, has_data: bool) -> Given:
    """Return the options with the data set's name apart from its place.

    Positional words hold either: `pacs --data-root DIR`, `DIR --benchmark imagefolder`, `DIR`. A
    place without a name goes to the option that takes the name, where it is recognized.

    Args:
        options: The options of the command.
        given: The options as typed.
        has_data: True if a config file names the data set.

    Raises:
        ConfigError: Two places are given, or a place with a name that is not a data set's.
    """
    subject = next((n for n, option in options.items() if option.named is Source), "")
    if not subject or "data_root" in options:
        return given
    data = [texts for name, texts in given if name == subject]
    roots = [texts for name, texts in given if name == "data_root"]
    place = data[:1] if data and _are_a_place(data[0]) else []
    if roots and place:
        raise ConfigError("two places of the data are given: name one folder or table")
    if place and (len(data) > 1 or has_data):
        roots, data = place, data[1:]
    if roots and not data and not has_data:  # of several the last counts
        _check_place(roots[-1])
        roots, data = [], roots[-1:]
    if roots and data:
        _check_name(data[-1])
    others = [each for each in given if each[0] not in (subject, "data_root")]
    return [*((subject, each) for each in data), *(("data_root", each) for each in roots), *others]


def _are_a_place(texts: Sequence[str]) -> bool:
    return len(texts) == 1 and is_place(texts[0])


def _check_place(texts: Sequence[str]) -> None:
    if len(texts) == 1 and not os.path.exists(texts[0]):
        raise ConfigError(
            f"--data-root {texts[0]!r:.80} is not there, and --benchmark names none of: "
            f"{', '.join(SOURCES)}"
        )


def _check_name(texts: Sequence[str]) -> None:
    name = next(iter(texts), "")
    if name not in SOURCES and not set(name) & set(".:{"):
        said = f"{name!r:.80} is none" if name else "--benchmark names none"
        raise ConfigError(f"--data-root goes with a data set, and {said} of: {', '.join(SOURCES)}")
