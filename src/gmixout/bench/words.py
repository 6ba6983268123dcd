"""Parsing of command lines and config files into the values of a command's options."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

from gmixout.allowed import allowing, is_import_path, own_object
from gmixout.bench.benchmarks import check_benchmark_name
from gmixout.bench.configs import read_config, read_yaml, yaml_value
from gmixout.bench.options import ALTERNATIVES, Option, matching, options_of
from gmixout.bench.places import Given, is_place, with_data
from gmixout.bench.values import Spec, called, known, made, spelled
from gmixout.data import SOURCES, Source, recognized
from gmixout.errors import ConfigError
from gmixout.methods import DEFAULT_METHOD, METHODS, Method, get_method
from gmixout.methods.beside import beside
from gmixout.named import Named, changed, check_class, class_named, from_spec, specs_of
from gmixout.settings import shown


def split(words: Iterable[str], subject: str = "", rest: str = "") -> list[tuple[str, list[str]]]:
    """Return each option's name and the words that follow it.

    Args:
        words: The words after a command's name.
        subject: The option that the leading words belong to.
        rest: The option that they belong to from the second on, if not to `subject`.

    Example:
        >>> split(["a", "b", "--batch-size=8", "--seeds", "0", "1"], "folders")
        [('folders', ['a', 'b']), ('batch_size', ['8']), ('seeds', ['0', '1'])]
    """
    found: list[tuple[str, list[str]]] = [(subject, [])]
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found.append((name.replace("-", "_"), [value] if equals else []))
        elif word == "-h":
            found.append(("help", []))
        else:
            found[-1][1].append(word)
    if rest and len(found[0][1]) > 1:
        found[:1] = [(subject, found[0][1][:1]), (rest, found[0][1][1:])]
    return found if found[0][1] else found[1:]


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
        raise ConfigError("--allow takes your own modules: --allow my_module,other:Name")
    return others, allowed


class Reading:
    """Read the words after a command, and the config files that they name.

    - Words override config files, and config files override defaults.
    - Where a list is expected, `0,1,2`, `0 1 2` and `[0,1,2]` are the same.
    - A list's name may be singular: `--train-domain photo`, `--seed 0`.
    - A method, data set or the like is a name in our tables, with its regularizers
      (`gmixout+sam`), `module:Class` of the user's own, or a mapping of `class_path` and
      `init_args`; its options follow as `--method.mask_rate 0.5`.
    - The options of a data set need no prefix, and `--data-root` is its `root`. A folder or table
      without the name of a data set, positional or as `--data-root`, is recognized.

    Args:
        options: The options of the command.
        trust: Collects the modules of typed classes, which files may then name.
    """

    def __init__(self, options: Mapping[str, Option], trust: ExitStack) -> None:
        self.options = options
        self.trust = trust
        self.values: dict[str, Any] = {}

    def read(self, given: Given) -> dict[str, Any]:
        """Return the values of the given options, converted to their types.

        Raises:
            ConfigError: An option is unknown, missing, or has a value that it does not take.
        """
        for name, texts in given:
            for text in (texts or [""]) if name == "config" else ():
                self._take_up(text)
        given = [(name, texts) for name, texts in given if name != "config"]
        given = with_data(self.options, given, self._data is not None)
        self._drop_alternatives({name for name, _ in given})
        # an object comes before its options: `--method.of mixout --method.of.mask_rate 1`
        given = sorted(given, key=lambda each: (not self._names(each[0]), each[0].count(".")))
        for name, texts in given:
            self._place(name, texts)
        return made(self.options, self.values)

    def kind(self, name: str, texts: Sequence[str]) -> tuple[Option, type[Named]]:
        """Return the option and the class of `--method.help NAME`."""
        option = matching(self.options, name)
        if option is None or option.named is None:
            raise self._unknown(f"{name}.help", texts)
        found = self._spec(option, texts[0] if texts else option.default, by_hand=bool(texts))
        if isinstance(found, Spec):
            return option, found.kind
        if isinstance(found, Named):
            return option, type(found)
        raise ConfigError(f"--{name}.help takes a name: {', '.join(known(option.named))}")

    def _names(self, name: str) -> bool:
        option = matching(self.options, name)
        return option is not None and option.named is not None

    def _take_up(self, config: str) -> None:
        """Take the values of a config file, which may be nested in the names of their sections."""
        held = read_config(config)
        for part in {option.section for option in self.options.values()} & held.keys():
            inside = held.pop(part)
            if not isinstance(inside, dict) or inside.keys() & held.keys():
                raise ConfigError(f"{config}: {part} must hold settings not given elsewhere")
            for name in inside:
                if getattr(self.options.get(name), "section", None) != part:
                    raise ConfigError(f"{config}: {name} is not a setting of {part}")
            held |= inside
        for name, value in held.items():
            if name not in self.options:
                raise ConfigError(f"{config}: {self._unknown(name, ())}")
            self.values[name] = self._value(self.options[name], value)

    @property
    def _data(self) -> Spec | None:
        """Return the data set, whose options need no prefix."""
        specs = (each for each in self.values.values() if isinstance(each, Spec))
        return next((each for each in specs if issubclass(each.kind, Source)), None)

    def _place(self, name: str, texts: Sequence[str]) -> None:
        """Take one option with its words."""
        typed, data, own = f"--{name}", self._data, "root" if name == "data_root" else name
        head, _, rest = name.partition(".")
        if not name:
            raise ConfigError(f"{' '.join(texts)!r:.80}: options start with --")
        if data is not None and matching(options_of(data.kind), own):
            self._put(data, own, texts, typed)
        elif option := matching(self.options, name):
            self.values[option.name] = self._worded(option, texts, typed)
        elif (option := self.options.get(name.removeprefix("no_"))) and option.is_switch:
            self.values[option.name] = False
        elif rest and (option := matching(self.options, head)) and option.is_dict:
            value = self._worded(option.at(rest), texts, typed)
            self.values[option.name] = {**(self.values.get(option.name) or {}), rest: value}
        elif rest and option and option.named and not option.is_list:
            self.values[option.name] = self._begun(option, self.values.get(option.name))
            self._put(self.values[option.name], rest, texts, typed)
        else:
            raise self._unknown(name, texts)

    def _put(self, spec: Spec, name: str, texts: Sequence[str], typed: str) -> None:
        """Set an option of a method or the like, or of an object among its options."""
        first, _, rest = name.partition(".")
        if issubclass(spec.kind, beside) and first not in options_of(spec.kind):
            first, rest = "of", name  # of `gmixout+sam` they are gmixout's
        option = matching(options_of(spec.kind), first)
        if option is None or (rest and (option.is_list or not option.named)):
            raise ConfigError(f"{typed}: {_no_option(spec, name)}")
        if rest:
            spec.values[option.name] = self._begun(option, spec.values.get(option.name))
            self._put(spec.values[option.name], rest, texts, typed)
        else:
            spec.values[option.name] = self._worded(option, texts, typed)

    def _begun(self, option: Option, held: Any) -> Spec:
        """Return the object that options are added to: the given one, or the default."""
        if isinstance(held, Spec):
            return held
        usual = option.default if held is None else held
        if usual is None and option.named is Method:
            usual = get_method(DEFAULT_METHOD)
        assert option.named is not None
        if isinstance(usual, str):
            usual = self._called(option, usual, by_hand=False)
        if isinstance(usual, Spec):
            return usual
        if isinstance(usual, Named):
            return Spec(type(usual), dict(changed(usual)))
        raise ConfigError(
            f"--{option.name}.NAME is an option of a {called(option.named)}: name that, too, with "
            f"--{option.name} {'|'.join(known(option.named))}"
        )

    def _worded(self, option: Option, texts: Sequence[str], typed: str) -> Any:
        """Return the value of words, not yet converted to its type."""
        if option.is_switch and not texts:
            return True
        if not any(texts):
            raise ConfigError(f"{typed} needs a value")
        if len(texts) > 1 and not option.is_list:
            raise ConfigError(f"{typed} takes one value: {' '.join(texts)!r:.80} are {len(texts)}")
        value: Any = texts[0]
        if option.is_verbatim:
            return [*texts]
        if option.is_list and not (len(texts) == 1 and value in option.words):
            value = _entries(texts, typed)
        elif option.is_dict and value not in option.words:
            value = yaml_value(value, typed)
        return self._value(option, value, by_hand=True)

    def _value(self, option: Option, value: Any, by_hand: bool = False) -> Any:
        """Return a value with methods and the like in it as a `Spec`."""
        if isinstance(value, str) and value in option.words:
            return value
        if option.is_verbatim:
            return [value] if isinstance(value, str) else value
        if option.is_list and isinstance(value, str):
            value = _entries([value], option.name)
        if option.named is None:
            return value
        if option.is_list and isinstance(value, list):
            return [self._spec(option, each, by_hand) for each in value]
        return self._spec(option, value, by_hand)

    def _spec(self, option: Option, value: Any, by_hand: bool) -> Any:
        """Return the object of a value; None and the user's own functions stay unchanged.

        Args:
            option: The option of the value.
            value: A name, or a mapping of `class_path` and `init_args`.
            by_hand: True if the user typed it, so it may be their own code.
        """
        if isinstance(value, str) and value[:1] in ("{", "["):
            value = yaml_value(value, f"--{option.name}")
        elif isinstance(value, str) and os.path.isfile(value) and not is_place(value):
            return self._spec(option, read_yaml(value), by_hand=False)
        if value is None or isinstance(value, Named):
            return value
        if isinstance(value, str):
            return self._called(option, value, by_hand)
        path = value.get("class_path") if isinstance(value, Mapping) else None
        options = (value.get("init_args") or {}) if isinstance(value, Mapping) else None
        if not (isinstance(path, str) and isinstance(options, Mapping)) or (
            value.keys() - {"class_path", "init_args"}
        ):
            what = called(option.named) if option.named else "value"
            raise ConfigError(
                f"{option.name}: {shown(value)} does not name a {what} and its options"
            )
        spec = self._called(option, path, by_hand)
        if not options or not isinstance(spec, (Spec, Named)):
            return spec
        if isinstance(spec, Named):
            spec = Spec(type(spec), dict(changed(spec)))
        for name, each in options.items():
            own = matching(options_of(spec.kind), name)
            if own is None:
                raise ConfigError(_no_option(spec, name))
            spec.values[own.name] = self._value(own, each, by_hand)
        return spec

    def _called(self, option: Option, name: str, by_hand: bool) -> Any:
        """Return the `Spec` of a name; for a benchmark's own function the name."""
        base = option.named
        assert base is not None
        if kind := base._table.get(name):
            return Spec(kind)
        if base is Source and is_place(name):
            found, root = recognized(Path(name).expanduser())
            return Spec(found, {"root": root})
        if base is Source and os.sep in name:
            raise ConfigError(f"there is no folder or table {shown(name)}")
        if any(mark in name for mark in "+("):
            return self._composed(base, name, by_hand)
        may_be_function = str in option.parts
        if not is_import_path(name) or name.startswith("gmixout."):
            if may_be_function:
                check_benchmark_name(name)
                return name
            close = get_close_matches(name, known(base), 1)
            raise ConfigError(
                f"unknown {called(base)} {name!r:.80}; "
                f"{base.elsewhere(name)}{f'did you mean {close[0]}? ' if close else ''}"
                f"known: {', '.join(known(base))}; or module:Class of your own"
            )
        if not by_hand:
            if may_be_function and ":" in name:
                check_benchmark_name(name)
                return name
            return Spec(class_named(name, base))
        path, found = self._trusted(name), own_object(name)
        if not may_be_function or isinstance(found, type):
            return Spec(check_class(name, found, base))
        if not callable(found):
            raise ConfigError(f"{option.name} {name} is {found!r:.80}, not a function")
        return path

    def _composed(self, base: type[Named], name: str, by_hand: bool) -> Named:
        """Return the object of a name such as `gmixout(mask_rate=0.5)+sam`."""
        specs = specs_of(name)
        for spec in specs if by_hand else ():
            if is_import_path(spec["class_path"]) and not base._table.get(spec["class_path"]):
                self._trusted(spec["class_path"])
        if base is Method:
            return get_method(name)
        if len(specs) > 1:
            raise ConfigError(f"{name!r:.80} is not a {called(base)}: + goes with methods")
        return from_spec(specs[0], base)

    def _trusted(self, name: str) -> str:
        """Let files name what was typed, and return it as `module:Name`."""
        module, colon, title = name.partition(":")
        if not colon:
            module, _, title = name.rpartition(".")
        self.trust.enter_context(allowing([f"{module}:{title}"]))
        return f"{module}:{title}"

    def _drop_alternatives(self, typed: set[str]) -> None:
        """Drop what config files say in another way than the command line."""
        for group in ALTERNATIVES:
            if typed & {*group}:
                for name in group:
                    self.values.pop(name, None)

    def _unknown(self, name: str, texts: Sequence[str]) -> ConfigError:
        """Return an error that suggests what an unknown option may mean."""
        said = " ".join([f"unknown option --{spelled(name)}", *texts])
        last = name.rpartition(".")[2]
        if any(option.named is Source for option in self.options.values()):
            have = [n for n, kind in SOURCES.items() if matching(options_of(kind), last)]
            if have and (data := self._data):
                who = data.kind.__name__
                return ConfigError(f"{said}; {who} has none of that name; {', '.join(have)} do")
            if have:
                return ConfigError(
                    f"{said}; options of a data set go with its name, --benchmark NAME"
                )
        if "method" in self.options:
            have = [n for n, kind in METHODS.items() if matching(options_of(kind), last)]
            if have:
                return ConfigError(
                    f"{said}; options of a method are written --method.{last} ({', '.join(have)})"
                )
        every = {*chain(self.options, *map(options_of, SOURCES.values())), "config", "help"}
        close = get_close_matches(name, {*every, "print_config", "allow", "debug"}, 3)
        meant = " or ".join(f"--{spelled(each)}" for each in close)
        return ConfigError(f"{said}; did you mean {meant}?" if close else said)


def _no_option(spec: Spec, name: str) -> str:
    options = ", ".join(options_of(spec.kind)) or "none"
    return f"{spec.kind.__name__} has no option {name}; its options: {options}"


def _entries(texts: Sequence[str], typed: str) -> list[Any]:
    """Return the entries of a list, `0,1,2`, `0 1 2` or `[0,1,2]`; file names keep commas."""
    joined = ",".join(text.rstrip(",") for text in texts)
    if joined.startswith("["):
        held = yaml_value(joined, typed)
        return held if isinstance(held, list) else [held]
    if joined.startswith("{"):
        return [yaml_value(joined, typed)]
    pieces = chain.from_iterable([t] if os.path.exists(t) else _pieces(t) for t in texts)
    if entries := [piece.strip() for piece in pieces if piece.strip()]:
        return entries
    raise ConfigError(f"{typed} {texts[0]!r:.80} names nothing")


def _pieces(text: str) -> Iterator[str]:
    """Split at commas, except inside parentheses."""
    piece = ""
    for part in text.split(","):
        piece += part
        if piece.count("(") > piece.count(")"):
            piece += ","
        else:
            yield piece
            piece = ""
    yield piece
