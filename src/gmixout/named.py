"""What methods and data sets share: a name that users type, and options."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar


class Named:
    """Something with a name and options.

    Subclasses are frozen dataclasses; their fields are the options. A class is named the way a user
    types it, so that the command line, YAML files, records and the tables share one name.
    """

    silent: ClassVar[tuple[str, ...]] = ()
    """Options that `str` leaves out."""
    spoken: ClassVar[tuple[str, ...]] = ()
    """Options that `str` gives even if they have their usual values."""

    @property
    def name(self) -> str:
        """The name in records and on the command line."""
        return type(self).__name__

    @property
    def options(self) -> dict[str, Any]:
        """The options by name as plain values, the way a YAML file spells them."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def __str__(self) -> str:
        """Returns the name with the options that are not the usual ones."""
        told = []
        for option in fields(self):  # type: ignore[arg-type]
            factory = option.default_factory
            usual = option.default if factory is MISSING else factory()
            value = getattr(self, option.name)
            if option.name in self.spoken or (value != usual and option.name not in self.silent):
                told.append(f"{option.name}={value if isinstance(value, Named) else repr(value)}")
        return f"{self.name}({', '.join(told)})" if told else self.name


def spec_of(thing: Named, table: Mapping[str, type]) -> dict[str, Any]:
    """Returns plain values, the way a YAML file for the command line spells it.

    Args:
        thing: A method, a data set.
        table: Those of the package, by name; others are given by their import path.
    """
    kind = type(thing)
    path = thing.name if table.get(thing.name) is kind else f"{kind.__module__}.{kind.__qualname__}"
    return {"class_path": path, "init_args": thing.options}


def from_spec(spec: Mapping[str, Any], table: Mapping[str, type]) -> Any:
    """The inverse of `spec_of`.

    Raises:
        ImportError, AttributeError, KeyError: There is nothing of that name.
        TypeError, ConfigError: It has not these options, or a value is not allowed.
    """
    module, _, name = spec["class_path"].rpartition(".")

    def option(value: Any) -> Any:
        if isinstance(value, Mapping) and "class_path" in value:
            return from_spec(value, table)
        return tuple(value) if isinstance(value, list) else value

    kind = getattr(import_module(module), name) if module else table[name]
    return kind(**{key: option(value) for key, value in spec["init_args"].items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Named):
        kind = type(value)
        return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": value.options}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
