"""The help of each command and of each name that an option takes, as plain values.

It can therefore be shown without importing anything.

Signatures that make the help import torch, which takes seconds. The pages are therefore stored in
the package; `tests/test_help_pages.py` compares them with the signatures and writes them anew.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

Page: TypeAlias = dict[str, Any]
"""`usage`, `description` and `groups`: lists of title and lines; a line is words and text."""

STORED = Path(__file__).with_name("help_pages.json")
"""All pages: by the command, "gmixout compare", or by an option and a name that it takes, "--method
lora"."""


def stored_pages() -> Mapping[str, Page]:
    """Return all stored pages; none if the file cannot be read."""
    try:
        pages = json.loads(STORED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(pages, dict):
        return {}
    return {title: page for title, page in pages.items() if isinstance(page, dict)}


def requested_page(title: str, words: Sequence[str]) -> Page | None:
    """Return the stored page that the words after a command ask for.

    Args:
        title: The command as typed: `gmixout compare`.
        words: With `--help`, or with `--method.help lora` and the like.

    Returns:
        The page; None if they do not ask for help, or for help that is not stored.
    """
    pages = stored_pages()
    if {"-h", "--help"} & {*words}:
        return pages.get(title)
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        option, help_, name = word.partition(".help")
        if word.startswith("--") and help_ and name[:1] in ("", "="):
            named = _option_of_names(pages.get(title), option)
            return pages.get(f"{named} {name[1:] or following}")
    return None


def _option_of_names(page: Page | None, typed: str) -> str:
    """Return the option of a command that takes a name, also by a list's singular; or nothing."""
    lines = [line for _, lines in (page["groups"] if page else ()) for line in lines]
    named = {words.split()[0] for words, _ in lines if " NAME" in words}
    return next((each for each in (typed, f"{typed}s") if each in named), "")


def page_text(page: Page) -> str:
    """Return a page as text, as wide as the terminal."""
    parser = argparse.ArgumentParser(
        usage=page["usage"],
        description=page["description"],
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28),
    )
    for title, lines in page["groups"]:
        group = parser.add_argument_group(title)
        for words, text in lines:
            _add(group, words, text)
    return parser.format_help()


def _add(group: Any, words: str, text: str) -> None:
    """Add a line to the help."""
    *flags, last = words.split(", ")
    flag, _, metavar = last.partition(" ")
    value = {"metavar": metavar} if metavar else {"action": "store_true"}
    if not flag.startswith("-"):
        value = {"metavar": words}
    group.add_argument(*flags, flag, help=text.replace("%", "%%").strip(), **value)
