"""The command line: `gmixout COMMAND`, generated from the signatures in `gmixout.bench`."""

import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import (
    ActionYesNo,
    ArgumentParser,
    DefaultHelpFormatter,
    auto_cli,
    set_parsing_settings,
)
from rich.console import Console

from gmixout import __version__, bench
from gmixout.bench.benchmarks import check_benchmark_name
from gmixout.bench.own_code import MODE, for_parser, trusting, without_allow
from gmixout.bench.yaml_text import LONGEST, load_yaml
from gmixout.data import SOURCES
from gmixout.errors import ConfigError, GmixoutError
from gmixout.methods import DEFAULT_METHOD, METHODS, get_method
from gmixout.named import own_name, refusal, spec_of
from gmixout.plain import printable
from gmixout.training.faults import explained
from gmixout.training.interrupts import exit_code, stoppable

COMMANDS: dict[str, Any] = {
    "finetune": bench.finetune,
    "compare": bench.compare,
    "sweep": bench.sweep,
    "evaluate": bench.evaluate,
    "interpolate": bench.interpolate,
    "soup": bench.soup,
    "diagnose": bench.diagnose,
    "report": bench.report,
    "data": {"check": bench.check},
    "doctor": bench.doctor,
}

CONFIGS = {file.stem: file for file in sorted(Path(__file__).parent.glob("configs/*.yaml"))}
"""Config files that come with the package, by the names that `--config` takes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The words after `gmixout`; by default those of this process.

    Returns:
        The exit code: 0, or 2 for an error of the user's making, or 128 and the number of the
        signal that stopped the command (130 after Ctrl-C). Words that cannot be parsed raise
        `SystemExit` with code 2.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    stderr = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    with warnings.catch_warnings():
        if not (debug or sys.warnoptions):
            warnings.simplefilter("ignore")  # of libraries; ours are errors
        # the parsers of all commands take most of the time of --help, and one of them is wanted
        asked = {name: function for name, function in COMMANDS.items() if name in words[:1]}
        try:
            words, allowed = without_allow(words)
            with stoppable(), trusting(_options_of(words), allowed):
                auto_cli(
                    asked or COMMANDS,
                    args=as_options(words),
                    parser_class=_Parser,
                    as_positional=False,
                    prog="gmixout",
                    version=__version__,
                    description="Robust finetuning of vision foundation models. "
                    "Any command takes --help, --debug for the traceback of an error, and "
                    "--allow MODULE, for code of your own that a file names.",
                )
        except Exception as error:
            known = _error_of_ours(error)
            if debug or known is None:
                raise
            stderr.print(f"gmixout: {printable(str(known), keep=_LINES)}")
            return 2
        except KeyboardInterrupt as error:
            resumes = bool({*words[:1]} & {"finetune", "compare", "sweep"})
            way_on = "; the same command with --resume goes on." if resumes else "."
            stderr.print(f"gmixout: {str(error) or 'stopped'}{way_on}")
            return exit_code(error)
    return 0


_LINES = "\n\t"


def _error_of_ours(error: BaseException | None) -> BaseException | None:
    """The error that a user can do something about, which the parser may have wrapped."""
    while error is not None:
        if (known := explained(error)) is not None:
            return known
        if isinstance(error, (GmixoutError, OSError)):
            return error
        error = error.__cause__ or error.__context__
    return None


def as_options(words: Sequence[str]) -> list[str]:
    """Puts what people type into the form that the parser reads.

    - `gmixout report A B` stands for `gmixout report --folders [A,B]`: the words right after a
      command are its first parameter, where that has no default.
    - `--seeds 0,1,2` and `--seeds 0 1 2` stand for `--seeds [0,1,2]` where a list is expected.
    - `--batch-size` is `--batch_size`.
    - `--config domainnet_clip` is the file of that name in `CONFIGS`, if there is none here.
    - `--benchmark pacs --data-root DIR --train-domain photo`: a data set's options need no prefix,
      nor do those of the data set that a config file names.
    - `--method my.module:MyMethod` is the import path my.module.MyMethod, and a name in `METHODS`
      stands for the method with all its options.

    Example:
        >>> as_options(["evaluate", "runs/one"])
        ['evaluate', '--model', 'runs/one']
        >>> as_options(["data", "check", "pacs", "--root", "PACS"])
        ['data', 'check', '--source', 'pacs', '--source.root', 'PACS']
        >>> as_options(["compare", "--methods", "my.module:mine", "--seeds=0,1"])
        ['compare', '--methods', '[my.module.mine]', '--seeds', '[0,1]']
    """
    command, _, function = _command_of(words)
    if function is None:
        return list(words)
    parameters = inspect.signature(function).parameters
    given = _options_of(words)
    names = [name for name, _ in given]
    if not {"method", "config"} & set(names):
        of_default = any(re.match(r"method\.(?!help)", name) for name in names)
        given = [("method", [DEFAULT_METHOD]), *given] if of_default else given
    kinds = {name: str(parameter.annotation) for name, parameter in parameters.items()}
    given = [(name, [_config_of(name, value) for value in values]) for name, values in given]
    if "data_root" in names and "data_root" not in parameters:
        _refuse_root_of_nothing(given)
    for data in ("source", "benchmark"):
        name = next((words[0] for name, words in given if name == data and words), "")
        configs = (_data_in(words[0]) for name, words in given if name == "config" and words)
        name = name or next(configs, "")
        if data in parameters and name in SOURCES:
            own = inspect.signature(SOURCES[name]).parameters
            given = [(_of_data(data, option, own), values) for option, values in given]
            kinds |= {f"{data}.{n}": str(field.annotation) for n, field in own.items()}
    options = []
    for name, values in given:
        if name == "method" and values and values[0] in METHODS:
            fields = inspect.signature(METHODS[values[0]]).parameters.values()
            kinds |= {f"method.{field.name}": str(field.annotation) for field in fields}
        kind = kinds.get(name) or kinds.get(name.partition(".")[0], "")
        if re.search(r"\b(list|tuple)\[", kind) and values:
            joined = ",".join(value.rstrip(",") for value in values)
            whole = joined[:1] in ("[", "{") or joined in ("all", "null")
            values = [joined if whole else f"[{joined}]"]
        if name == "source" or name.endswith(".help"):
            values = [for_parser(value) for value in values]
        if "Method" in kind and not name.endswith("help"):
            values = [_with_methods(value) for value in values]
        options += [f"--{name}" if name else "", *values]
    return [*command, *(word for word in options if word)]


def _refuse_root_of_nothing(given: Sequence[tuple[str, list[str]]]) -> None:
    """Says that a folder goes with a data set, which the parser would call an unknown option."""
    benchmarks = [words[0] for name, words in given if name == "benchmark" and words]
    if any(name == "config" for name, _ in given) or set(benchmarks) & SOURCES.keys():
        return
    said = f"{benchmarks[-1]!r} is none" if benchmarks else "--benchmark names none"
    raise ConfigError(f"--data-root goes with a data set, and {said} of: {', '.join(SOURCES)}")


def _of_data(data: str, option: str, fields: Mapping[str, Any]) -> str:
    """The parser's name of an option, which may be one of the data set's."""
    field = "root" if option == "data_root" else option
    return f"{data}.{field}" if field in fields else option


def _config_of(option: str, value: str) -> str:
    """The value of an option: of `--config`, the file that a shipped config's name stands for."""
    shipped = option == "config" and value in CONFIGS and not Path(value).is_file()
    return str(CONFIGS[value]) if shipped else value


