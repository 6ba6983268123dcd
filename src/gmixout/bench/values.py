"""Values of options converted to their types, and objects from their names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from jsonargparse import ArgumentParser, set_parsing_settings

from gmixout.bench.configs import yaml_value
from gmixout.bench.options import REQUIRED, Option, options_of
from gmixout.data import Source
from gmixout.errors import ConfigError
from gmixout.methods import METHODS, Method
from gmixout.named import Named
from gmixout.settings import described, shown

# jsonargparse parses values and could import what they name: classes are looked up here
set_parsing_settings(import_path_denylist=["*"], instantiate_subclass_spec_in_any=False)


@dataclass
class Spec:
    """A method, data set or the like before construction."""

    kind: type[Named]
    values: dict[str, Any] = field(default_factory=dict)


def called(base: type[Named]) -> str:
    """Return the word for the objects of a base class: `method`, `data set`."""
    return "data set" if base is Source else base.kind_word()


def known(base: type[Named]) -> list[str]:
    """Return all names in the table of a base class."""
    return [*(METHODS if base is Method else base._table)]


def spelled(name: str) -> str:
    """Return an option as typed; a class's own options keep their Python names."""
    return name if "." in name else name.replace("_", "-")


def made(
    options: Mapping[str, Option], values: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Return values converted to their types, and objects in place of each `Spec`.

    Raises:
        ConfigError: An option is missing, or a value is not of its type.
    """
    found = {}
    for name, option in options.items():
        if name in values:
            found[name] = _fit(option, values[name], prefix)
        elif option.default is REQUIRED:
            raise _missing(option, prefix)
    return found


def _missing(option: Option, prefix: str) -> ConfigError:
    if option.named:
        what = called(option.named)
        return ConfigError(f"name a {what}; known {what}s: {', '.join(known(option.named))}")
    if option.name == "root":
        return ConfigError("a data set needs its folder: --data-root DIR")
    return ConfigError(f"--{spelled(prefix + option.name)} is required")


def _fit(option: Option, value: Any, prefix: str) -> Any:
    """Return a value of an option's type."""
    if isinstance(value, list) and option.named:
        entries = [_fit(option, each, prefix) for each in value]
        return entries if any(get_origin(p) is list for p in option.parts) else tuple(entries)
    if isinstance(value, Spec):
        options = made(options_of(value.kind), value.values, f"{prefix}{option.name}.")
        try:
            return value.kind(**options)
        except ConfigError:
            raise
        except Exception as error:  # the constructor of a class of the user's own
            raise ConfigError(f"{value.kind.__name__} cannot be made: {error}") from error
    if option.named and (value is None or isinstance(value, Named) or str in option.parts):
        return value
    if option.is_verbatim and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return value
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=option.kind)
    try:
        return parser.parse_object({"value": _scalars(option, value)})["value"]
    except Exception as error:  # a value may be anything, and the parser foresees little
        raise ConfigError(
            f"--{spelled(prefix + option.name)} {shown(value)} must be {described(option.kind)}"
        ) from error


def _scalars(option: Option, value: Any) -> Any:
    """Parse the texts in a value as YAML, unless they should stay text."""
    if isinstance(value, list):
        return [_scalars(option, each) for each in value]
    if isinstance(value, dict) and option.is_dict:
        return {name: _scalars(option.at(name), each) for name, each in value.items()}
    if not isinstance(value, str):
        return value
    stays = value in option.words or {str, Path} & {*option.entries}
    return value if stays else yaml_value(value, option.name)
