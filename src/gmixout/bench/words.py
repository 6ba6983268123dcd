"""The words of a command line, and config files, as the values of a command's options."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

from gmixout.bench.configs import read_config, read_yaml, yaml_value
from gmixout.bench.options import REQUIRED, Option, matching, options_of
from gmixout.data import SOURCES, Source, check_benchmark_name
from gmixout.errors import ConfigError
from gmixout.methods import DEFAULT_METHOD, METHODS, Method, get_method
from gmixout.named import (
    Named,
    allowing,
    changed,
    check_class,
    class_named,
    is_import_path,
    own_name,
    own_object,
)
from gmixout.settings import described, shown

Given = Sequence[tuple[str, Sequence[str]]]
"""Options as typed, with `_` for `-`, and the words that follow each."""

CALLED: dict[type[Named], str] = {Method: "method", Source: "data set"}

# Values are parsed by jsonargparse, which could import what they name: classes are ours to find
set_parsing_settings(import_path_denylist=["*"], instantiate_subclass_spec_in_any=False)


@dataclass
class Spec:
    """A method or data set that is not made yet."""

    kind: type[Named]
    values: dict[str, Any] = field(default_factory=dict)


def split(words: Iterable[str], subject: str = "") -> list[tuple[str, list[str]]]:
    """Return each option's name and the words that follow it.

    Args:
        words: The words after a command's name.
        subject: The option that the words before all others stand for.

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
        raise ConfigError("--allow takes modules of your own: --allow my_module,other:Name")
    return others, allowed


