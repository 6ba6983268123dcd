"""Classes of other libraries as named objects with options."""

import inspect
from collections.abc import Collection
from dataclasses import make_dataclass
from functools import cache
from typing import Any, ClassVar

from gmixout.allowed import own_object
from gmixout.named import Named, restore
from gmixout.settings import check_settings


class Adopted(Named):
    """The options of a class of another library, beside what a run sets itself.

    Subclasses are made by `adopt`; their fields are the options.
    """

    kind: ClassVar[type[Any]]
    """The class."""
    family: ClassVar[type[Named]]
    """The base class that has the table of short names."""

    def __post_init__(self) -> None:
        """Check the options against their types."""
        check_settings(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the path of the adopted class, as a worker process imports it."""
        kind = self.kind
        path = f"{kind.__module__}:{kind.__qualname__}"
        if self._table.get(type(self).__name__) is type(self):
            path = type(self).__name__
        return _restored, (self.family, path, dict(vars(self)))


def adopt(base: Any, kind: Any, without: Collection[str], name: str = "", **usual: Any) -> Any:
    """Return the class of the options of another library's class; the same one for each call.

    Args:
        base: Base class of what is made, derived from `Adopted`.
        kind: The class.
        without: Parameters of its constructor that are not options.
        name: A short name; by default the class's own, by which it is imported.
        **usual: Other defaults than the class's.
    """
    return _adopted(base, kind, frozenset(without), name, tuple(usual.items()))


@cache
def _adopted(
    base: Any,
    kind: Any,
    without: frozenset[str],
    name: str,
    usual: tuple[tuple[str, Any], ...],
) -> Any:
    options: list[Any] = []
    for parameter in inspect.signature(kind).parameters.values():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.name in without or variadic:
            continue
        default = dict(usual).get(parameter.name, parameter.default)
        if default is parameter.empty:
            options.append((parameter.name, Any))
        else:
            options.append((parameter.name, _kind_of(default), default))
    namespace = {
        "__doc__": (inspect.getdoc(kind) or "").partition("\n\n")[0],
        "__module__": base.__module__ if name else kind.__module__,
        "kind": kind,
    }
    made = make_dataclass(
        name.replace(".", "_") or kind.__name__, options, bases=(base,), frozen=True,
        namespace=namespace, kw_only=True,
    )  # fmt: skip
    if name:
        made.__name__ = made.__qualname__ = name
    else:
        made.__qualname__ = kind.__qualname__
    return made


def _kind_of(default: Any) -> Any:
    """Return the type of an option, by its default."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return int | float
    if isinstance(default, tuple):
        return tuple[float | None, ...]
    return str if isinstance(default, str) else Any


def _restored(family: Any, path: str, options: dict[str, Any]) -> Any:
    """Return the inverse of `Adopted.__reduce__`."""
    return restore(family._table.get(path) or family.adopted(own_object(path)), options)
