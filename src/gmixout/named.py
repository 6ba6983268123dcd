"""Base of methods and data sets: a name that users type, options, and lookup by name."""

import ast
import copyreg
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from gmixout.allowed import allowed_object, is_import_path, is_path, own_object
from gmixout.errors import ConfigError

Kind = TypeVar("Kind", bound="Named")

_DEEPEST = 20
"""Most levels of options within options in a file."""
_LONGEST = 4000
"""Most characters of a name with its options."""
_SUM = "sum"
"""Key of the specs of `NAME+NAME` among options."""


class Named:
    """An object with a name and options.

    Subclasses are frozen dataclasses; their fields are the options. A class is named the way a user
    types it, so that the command line, YAML files, records and the tables share one name.
    """

    _table: ClassVar[Mapping[str, type]] = {}
    """Classes of the package by name, set where they are collected."""
    hidden: ClassVar[frozenset[str]] = frozenset()
    """Classes of the table that no error or help lists."""
    never_shown: ClassVar[tuple[str, ...]] = ()
    """Options that `str` omits."""

    @classmethod
    def kind_word(cls) -> str:
        """Return the word for objects of a base class in messages: `method`."""
        return cls.__name__.lower()

    @classmethod
    def adopted(cls, found: Any) -> Any:
        """Return our class for one of another library; anything else unchanged."""
        return found

    @property
    def name(self) -> str:
        """The name in records and on the command line."""
        return type(self).__name__

    @property
    def options(self) -> dict[str, Any]:
        """The options by name as plain values, the way a YAML file spells them."""
        return {name: plain(value) for name, value in vars(self).items()}

    @property
    def always_shown(self) -> tuple[str, ...]:
        """Options that `str` always shows, even at their defaults."""
        return ()

    @property
    def shown(self) -> dict[str, Any]:
        """Options that `str` shows."""
        unusual = changed(self)
        return {
            option: value
            for option, value in vars(self).items()
            if option in self.always_shown or (option in unusual and option not in self.never_shown)
        }

    @classmethod
    def elsewhere(cls, name: str) -> str:
        """Return a hint, with a semicolon and a space, for a name of another table; or nothing."""
        del name
        return ""

    @classmethod
    def plus(cls: type[Kind], first: Kind, others: Sequence[Mapping[str, Any]]) -> Kind:
        """Return what `NAME+NAME` stands for.

        Args:
            first: What the first name stands for.
            others: Specs of the others; none: `first` as it is.

        Raises:
            ConfigError: Nothing can be added.
        """
        if others:
            raise ConfigError(f"{others[0]['class_path']} cannot be added to {first.name}")
        return first

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name, so that another process finds a class from the working directory."""
        kind, options = type(self), vars(self).copy()
        if _is_own(kind) or kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
            return copyreg.__newobj__, (kind,), options  # type: ignore[attr-defined]
        return _restore, (f"{kind.__module__}:{kind.__qualname__}", options)

    def __str__(self) -> str:
        """Return the name with the non-default options."""
        shown = [
            f"{option}={value if isinstance(value, Named) else repr(value)}"
            for option, value in self.shown.items()
        ]
        return f"{self.name}({', '.join(shown)})" if shown else self.name


def defaults_of(kind: type) -> dict[str, Any]:
    """Return the default values of a dataclass by field; fields without one are left out."""
    found = {}
    for field in fields(kind):
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return found


def changed(thing: Any) -> dict[str, Any]:
    """Return the fields of a dataclass's instance that do not have their default values."""
    usual = defaults_of(type(thing))
    return {n: v for n, v in vars(thing).items() if n not in usual or v != usual[n]}


def identity(thing: Named) -> dict[str, Any]:
    """Return its identity as plain values: its name and the non-default options.

    It stays the same when a class moves to another file or gets new options. A class that is not in
    the table is named `module:Class`.
    """
    kind = type(thing)
    name = kind.__name__ if _is_own(kind) else f"{kind.__module__}:{kind.__qualname__}"
    return {"name": name, "options": {k: plain(v, identity) for k, v in changed(thing).items()}}


