"""Options of a command, a method or a data set, from its typed signature."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gmixout.data import Source
from gmixout.named import Named, defaults_of

ALTERNATIVES = (("steps", "epochs"),)
"""Options that say one thing in different ways: a typed one replaces the others of a config."""


class Word(str):
    """A word that stays as it is typed, whatever commas or brackets it has: the name of a file."""


REQUIRED = inspect.Parameter.empty
"""Default of a required option."""


@dataclass(frozen=True)
class Fields:
    """Annotation of `**settings` as the fields of a dataclass.

    Args:
        of: The dataclass; its base classes are sections of the help, and their fields may be nested
            under the section's name in a config file.
        without: Fields to leave out.

    Example:
        >>> def command(**settings: Annotated[Any, Fields(TrainingArguments)]): ...
    """

    of: type
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One option: a parameter of a function, or a field of a dataclass."""

    name: str
    kind: Any
    """Its annotation."""
    default: Any = REQUIRED
    section: str = ""
    """Section of the settings that it belongs to; "" for none."""

    @property
    def parts(self) -> tuple[Any, ...]:
        """Allowed types of its value."""
        return get_args(self.kind) if get_origin(self.kind) in (Union, UnionType) else (self.kind,)

    @property
    def is_list(self) -> bool:
        """True if it takes several values."""
        return any(map(_is_list, self.parts))

    @property
    def is_verbatim(self) -> bool:
        """True if it takes words as they are typed."""
        return Word in self.entries

    @property
    def is_dict(self) -> bool:
        """True if it takes values by name, as `--over.mask_rate 0.5` does."""
        return any(get_origin(part) is dict for part in self.parts)

    @property
    def is_switch(self) -> bool:
        """True if it is on or off, or on with a number."""
        return bool in self.parts and {*self.parts} <= {bool, NoneType, int}

    @property
    def entries(self) -> tuple[Any, ...]:
        """Types of its value, or of the entries of its list."""
        return tuple(get_args(part)[0] if _is_list(part) else part for part in self.parts)

    @property
    def named(self) -> type[Named] | None:
        """Base class of its value or entries, for example `Method`; None for plain values."""
        found = (e for e in self.entries if isinstance(e, type) and issubclass(e, Named))
        return next(found, None)

    @property
    def words(self) -> tuple[str, ...]:
        """Single words that it takes, for example `all` or `null`."""
        literals = [get_args(part) for part in self.parts if get_origin(part) is Literal]
        none = ["null"] if NoneType in self.parts else []
        return (*(str(word) for words in literals for word in words), *none)

    def at(self, key: str) -> "Option":
        """Return the value under a name as an option (of one that `is_dict`)."""
        kind = next(get_args(part)[1] for part in self.parts if get_origin(part) is dict)
        return Option(f"{self.name}.{key}", kind)


def _is_list(kind: Any) -> bool:
    return get_origin(kind) in (list, tuple)


def options_of(owner: Any) -> Mapping[str, Option]:
    """Return the options of a function or dataclass by name, in their order."""
    return _options_of(owner)


@cache
def _options_of(owner: Any) -> Mapping[str, Option]:
    found = _fields(owner) if isinstance(owner, type) else _parameters(owner)
    return {option.name: option for option in found}


def _parameters(function: Callable[..., Any]) -> Iterator[Option]:
    kinds = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind = kinds.get(name, Any)
        if parameter.kind is not parameter.VAR_KEYWORD:
            yield Option(name, kind, parameter.default)
            continue
        for settings in get_args(kind)[1:]:
            for option in _fields(settings.of):
                if option.name not in settings.without:
                    yield option


def _fields(owner: Any) -> Iterator[Option]:
    try:
        kinds = get_type_hints(owner)
    except (NameError, TypeError):  # a class of the user's own names types for type checkers alone
        kinds = {}
    defaults = defaults_of(owner)
    for field in fields(owner):
        if field.init:
            kind, default = kinds.get(field.name, Any), defaults.get(field.name, REQUIRED)
            yield Option(field.name, kind, default, _section(owner, field.name))


def _section(owner: type, name: str) -> str:
    """Return the section of a field: the base class that defines it."""
    home = next(part for part in owner.__mro__ if name in vars(part).get("__annotations__", ()))
    return "" if home is owner or issubclass(owner, Named) else home.__name__.lower()


def texts_of(owner: Callable[..., Any]) -> dict[str, str]:
    """Return the docstrings of options by name, including those of base classes and sections."""
    from docstring_parser import parse_from_object

    found: dict[str, str] = {}
    for each in reversed(owner.__mro__[:-1]) if isinstance(owner, type) else [owner]:
        try:
            documented = parse_from_object(each).params
        except (OSError, TypeError, SyntaxError):  # a class made without source
            documented = []
        found |= {each.arg_name: " ".join((each.description or "").split()) for each in documented}
    if not isinstance(owner, type):
        for kind in get_type_hints(owner, include_extras=True).values():
            for each in get_args(kind):
                found |= texts_of(each.of) if isinstance(each, Fields) else {}
    return found


def matching(options: Mapping[str, Option], name: str) -> Option | None:
    """Return the option of a name, with or without dashes; a list's also by its singular.

    Example:
        >>> matching(options_of(gmixout.bench.compare), "seed").name
        'seeds'
    """
    name = name.replace("-", "_")
    if (found := options.get(name)) or not (found := options.get(f"{name}s")):
        return found
    return found if found.is_list else None


def subjects_of(options: Mapping[str, Option]) -> tuple[str, ...]:
    """Return the options that a command's positional words set: of two the first takes one word."""
    first = subject_of(options)
    second = next(iter([*options.values()][1:2]), None)
    if first and second and second.is_verbatim:
        return first, second.name
    return (first,) if first else ()


def subject_of(options: Mapping[str, Option]) -> str:
    """Return the option that a command's positional words set; "" for none.

    It is the first one, if that is required or names a data set.
    """
    first = next(iter(options.values()), None)
    return first.name if first and (first.default is REQUIRED or first.named is Source) else ""