def _data_in(config: str) -> str:
    """The name of the data set in a config file; "" if it has none.

    Raises:
        ConfigError: The file cannot be read.
    """
    if not os.path.isfile(config):
        return ""
    try:
        with open(config, encoding="utf-8") as file:
            held = load_yaml(file.read(LONGEST + 1))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{config} cannot be read as a config: {error}") from error
    data = held.get("benchmark") if isinstance(held, dict) else None
    return own_name(str(data.get("class_path")), SOURCES) if isinstance(data, dict) else ""


def _command_of(words: Sequence[str]) -> tuple[list[str], list[str], Callable[..., Any] | None]:
    """The words of the command, those after it, and the command's function."""
    found, place = COMMANDS, 0
    while isinstance(found, dict) and place < len(words) and words[place] in found:
        found, place = found[words[place]], place + 1
    return list(words[:place]), list(words[place:]), None if isinstance(found, dict) else found


def _options_of(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each option of a command, without dashes, and the words that follow it.

    The words right after the command are its first parameter, where that has no default.
    """
    _, rest, function = _command_of(words)
    parameters = inspect.signature(function).parameters.values() if function else ()
    first = next(iter(parameters), None)
    return _values_of_options(rest, first.name if first and first.default is first.empty else None)


def _values_of_options(words: Sequence[str], subject: str | None) -> list[tuple[str, list[str]]]:
    """Each option's name, without dashes, and the words that follow it."""
    found: list[tuple[str, list[str]]] = [(subject or "", [])]
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found.append((name.replace("-", "_"), [value] if equals else []))
        elif word == "-h":
            found.append(("help", []))
        else:
            found[-1][1].append(word)
    return [(name, values) for name, values in found if values or name != (subject or "")]


def _with_methods(value: str) -> str:
    """Spells out the methods that a value names, so that nothing of others stays with them.

    The parser would give a method the options of the one before it (the default's, or those of a
    config file) wherever it has options of the same names.
    """

    def spelled(name: str) -> str:
        return json.dumps(spec_of(get_method(name))) if name in METHODS else name

    value = re.sub(r"(?<=\w):(?=\w)", ".", value)
    if re.fullmatch(r"\[[\w\s,.]*\]", value):
        return f"[{','.join(spelled(name.strip()) for name in value[1:-1].split(','))}]"
    return spelled(value)


class _Help(DefaultHelpFormatter):
    """Names methods as people type them, and leaves out types that say nothing."""

    def _expand_help(self, action: Any) -> str:
        text = str(super()._expand_help(action))
        text = re.sub(r"gmixout\.(?:methods|data)\.(?:\w+\.)?(\w+)", r"\1", text)
        kinds = r"type: (Method|Source|Union\[list\[Method\].*?null\])( \| (str|null))*, "
        text = re.sub(kinds, "", text)
        text = re.sub(r",? ?type: <class 'Path'>", "", text).replace("(, ", "(")
        return re.sub("(default: null, |required, )?known subclasses:", "there are:", text)


@contextmanager
def _any_error_of_settings() -> Iterator[None]:
    """A file may hold anything, and the parser foresees little: whatever it raises is ours."""
    try:
        yield
    except Exception as error:
        if _error_of_ours(error):
            raise
        raise ConfigError(f"the settings cannot be read: {error!s:.500}") from error


class _Parser(ArgumentParser):
    """Makes switches of booleans, and says an error in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own = {"formatter_class": _Help, "parser_mode": MODE}
        super().__init__(*args, **{**kwargs, **own})

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parses the words and all files that they name.

        Raises:
            ConfigError: A file names code of the user's own that is not allowed.
        """
        with _any_error_of_settings():
            parsed = super().parse_args(*args, **kwargs)
        benchmark = (parsed.get(parsed.get("subcommand", "")) or {}).get("benchmark")
        if isinstance(benchmark, str) and benchmark not in SOURCES:
            check_benchmark_name(benchmark)
        return parsed

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the objects that the settings stand for."""
        with _any_error_of_settings():
            return super().instantiate(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Adds an argument; of a boolean `--flip` and `--no-flip`."""
        if kwargs.get("type") is bool:
            del kwargs["type"]
            kwargs["action"] = ActionYesNo(no_prefix="no_")
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends with exit code 2."""
        if refused := re.search(r"Importing '(\S+)' is not allowed", message):
            message = refusal(own_name(refused[1], {**METHODS, **SOURCES}), "class")
        message = re.sub(r"(arguments are required: )(?:\w+\.)*(?=\w)", r"\1", message)
        if message.endswith("arguments are required: source"):
            message = f"name a data set; known data sets: {', '.join(SOURCES)}"
        if message.startswith("unrecognized arguments"):
            own = {name for kind in SOURCES.values() for name in inspect.signature(kind).parameters}
            if set(re.findall(r"--(\w+)", message)) & own:
                message += "; options of a data set go with its name, --benchmark NAME"
            message = re.sub(r"--\w+", lambda found: found[0].replace("_", "-"), message)
        if message.endswith("arguments are required: root"):
            message = "a data set needs its folder: --data-root DIR"
        if unknown := re.search(r'key "source".*dot import path string: (\S+)', message, re.S):
            message = f"unknown data set {unknown[1]!r}; known data sets: {', '.join(SOURCES)}"
        if unknown := re.search(r'key "methods?".*dot import path string: (\S+)', message, re.S):
            message = (
                f"unknown method {unknown[1]!r}; known methods: {', '.join(METHODS)}; "
                "or the import path of a class of your own"
            )
        if re.search(r'key "config": .*does not exist', message):
            message += f"; configs that come with gmixout: {', '.join(CONFIGS)}"
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "")
        sys.stderr.write(f"gmixout: {message}\nFor all options: {command} --help\n")
        sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
