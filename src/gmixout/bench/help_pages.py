"""The help of each command as plain values, so that it can be shown without importing anything.

Signatures that make the help import torch, which takes seconds. The pages are therefore stored in
the package; `tests/test_help_pages.py` compares them with the signatures and writes them anew.
"""

import argparse
import json
from pathlib import Path
from typing import Any, TypeAlias

Page: TypeAlias = dict[str, Any]
"""`usage`, `description` and `groups`: lists of title and lines; a line is words and text."""

STORED = Path(__file__).with_name("help_pages.json")
"""The pages of all commands, by what a user types: "gmixout compare"."""


def stored_page(title: str) -> Page | None:
    """Return the stored page of a command; None if there is none."""
    try:
        pages = json.loads(STORED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    page = pages.get(title) if isinstance(pages, dict) else None
    return page if isinstance(page, dict) else None


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