class Reading:
    """Reads what was typed after a command, and the config files that it names.

    - Words stand over config files, whose values stand over defaults.
    - Where a list is expected, `0,1,2`, `0 1 2` and `[0,1,2]` are the same.
    - A list's name may stand in the singular: `--train-domain photo`, `--seed 0`.
    - A method or data set is a name in our tables, `module:Class` of the user's own, or a mapping
      of `class_path` and `init_args`; its options follow as `--method.mask_rate 0.5`.
    - The options of a data set need no prefix, and `--data-root` is its `root`.

    Args:
        options: Those of the command.
        trust: Takes the modules of classes that were typed, which files may name from then on.
    """

    def __init__(self, options: Mapping[str, Option], trust: ExitStack) -> None:
        self.options = options
        self.trust = trust
        self.values: dict[str, Any] = {}

    def read(self, given: Given) -> dict[str, Any]:
        """Return the values of the options that were given, of their types.

        Raises:
            ConfigError: An option is unknown, missing, or has a value that it does not take.
        """
        for name, texts in given:
            if name == "config":
                for text in texts or [""]:
                    self._take_up(text)
        self._check_root(given)
        given = [(name, texts) for name, texts in given if name != "config"]
        # what something is stands before its options: `--method.of mixout --method.of.mask_rate 1`
        given = sorted(given, key=lambda each: (not self._names(each[0]), each[0].count(".")))
        for name, texts in given:
            self._place(name, texts)
        return _made(self.options, self.values)

    def kind(self, name: str, texts: Sequence[str]) -> type[Named]:
        """Return the class that `--method.help NAME` asks about."""
        option = matching(self.options, name)
        if option is None or option.named is None:
            raise self._unknown(f"{name}.help", texts)
        if texts:
            found = self._spec(option, texts[0], typed=True)
        else:
            found = self.values.get(option.name) or self._spec(option, option.default)
        found = found[0] if isinstance(found, list) else found
        if isinstance(found, Spec):
            return found.kind
        if isinstance(found, Named):
            return type(found)
        raise ConfigError(f"--{name}.help takes a name: {', '.join(option.named._table)}")

    def _names(self, name: str) -> bool:
        option = matching(self.options, name)
        return option is not None and option.named is not None

    def _take_up(self, config: str) -> None:
        """Takes the values of a config file."""
        for name, value in read_config(config).items():
            option = self.options.get(name)
            if option is None:
                raise ConfigError(f"{config}: {self._unknown(name, ())}")
            self.values[name] = self._value(option, value, f"{config}: {name}")

    def _place(self, name: str, texts: Sequence[str]) -> None:
        """Takes one option with its words."""
        typed = f"--{name}"
        data = next((each for each in self.values.values() if _is_data(each)), None)
        own = "root" if name == "data_root" else name
        if data is not None and matching(options_of(data.kind), own):
            self._put(data, own, texts, typed)
        elif option := matching(self.options, name):
            self.values[option.name] = self._worded(option, texts, typed)
        elif (option := self.options.get(name.removeprefix("no_"))) and option.is_switch:
            self.values[option.name] = False
        elif (option := matching(self.options, name.partition(".")[0])) and "." in name:
            rest = name.partition(".")[2]
            if option.is_dict:
                held = self.values.get(option.name) or {}
                self.values[option.name] = {
                    **held,
                    rest: self._worded(option.at(rest), texts, typed),
                }
            elif option.named and not option.is_list:
                self.values[option.name] = self._begun(option, self.values.get(option.name))
                self._put(self.values[option.name], rest, texts, typed)
            else:
                raise self._unknown(name, texts)
        elif not name:
            raise ConfigError(f"{' '.join(texts)!r:.80}: options start with --")
        else:
            raise self._unknown(name, texts)

    def _put(self, spec: Spec, name: str, texts: Sequence[str], typed: str) -> None:
        """Sets an option of a method or data set, or of one among its options."""
        first, _, rest = name.partition(".")
        options = options_of(spec.kind)
        option = matching(options, first)
        if option is None or (rest and (option.is_list or not option.named)):
            raise ConfigError(
                f"{typed}: {spec.kind.__name__} has no option {name}; "
                f"its options: {', '.join(options) or 'none'}"
            )
        if rest:
            spec.values[option.name] = self._begun(option, spec.values.get(option.name))
            self._put(spec.values[option.name], rest, texts, typed)
        else:
            spec.values[option.name] = self._worded(option, texts, typed)

    def _begun(self, option: Option, held: Any) -> Spec:
        """What options are added to: what stands there, or the default."""
        if isinstance(held, Spec):
            return held
        usual = held if isinstance(held, Named) else option.default
        if usual is None and option.named is Method:
            usual = get_method(DEFAULT_METHOD)
        if isinstance(usual, Named):
            return Spec(type(usual), dict(changed(usual)))
        assert option.named is not None
        raise ConfigError(
            f"--{option.name}.NAME is an option of a {CALLED[option.named]}: name that, too, with "
            f"--{option.name} {'|'.join(option.named._table)}"
        )

    def _worded(self, option: Option, texts: Sequence[str], typed: str) -> Any:
        """The value that words stand for, not yet of its type."""
        if option.is_switch and not texts:
            return True
        if not any(texts):
            raise ConfigError(f"{typed} needs a value")
        if len(texts) > 1 and not option.is_list:
            raise ConfigError(f"{typed} takes one value: {' '.join(texts)!r:.80} are {len(texts)}")
        if option.is_list and not (len(texts) == 1 and texts[0] in option.words):
            value: Any = _entries(texts, typed)
        elif option.is_dict and texts[0] not in option.words:
            value = yaml_value(texts[0], typed)
        else:
            value = texts[0]
        return self._value(option, value, typed, by_hand=True)

    def _value(self, option: Option, value: Any, typed: str, by_hand: bool = False) -> Any:
        """A value with methods and data sets in it as a `Spec`."""
        del typed
        if option.is_list and isinstance(value, str) and value not in option.words:
            value = _entries([value], option.name)
        if option.named is None or (isinstance(value, str) and value in option.words):
            return value
        if option.is_list and isinstance(value, list):
            return [self._spec(option, each, by_hand) for each in value]
        return self._spec(option, value, by_hand)

    def _spec(self, option: Option, value: Any, typed: bool = False) -> Any:
        """What names a method or data set; None and functions of the user's own as they are.

        Args:
            option: The option that it is a value of.
            value: Its name, or a mapping of `class_path` and `init_args`.
            typed: Whether the user typed it, so that it may be code of their own.
        """
        base = option.named
        assert base is not None
        if isinstance(value, str) and value[:1] in ("{", "["):
            value = yaml_value(value, f"--{option.name}")
        elif isinstance(value, str) and os.path.isfile(value):
            return self._spec(option, read_yaml(value))
        if value is None or isinstance(value, Named):
            return value
        if isinstance(value, str):
            return self._called(option, value, typed)
        path = value.get("class_path") if isinstance(value, Mapping) else None
        options = value.get("init_args") or {} if isinstance(value, Mapping) else None
        if not (isinstance(path, str) and isinstance(options, Mapping)) or (
            value.keys() - {"class_path", "init_args"}
        ):
            raise ConfigError(
                f"{option.name}: {shown(value)} does not name a {CALLED[base]} and its options"
            )
        found = self._called(option, path, typed)
        if not isinstance(found, Spec):
            found = Spec(type(found), dict(changed(found)))
        known = options_of(found.kind)
        for name, each in options.items():
            own = matching(known, name)
            if own is None:
                raise ConfigError(
                    f"{found.kind.__name__} has no option {name}; "
                    f"its options: {', '.join(known) or 'none'}"
                )
            found.values[own.name] = self._value(own, each, name, typed)
        return found

    def _called(self, option: Option, name: str, typed: bool) -> Any:
        """What a name stands for, as a `Spec`; of a benchmark's own function the name."""
        base = option.named
        assert base is not None
        own = own_name(name, base._table)
        if own in base._table:
            return Spec(base._table[own])
        if base is Method and "+" in name:
            return get_method(name)
        if not is_import_path(name) or name.startswith("gmixout."):
            if str in option.parts:
                check_benchmark_name(name)
                return name
            close = get_close_matches(name, base._table, 1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(
                f"unknown {CALLED[base]} {name!r:.80}; {meant}known {CALLED[base]}s: "
                f"{', '.join(base._table)}; or module:Class of your own"
            )
        if typed:
            module, colon, title = name.partition(":")
            if not colon:
                module, _, title = name.rpartition(".")
            self.trust.enter_context(allowing([f"{module}:{title}"]))
            found = own_object(name)
            if str in option.parts and not isinstance(found, type):
                if not callable(found):
                    raise ConfigError(f"{option.name} {name} is {found!r:.80}, not a function")
                return f"{module}:{title}"
            return Spec(check_class(name, found, base))
        if str in option.parts and ":" in name:
            check_benchmark_name(name)
            return name
        return Spec(class_named(name, base))

    def _check_root(self, given: Given) -> None:
        """Says that a folder goes with a data set.

        Raises:
            ConfigError: A folder is given and no data set.
        """
        names = dict(given)
        if "data_root" not in names or "data_root" in self.options or "config" in names:
            return
        benchmark = next(iter(names.get("benchmark", ())), None)
        if benchmark is None or not (benchmark in SOURCES or "." in benchmark or ":" in benchmark):
            said = f"{benchmark!r:.80} is none" if benchmark else "--benchmark names none"
            raise ConfigError(
                f"--data-root goes with a data set, and {said} of: {', '.join(SOURCES)}"
            )

    def _unknown(self, name: str, texts: Sequence[str]) -> ConfigError:
        """An error that says what may have been meant by an option."""
        said = " ".join([f"--{_spelled(name)}", *texts])
        last = name.rpartition(".")[2]
        last = "root" if last == "data_root" else last
        have = [n for n, kind in SOURCES.items() if matching(options_of(kind), last)]
        if have and any(option.named is Source for option in self.options.values()):
            data = next((each.kind.__name__ for each in self.values.values() if _is_data(each)), "")
            whose = f"{data} has none of that name; {', '.join(have)} do" if data else (
                "options of a data set go with its name, --benchmark NAME"
            )  # fmt: skip
            return ConfigError(f"unknown option {said}; {whose}")
        if "method" in self.options:
            have = [n for n, kind in METHODS.items() if matching(options_of(kind), last)]
            if have:
                return ConfigError(
                    f"unknown option {said}; options of a method are written --method.{last} "
                    f"({', '.join(have)})"
                )
        known = chain(self.options, *(options_of(SOURCES[n]) for n in SOURCES))
        close = get_close_matches(name, {*known, "config", "print_config", "help"}, 3)
        meant = f"; did you mean {' or '.join(f'--{_spelled(each)}' for each in close)}?"
        return ConfigError(f"unknown option {said}{meant if close else ''}")


def _is_data(value: Any) -> bool:
    return isinstance(value, Spec) and issubclass(value.kind, Source)


def _spelled(name: str) -> str:
    """An option as people type it; names of a class's own options are Python's."""
    return name if "." in name else name.replace("_", "-")


def _entries(texts: Sequence[str], typed: str) -> list[Any]:
    """The entries of a list: `0,1,2`, `0 1 2` or `[0,1,2]`; names of files keep their commas."""
    joined = ",".join(text.rstrip(",") for text in texts)
    if joined.startswith("["):
        held = yaml_value(joined, typed)
        return held if isinstance(held, list) else [held]
    if joined.startswith("{"):
        return [yaml_value(joined, typed)]
    entries = [
        part.strip()
        for text in texts
        for part in ([text] if os.path.exists(text) else text.split(","))
    ]
    if entries := [entry for entry in entries if entry]:
        return entries
    raise ConfigError(f"{typed} {texts[0]!r:.80} names nothing")


def _made(
    options: Mapping[str, Option], values: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Values of their types, objects made."""
    made = {}
    for name, option in options.items():
        if name in values:
            made[name] = _fit(option, values[name], prefix)
        elif option.default is REQUIRED:
            raise _missing(option, prefix)
    return made


def _missing(option: Option, prefix: str) -> ConfigError:
    if option.named:
        called, known = CALLED[option.named], ", ".join(option.named._table)
        return ConfigError(f"name a {called}; known {called}s: {known}")
    if option.name == "root":
        return ConfigError("a data set needs its folder: --data-root DIR")
    return ConfigError(f"--{_spelled(prefix + option.name)} is required")


def _fit(option: Option, value: Any, prefix: str) -> Any:
    """A value of an option's type."""
    if isinstance(value, list) and option.named:
        return [_fit(option, each, prefix) for each in value]
    if isinstance(value, Spec):
        made = _made(options_of(value.kind), value.values, f"{prefix}{option.name}.")
        try:
            return value.kind(**made)
        except ConfigError:
            raise
        except Exception as error:  # the constructor of a class of the user's own
            raise ConfigError(f"{value.kind.__name__} cannot be made: {error}") from error
    if option.named and (value is None or isinstance(value, Named) or str in option.parts):
        return value
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=option.kind)
    try:
        return parser.parse_object({"value": _scalars(option, value)})["value"]
    except Exception as error:  # a value may be anything, and the parser foresees little
        raise ConfigError(
            f"--{_spelled(prefix + option.name)} {shown(value)} must be {described(option.kind)}"
        ) from error


def _scalars(option: Option, value: Any) -> Any:
    """A value with what YAML reads in its texts, where they are not to stay texts."""
    if isinstance(value, list):
        return [_scalars(option, each) for each in value]
    if isinstance(value, dict) and option.is_dict:
        return {name: _scalars(option.at(name), each) for name, each in value.items()}
    if not isinstance(value, str):
        return value
    if value in option.words:
        return None if value == "null" else value
    return value if {str, Path} & {*option.entries} else yaml_value(value, option.name)
