"""Classes and functions of the user's own, by import path.

A name in a file finds what is in our tables, and a class or function of the user's own only if the
user has allowed its module (`allowing`): files come from others and must not run code.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from gmixout.errors import ConfigError

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")
_allowed: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())


def is_path(text: str) -> bool:
    """Check whether a text has the form of a name, `module.Name` or `module:Name`."""
    return bool(_PATH.fullmatch(text))


def is_import_path(text: str) -> bool:
    """Check whether a text has the form `module:Name` or `module.Name`."""
    return is_path(text) and bool(re.search("[.:]", text))


class NotAllowedError(ConfigError):
    """A file names the user's own code, which the user has not allowed."""


def allowed_object(path: str, kind: str) -> Any:
    """Return the class or function `module:Name` that a file names, if its module is allowed.

    Raises:
        NotAllowedError: It is not allowed, or was taken from a module that is not.
        ConfigError: It cannot be imported.
    """
    module, name = _parts(path)
    if not _is_allowed(module, name):
        raise NotAllowedError(refusal(path, kind))
    found = own_object(path)
    home, title = getattr(found, "__module__", module), getattr(found, "__qualname__", name)
    if not is_named(path) and not _is_allowed(str(home), str(title)):
        raise NotAllowedError(
            f"{kind} {path} is {found!r:.80}, which comes from {home}: to use it anyway, "
            f"--allow {module}:{name}"
        )
    return found


def is_named(path: str) -> bool:
    """Return whether the user has allowed this class or function itself, not only its module."""
    return ":".join(_parts(path)) in _allowed.get()


def refusal(path: str, kind: str) -> str:
    """Return the message for a name that is not allowed."""
    module, _ = _parts(path)
    way_out = f": if you trust it, add --allow {module}"
    if module.partition(".")[0] in sys.stdlib_module_names:
        way_out = ""
    return (
        f"{kind} {path} is not part of gmixout, and is not imported because a file names it, which "
        f"may come from anybody{way_out}"
    )


@contextmanager
def allowing(names: Iterable[str]) -> Iterator[None]:
    """Let files name objects of these modules, within the context.

    Args:
        names: `module` (with its submodules) or `module:Name`. Each is imported at once.

    Raises:
        ConfigError: One of them cannot be imported.
    """
    names = tuple(names)
    for name in names:
        if not is_path(name):
            raise ConfigError(f"{name!r} is neither a module nor module:Name")
        if ":" in name:
            own_object(name)
        else:
            _import(name, name)
    token = _allowed.set((*_allowed.get(), *names))
    try:
        yield
    finally:
        _allowed.reset(token)


def own_object(path: str) -> Any:
    """Import `module:Name` or `module.Name`, also from the working directory.

    For names that come from the command line or from Python alone.

    Raises:
        ConfigError: There is no such module, or nothing of that name in it.
    """
    if not is_import_path(path):
        raise ConfigError(f"{path!r:.80} is neither module:Name nor module.Name")
    module, name = _parts(path)
    found = _import(module, path)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ConfigError(f"{path} cannot be imported: {error}") from error
    return found


def _import(module: str, path: str) -> Any:
    try:
        with _working_directory():
            return import_module(module)
    except ConfigError:
        raise
    except Exception as error:  # a module may raise anything
        raise ConfigError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error


@contextmanager
def _working_directory() -> Iterator[None]:
    """Append the working directory to the import path, within the context."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


def _parts(path: str) -> tuple[str, str]:
    """Return module and name of `module:Name` or `module.Name`."""
    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    return module, name


def _is_allowed(module: str, name: str) -> bool:
    return any(
        entry in (module, f"{module}:{name}") or module.startswith(f"{entry}.")
        for entry in _allowed.get()
    )
