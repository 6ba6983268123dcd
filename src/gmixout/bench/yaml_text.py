"""Untrusted YAML: read in bounded time and memory, or refused."""

from collections.abc import Callable
from typing import Any

import yaml

DEEPEST, MOST, LONGEST = 40, 20_000, 2**20
"""Most levels, values (with aliases expanded), and characters of a file."""

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return the content of a YAML text.

    Args:
        text: The text.
        load: Parser, called after the size is checked.

    Raises:
        yaml.YAMLError: It is not YAML, is too large or too deep, or holds invalid content: keys
            that are not text, numbers that Python cannot read, broken characters.
    """
    try:
        _check_size(text)
        held = load(text)
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error
    _check_values(held)
    return held


def _check_size(text: str) -> None:
    """Refuse too much content, with each alias counted as expanded."""
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"it has {len(text):,} characters, more than {LONGEST:,}")
    sizes: dict[str, int] = {}
    around: list[tuple[str | None, int]] = []  # of each open collection its anchor, and its place
    total = 0
    for event in yaml.parse(text, _Parser):
        if isinstance(event, yaml.AliasEvent):
            # one that is unknown or still open is an error of the parser's, or refers to itself
            total += sizes.get(str(event.anchor), MOST)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, begun = around.pop()
            if anchor:
                sizes[anchor] = total - begun
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            if isinstance(event, yaml.CollectionStartEvent):
                around.append((event.anchor, total - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
        if len(around) > DEEPEST or total > MOST:
            raise yaml.YAMLError(
                f"it is nested more than {DEEPEST} levels deep, or holds more than {MOST:,} values"
            )


def _check_values(held: Any) -> None:
    left = [held]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
            for key in value:
                if not isinstance(key, str):
                    raise yaml.YAMLError(f"{key!r:.80} is a key, and keys are text")
                _check_text(key)
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str):
            _check_text(value)
        elif not isinstance(value, (int, float, type(None))):
            raise yaml.YAMLError(f"{value!r:.80} is neither text nor a number")


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise yaml.YAMLError(f"{value!r:.80} is not text") from error
    if "\0" in value:
        raise yaml.YAMLError(f"{value!r:.80} holds a zero byte")
