"""What files may name on the command line: our classes, and of others what the user has typed."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from gmixout.bench.benchmarks import BENCHMARKS
from gmixout.bench.yaml_text import load_yaml
from gmixout.data import SOURCES, Source
from gmixout.errors import ConfigError
from gmixout.methods import METHODS, Method
from gmixout.named import allowing, check_class, is_import_path, own_name, own_object

Options: TypeAlias = Sequence[tuple[str, list[str]]]

MODE = "gmixout"
"""The parser's name of `load_values`."""
_REVOKED: set[str] = set()
"""What earlier commands of this process allowed: the parser forgets nothing that it was told."""


def without_allow(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take `--allow` out of a command's words; return the others, and what is allowed.

    Example:
        >>> without_allow(["evaluate", "runs/one", "--allow", "mine,lib.sub:Method"])
        (['evaluate', 'runs/one'], ['mine', 'lib.sub:Method'])
    """
    others, allowed, left = [], [], iter(words)
    for word in left:
        if word != "--allow" and not word.startswith("--allow="):
            others.append(word)
            continue
        names = word.partition("=")[2] or next(left, "")
        allowed += [name.strip() for name in names.split(",")]
    if not all(allowed):
        raise ConfigError("--allow takes modules of your own: --allow my_module,other:Name")
    return others, allowed


@contextmanager
def trusting(options: Options, allowed: Sequence[str]) -> Iterator[None]:
    """Let the parser and files name our classes and, of others, those that the user typed.

    Args:
        options: What was typed: names of options without dashes, and their values.
        allowed: The values of `--allow`.

    Raises:
        ConfigError: Something cannot be imported, or is not what its option takes.
    """
    typed = list(_typed(options))
    with allowing([*allowed, *typed]):
        theirs = {name.replace(":", ".") for name in [*allowed, *typed]}
        for name in (*typed, *(name for name in allowed if ":" in name)):
            theirs |= _paths_of(own_object(name))
        theirs |= {path for path in _REVOKED if any(path.startswith(f"{n}.") for n in theirs)}
        ours = {p for kind in (*METHODS.values(), *SOURCES.values()) for p in _paths_of(kind)}
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=[*ours, *theirs],
            instantiate_subclass_spec_in_any=False,
        )
        try:
            yield
        finally:
            set_parsing_settings(import_path_denylist=[*(theirs - ours)])
            _REVOKED.update(theirs - ours)


def _paths_of(found: Any) -> set[str]:
    """Where a class is defined, and the packages around that: the parser takes the shortest."""
    if not isinstance(found, type):
        return set()
    parts = found.__module__.split(".")
    return {".".join((*parts[:n], found.__qualname__)) for n in range(1, len(parts) + 1)}


def _typed(options: Options) -> Iterator[str]:
    """The classes and functions of the user's own that are typed, as `module:Name`."""
    for name, values in options:
        kind, _, part = name.partition(".")
        kind = "method" if kind == "methods" else kind
        if kind not in ("method", "source", "benchmark"):
            continue
        for value in values:
            for path in _paths_in(value):
                if path in BENCHMARKS or path.startswith("gmixout."):
                    continue
                if part in ("", "help", "class_path"):
                    yield _checked(kind, path)
                elif kind == "method" and (":" in path or "class_path" in value):
                    with suppress(ConfigError):  # an option's value may be any text
                        yield _checked(kind, path)


def _paths_in(value: str) -> Iterator[str]:
    """The import paths in the value of an option; none if it is a file, which may be anybody's."""
    if os.path.isfile(value):
        return
    try:
        left = [load_yaml(value)]
    except yaml.YAMLError:
        return
    while left:
        held = left.pop()
        if isinstance(held, dict):
            options = held.get("init_args")
            left += [
                held.get("class_path"),
                *(options.values() if isinstance(options, dict) else ()),
            ]
        elif isinstance(held, list):
            left += held
        elif isinstance(held, str):
            yield from filter(is_import_path, (part.strip() for part in held.split(",")))


def _checked(kind: str, path: str) -> str:
    """The path as `module:Name`, of something that is what the option takes.

    Raises:
        ConfigError: It cannot be imported, or is something else.
    """
    found = own_object(path)
    is_source = isinstance(found, type) and issubclass(found, Source)
    if kind == "method":
        check_class(path, found, Method)  # type: ignore[type-abstract]
    elif kind == "source" or ":" not in path:
        check_class(path, found, Source)  # type: ignore[type-abstract]
    elif is_source:
        raise ConfigError(f"{path} is a data set: write --benchmark {path.replace(':', '.')}")
    elif not callable(found):
        raise ConfigError(f"benchmark {path} is {found!r:.80}, not a function")
    return path if ":" in path else ":".join(path.rpartition(".")[::2])


_load_parsers_yaml = get_loader("yaml")


def load_values(text: str) -> Any:
    """Read the value of an option, or a config file, of which the parser would read anything."""
    held = load_yaml(text, _load_parsers_yaml)
    left = [held]
    while left:
        value = left.pop()
        if isinstance(value, dict) and isinstance(path := value.get("class_path"), str):
            value["class_path"] = for_parser(path)
        left += (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        )
    if isinstance(held, dict):
        for name in ("method", "source"):
            if isinstance(path := held.get(name), str):
                held[name] = for_parser(path)
        if isinstance(held.get("methods"), list):
            held["methods"] = [
                for_parser(each) if isinstance(each, str) else each for each in held["methods"]
            ]
    return held


def for_parser(path: str) -> str:
    """Return an import path as the parser reads it, one of ours by its name."""
    if not is_import_path(path):
        return path
    return own_name(path, {**METHODS, **SOURCES}).replace(":", ".")


set_loader(MODE, load_values, (yaml.YAMLError,))
