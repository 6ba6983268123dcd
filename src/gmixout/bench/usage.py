"""The output of `--help`, from typed signatures and docstrings."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml

from gmixout.bench.choices import later_settings
from gmixout.bench.help_pages import Page
from gmixout.bench.options import (
    REQUIRED,
    Option,
    Word,
    options_of,
    subjects_of,
    texts_of,
)
from gmixout.bench.values import known, spelled
from gmixout.named import Named, plain

COMMON = {
    "--config FILE": "YAML file, or name of a config in the package; command line wins.",
    "--print-config": "Print all settings as YAML and exit.",
    "--allow MODULE": "Your own code that files may name: my_module, or my_module:Name.",
    "--debug": "Show the traceback of an error.",
    "-h, --help": "Print this and exit.",
}
"""Options of every command."""
_WITHOUT_OPTIONS = ("--debug", "-h, --help")
"""Those of a command that has no options of its own."""


def page_of(title: str, function: Callable[..., Any]) -> Page:
    """Return the help of a command.

    Args:
        title: The command as typed: `gmixout compare`.
        function: The command.
    """
    options = options_of(function)
    if not options:
        page = _page(title, function, "--")
        common = [[words, text] for words, text in COMMON.items() if words in _WITHOUT_OPTIONS]
        return page | {"groups": [["options", common]]}
    subjects = subjects_of(options)
    usual = [name if options[name].default is REQUIRED else f"[{name}]" for name in subjects]
    subject = "".join(f" {name.upper()}" for name in usual)
    page = _page(f"{title}{subject} [--OPTION VALUE ...]", function, "--")
    page["groups"].append(["of every command", [list(line) for line in COMMON.items()]])
    return page


def page_of_kind(option: Option, kind: type[Named]) -> Page:
    """Return the help of a method, a data set or the like.

    Args:
        option: The option that takes its name.
        kind: Its class.
    """
    name, title = option.name, kind.__name__
    if option.is_list:
        return _page(f'--{name} "{title}(OPTION=VALUE, ...)"', kind, "")
    return _page(f"--{name} {title} [--{name}.OPTION VALUE ...]", kind, f"--{name}.")


def all_pages(commands: Mapping[str, Callable[..., Any]]) -> dict[str, Page]:
    """Return the help of commands, and of all names that their options take, by their titles.

    Args:
        commands: Functions by the command as typed.
    """
    pages = {title: page_of(title, function) for title, function in commands.items()}
    for function in commands.values():
        for option in options_of(function).values():
            if base := option.named:
                pages |= {
                    f"--{spelled(option.name)} {name}": page_of_kind(option, base._table[name])
                    for name in known(base)
                }
    return pages


def _page(usage: str, owner: Callable[..., Any], prefix: str) -> Page:
    texts = texts_of(owner)
    groups: dict[str, list[list[str]]] = {}
    for option in options_of(owner).values():
        text = f"{texts.get(option.name, '')} {_about(option)}".strip()
        lines = groups.setdefault(option.section or "options", [])
        lines.append([_spelled(option, prefix), text])
    listed = [[title, lines] for title, lines in groups.items()]
    return {"usage": usage, "description": _summary(owner), "groups": listed}


def _summary(owner: Any) -> str:
    """Return the docstring without its sections."""
    text = inspect.getdoc(owner) or ""
    return " ".join(text.partition("\nArgs:")[0].partition("\nRaises:")[0].split())


def _spelled(option: Option, prefix: str) -> str:
    """Return an option as it is typed."""
    name = spelled(option.name) if prefix == "--" else option.name
    if option.is_switch:
        return f"{prefix}{name}, {prefix}no-{name}" if prefix == "--" else f"{prefix}{name} BOOL"
    if option.is_dict:
        return f"{prefix}{name}.NAME {_metavar(option.at('NAME'))}"
    return f"{prefix}{name} {_metavar(option)}"


def _metavar(option: Option) -> str:
    """Return the placeholder of the value."""
    if option.named:
        kind = "NAME"
    else:
        kinds = [entry for entry in option.entries if entry is not NoneType]
        kind = "|".join(dict.fromkeys(map(_kind, kinds)))
    return f"{kind},..." if option.is_list else kind


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    return {int: "INT", float: "FLOAT", str: "TEXT", Word: "FILE", Path: "PATH"}.get(kind, "VALUE")


def _about(option: Option) -> str:
    """Return the default and the known names."""
    about = []
    if option.default is REQUIRED:
        about.append("required")
    elif option.default is not None:
        value = plain(option.default)
        if isinstance(option.default, Named):
            value = str(option.default)
        if isinstance(value, list):
            value = ",".join(map(str, value))
        about.append(f"default: {str(value).lower() if option.is_switch else value}")
    if option.named:
        about.append(f"there are: {', '.join(known(option.named))}")
    return f"({'; '.join(about)})" if about else ""


def config_of(options: Mapping[str, Option], values: Mapping[str, Any]) -> str:
    """Return all settings of a command as YAML that `--config` takes.

    What follows from the model and the data when the run starts is left out.
    """
    later = set(later_settings(values)) if "recipe" in options else set()
    every = {n: values.get(n, each.default) for n, each in options.items() if n not in later}
    text: str = yaml.safe_dump(plain(every), sort_keys=False)
    if later:
        names = ", ".join(name for name in options if name in later)
        text += f"# chosen when the run starts: {names}\n"
    return text