def completed(spec: Any, base: type[Named]) -> Any:
    """Return a spec with all options, to compare it with another; nothing is imported.

    Args:
        spec: As `spec_of` writes it, now or in an older version.
        base: `Method` or `Source`; also of specs among the options.
    """
    if isinstance(spec, list):
        return [completed(each, base) for each in spec]
    if not isinstance(spec, Mapping) or "class_path" not in spec:
        return spec
    path = str(spec["class_path"]).replace(":", ".")
    kinds: dict[str, Any] = {f"{k.__module__}.{k.__qualname__}": k for k in _subclasses(base)}
    kind = base._table.get(path) or kinds.get(path)
    options = {**(plain(defaults_of(kind)) if kind else {}), **(spec.get("init_args") or {})}
    inside = {
        n: completed(v, _base_of(kind, n, base) if kind else base) for n, v in options.items()
    }
    return {"class_path": path, "init_args": inside}


def spec_of(thing: Named) -> dict[str, Any]:
    """Return plain values, in the form of YAML files for the command line.

    A class in the table is given by its name, another one by its import path.
    """
    kind = type(thing)
    path = kind.__name__ if _is_own(kind) else f"{kind.__module__}.{kind.__qualname__}"
    return {"class_path": path, "init_args": thing.options}


def from_spec(spec: Any, base: type[Kind]) -> Kind:
    """Return the object of a spec from `spec_of`, in an untrusted file.

    Args:
        spec: A name, or a mapping with `class_path` and `init_args`.
        base: Its required base class: `Method`, `Source`.

    Raises:
        NotAllowedError: It names a class of the user's own, whose module is not allowed.
        ConfigError: The name is unknown, it is of another kind, it lacks these options, or a value
            is not allowed.
    """
    return _made(spec, base, _DEEPEST)


def specs_of(text: str) -> list[dict[str, Any]]:
    """Return the specs in a text as `str` writes it: two for `full+sam(rho=0.1)`.

    Values are literals, bare words (texts without quotes), or named things with their options.

    Raises:
        ConfigError: The text has another form.
    """
    form = f"{text!r:.80} must have the form NAME, NAME(option=value) or NAME+NAME"
    if len(text) > _LONGEST:
        raise ConfigError(form)
    try:
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError:  # module:Class is not an expression
            tree = ast.parse(re.sub(r"(?<=\w):(?=[^\W\d])", ".", text), mode="eval")
        return [_spelled(part) for part in _summands(tree.body)]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(form) from error


def _summands(tree: ast.expr) -> list[ast.expr]:
    """Return the terms of a sum, from left to right."""
    found = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        found.append(tree.right)
        tree = tree.left
    return [tree, *found[::-1]]


def _spelled(tree: ast.expr) -> dict[str, Any]:
    """Return the spec of `NAME` or `NAME(option=value)`; raises `ValueError` for anything else."""
    options: list[ast.keyword] = []
    if isinstance(tree, ast.Call) and not tree.args:
        options = tree.keywords
        tree = tree.func
    path = ast.unparse(tree)
    if not is_path(path) or not all(option.arg for option in options):
        raise ValueError(path)
    values = {str(option.arg): _value_of(option.value) for option in options}
    return {"class_path": path, "init_args": values}


def _value_of(tree: ast.expr) -> Any:
    """Return the value of an option; a bare word is a text, as quotes are awkward in a shell."""
    if isinstance(tree, ast.Call | ast.BinOp):
        return {_SUM: [_spelled(part) for part in _summands(tree)]}
    return tree.id if isinstance(tree, ast.Name) else ast.literal_eval(tree)


