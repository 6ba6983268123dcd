"""`gmixout completion`: scripts that complete commands, options and names in a shell."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain

import shtab

from gmixout.bench import COMMAND_FILES
from gmixout.bench.configs import CONFIGS
from gmixout.bench.help_pages import Page, stored_pages

_FILES = ("PATH", "FILE", "TEXT")
"""Placeholders of values that may be files."""


def bash() -> None:
    """Print a completion script for bash.

    Try it with `source <(gmixout completion bash)`; docs/command_line.md says where to keep it.
    """
    _print("bash")


def zsh() -> None:
    """Print a completion script for zsh.

    Write it to a folder of `$fpath`: `gmixout completion zsh > ~/.zfunc/_gmixout`.
    """
    _print("zsh")


def fish() -> None:
    """Print a completion script for fish.

    Write it to `~/.config/fish/completions/gmixout.fish`.
    """
    _print("fish")


def _print(shell: str) -> None:
    sys.stdout.write(f"{shtab.complete(_parser(stored_pages()), shell).rstrip()}\n")


def _parser(pages: Mapping[str, Page]) -> argparse.ArgumentParser:
    """Return a parser of all commands, as their help says what they take."""
    parser = argparse.ArgumentParser("gmixout", description="Robust finetuning.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    listed = parser.add_subparsers()
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for typed in COMMAND_FILES:
        first, _, last = typed.partition(" ")
        groups[first][last] = typed
    for first, inside in groups.items():
        if "" in inside:
            _fill(listed.add_parser(first, help=_said(pages, first), add_help=False), first, pages)
            continue
        group = listed.add_parser(first, help=" ".join(inside)).add_subparsers()
        for last, typed in inside.items():
            _fill(group.add_parser(last, help=_said(pages, typed), add_help=False), typed, pages)
    return parser


def _said(pages: Mapping[str, Page], typed: str) -> str:
    return _first_sentence(pages[f"gmixout {typed}"]["description"])


def _fill(parser: argparse.ArgumentParser, typed: str, pages: Mapping[str, Page]) -> None:
    """Add the options of a command, with those of methods and the like that it takes."""
    page = pages[f"gmixout {typed}"]
    if len(page["usage"].split()) > len(typed.split()) + 2:  # a word before [--OPTION VALUE ...]
        words = parser.add_argument("words", nargs="*", help="files, folders or names")
        words.complete = shtab.FILE  # type: ignore[attr-defined]
    for line, text in _lines(page):
        option = line.split()[0]
        kinds = {
            title.partition(" ")[2]: kind
            for title, kind in pages.items()
            if title.startswith(f"{option} ")
        }
        _add(parser, line, text, [*CONFIGS] if option == "--config" else [*kinds])
        if kinds:
            _add(parser, f"{option}.help NAME", f"Help of a name of {option}", [*kinds])
        own = chain.from_iterable(map(_lines, kinds.values()))
        dotted = {line.split()[0]: (line, text) for line, text in own if line.startswith("--")}
        for line, text in dotted.values():
            _add(parser, line, text, [])


def _lines(page: Page) -> list[tuple[str, str]]:
    """Return what a page lists: options with their placeholders, and texts."""
    return [(words, text) for _, lines in page["groups"] for words, text in lines]


def _add(parser: argparse.ArgumentParser, words: str, text: str, names: list[str]) -> None:
    """Add a line of a page, and what can be typed after its option."""
    flags, metavar = [], ""
    for each in words.split(", "):
        flag, _, value = each.partition(" ")
        flags.append(flag)
        metavar = value or metavar
    if not metavar:
        parser.add_argument(*flags, action="store_true", help=_first_sentence(text))
        return
    found = names or _choices(metavar)
    added = parser.add_argument(
        *flags, metavar=metavar, help=_first_sentence(text), choices=found or None
    )
    if not found and any(mark in metavar for mark in _FILES):
        added.complete = shtab.FILE  # type: ignore[attr-defined]


def _choices(metavar: str) -> list[str]:
    """Return the words that a placeholder lists, `cosine|constant`."""
    words = metavar.split("|")
    if metavar == "BOOL":
        return ["true", "false"]
    return words if all(word and not word.isupper() for word in words) else []


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].removesuffix(".").replace("%", "%%")  # as argparse wants it
