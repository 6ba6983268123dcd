"""A config file to read and edit: every setting with its meaning, chosen ones with the reason.

Settings stand on a line of their own each, so that any line can be removed. Options at their
defaults are commented out, without a space after the `#`.
"""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml

from gmixout.bench.choices import CHOSEN, FOLLOWING, ChosenSettings
from gmixout.bench.options import Option, options_of, texts_of
from gmixout.bench.recipes import CITATIONS
from gmixout.bench.task import Task
from gmixout.data import Source
from gmixout.methods import Method
from gmixout.named import Named, plain
from gmixout.plain import printable

_WIDTH = 100
_RESTART = ("resume", "overwrite", "dry_run", "device_spec")
"""Options for a single call of a command."""


def config_text(
    command: Callable[..., Any],
    head: Iterable[str],
    task: Task,
    method: Method,
    chosen: ChosenSettings | None,
    content: Iterable[str] = (),
) -> str:
    """Return the text of a config file.

    Args:
        command: The command that will take it.
        head: Lines for its head.
        task: Data and model.
        method: The method.
        chosen: Settings that follow from data and model; None: they are chosen when a run starts.
        content: What was understood of the data, as lines.
    """
    options, texts = options_of(command), texts_of(command)
    recipe = chosen.values if chosen else {}
    later = {*CHOSEN, "epochs"} if chosen is None else set()
    apart = ("benchmark", "model", "method", *recipe, *_RESTART)
    sections: dict[str, list[Option]] = {}
    for name, option in options.items():
        if name not in later and name not in apart:
            sections.setdefault(option.section or "run", []).append(option)
    lines = [*_comments(head), ""]
    lines += [*_comments(["Data", *content], hanging=True), *_data(task, texts), ""]
    lines += [*_method(method, texts), ""]
    if chosen and recipe:
        lines += [*_comments([title.capitalize() for title in chosen.lines[:1]])]
        for name, value in recipe.items():
            reason = f"{value.source}, {value.note}" if value.note else value.source
            mark = "#" if name in FOLLOWING else ""
            lines += [*_comments([texts.get(name, "")]), mark + _line(name, value.value, reason)]
        sources = dict.fromkeys(value.source for value in recipe.values())
        lines += [
            *_comments(
                ["Sources", *(f"{each}: {CITATIONS[each]}" for each in sources)], hanging=True
            )
        ]
        lines += [""]
    for title, inside in sections.items():
        lines += _comments([title.capitalize()])
        for option in inside:
            lines += _comments([texts.get(option.name, "")])
            lines += [f"#{_line(option.name, option.default)}"]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _data(task: Task, texts: Mapping[str, str]) -> Iterator[str]:
    held = task.plain()
    kind = task.benchmark
    if isinstance(kind, Source):
        spec = held["benchmark"]
        options = {n: v for n, v in spec["init_args"].items() if n == "root" or n in kind.shown}
        yield from _comments([f"Options go behind root; --benchmark.help {kind.name} lists them."])
        yield _line("benchmark", {**spec, "init_args": options})
        yield from _comments([texts.get("model", "")])
        yield _line("model", task.model) if task.model else "#model: NAME"
    else:
        yield _line("benchmark", held["benchmark"])


def _method(method: Method, texts: Mapping[str, str]) -> Iterator[str]:
    yield from _comments(["Method", texts.get("method", "")])
    own, said = options_of(type(method)), texts_of(type(method))
    shown = [
        f"{name}={plain(getattr(method, name))}: {said.get(name, '').partition('. ')[0]}"
        for name in own
    ]
    if shown:
        yield from _comments(
            [
                f"Options: {method.name}(NAME=VALUE, ...); --method.help {method.name} says more",
                *shown,
            ],
            hanging=True,
        )
    yield _line("method", str(method))


def _comments(texts: Iterable[str], hanging: bool = False) -> Iterator[str]:
    """Yield texts as comments, with all but the first indented if `hanging`."""
    indent = "# "
    for text in texts:
        inner = len(text) - len(text.lstrip())
        own = indent + " " * inner
        yield from textwrap.wrap(
            printable(text.strip()),
            _WIDTH,
            initial_indent=own,
            subsequent_indent=f"{own}  " if len(indent) > 2 else own,
            break_long_words=False,
            break_on_hyphens=False,
        )
        indent = "#   " if hanging else indent


def _line(name: str, value: Any, reason: str = "") -> str:
    """Return a setting on a single line of YAML, with a reason behind it."""
    held = str(value) if isinstance(value, Named) else plain(value)
    text = _flow(held)
    if "\n" in text:  # a name with a line break
        text = _flow(held, default_style='"')
    return f"{name}: {text}{f'  # {printable(reason)}' if reason else ''}"


def _flow(held: Any, **style: Any) -> str:
    text: str = yaml.safe_dump(held, default_flow_style=True, width=2**20, sort_keys=False, **style)
    return text.removesuffix("...\n").strip()