def class_named(path: str, base: type[Kind]) -> type[Kind]:
    """Return the class that a file names; arguments and errors are those of `from_spec`."""
    if found := base._table.get(path):
        return found
    if not is_import_path(path) or path.startswith("gmixout."):
        kind = base.kind_word()
        known = ", ".join(name for name in base._table if name not in base.hidden)
        hint = base.elsewhere(path)
        own = "; or module:Class of your own"
        raise ConfigError(f"unknown {kind} {path!r}; {hint}known: {known}{own}")
    return check_class(path, allowed_object(path, base.kind_word()), base)


def check_class(path: str, found: Any, base: type[Kind]) -> type[Kind]:
    """Return the class found, if it is of the right kind.

    Raises:
        ConfigError: It is not.
    """
    found = base.adopted(found)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f"{path} is not a class derived from {base.__module__}.{base.__name__}: "
            f"it is {found!r:.80}"
        )
    return found


def _made(spec: Any, base: type[Kind], levels: int) -> Kind:
    if isinstance(spec, str):
        spec = {"class_path": spec}
    path = spec.get("class_path") if isinstance(spec, Mapping) else None
    options = (spec.get("init_args") or {}) if path else None
    if not (isinstance(path, str) and isinstance(options, Mapping) and levels > 0):
        raise ConfigError(f"{spec!r:.80} does not name a {base.kind_word()} and its options")
    kind = class_named(path, base)
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(map(str, options.keys() - known)):
        raise ConfigError(
            f"{kind.__name__} has no option {', '.join(unknown):.80}; "
            f"its options: {', '.join(sorted(known)) or 'none'}"
        )
    values = {
        name: _value(value, _base_of(kind, name, base), levels - 1)
        for name, value in options.items()
    }
    try:
        return kind(**values)
    except ConfigError:
        raise
    except Exception as error:  # whatever a constructor does with values of any type
        given = ", ".join(f"{name}={value!r:.40}" for name, value in values.items())
        raise ConfigError(f"{kind.__name__}({given}) cannot be made: {error}") from error


def _value(value: Any, base: type[Kind], levels: int) -> Any:
    if levels < 0:
        raise ConfigError(f"options of a {base.kind_word()} are nested too deeply")
    if isinstance(value, Mapping):
        if "class_path" in value:
            return _made(value, base, levels)
        if isinstance(value.get(_SUM), list) and len(value) == 1:
            first, *others = value[_SUM]
            return base.plus(_made(first, base, levels), others)
        return {name: _value(each, base, levels - 1) for name, each in value.items()}
    if isinstance(value, list):
        return tuple(_value(each, base, levels - 1) for each in value)
    return value


def _base_of(kind: type[Any], option: str, otherwise: type[Any]) -> type[Any]:
    """Return the base class of the named objects that an option takes, by its annotation."""
    try:
        hint = get_type_hints(kind).get(option)
    except NameError:  # a class of the user's own names types that only a type checker knows
        return otherwise
    inside = [hint]
    for each in inside:
        if isinstance(each, type) and issubclass(each, Named):
            return each
        inside += get_args(each)
    return otherwise


def _restore(path: str, options: dict[str, Any]) -> Any:
    """Return the inverse of `Named.__reduce__`."""
    return restore(own_object(path), options)


def restore(kind: type[Named], options: dict[str, Any]) -> Named:
    """Return an object with options that were checked when it was first made."""
    made = object.__new__(kind)
    vars(made).update(options)
    return made


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    """Return all loaded classes derived from one."""
    for derived in base.__subclasses__():
        yield derived
        yield from _subclasses(derived)


def _is_own(kind: type[Named]) -> bool:
    return kind._table.get(kind.__name__) is kind


def plain(value: Any, spell: Callable[[Named], Any] = spec_of) -> Any:
    """Return an option's value for JSON and YAML; methods and data sets by `spell`."""
    if isinstance(value, Named):
        return spell(value)
    if isinstance(value, (tuple, list)):
        return [plain(each, spell) for each in value]
    if isinstance(value, dict):
        return {name: plain(each, spell) for name, each in value.items()}
    return str(value) if isinstance(value, Path) else value
