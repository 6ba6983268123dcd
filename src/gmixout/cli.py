"""The command line: `gmixout COMMAND`, generated from the signatures in `gmixout.bench`."""

import argparse
import ast
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from rich.console import Console

from gmixout import __version__, bench
from gmixout.bench.configs import CONFIGS
from gmixout.bench.help_pages import page_text, requested_page
from gmixout.errors import ConfigError, FollowedError, GmixoutError
from gmixout.plain import printable

__all__ = ["COMMANDS", "CONFIGS", "main"]


@dataclass(frozen=True)
class Command:
    """A function of `gmixout.bench`, imported on use."""

    name: str
    file: str

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        function: Callable[..., Any] = getattr(bench, self.name)
        return function

    @property
    def summary(self) -> str:
        """The first sentence of its docstring, read without importing anything."""
        path = Path(bench.__file__).parent / "commands" / f"{self.file}.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == self.name:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        raise AssertionError(f"{path} has no function {self.name}")

    def __call__(self, **options: Any) -> Any:
        """Call it."""
        return self.function(**options)


Commands: TypeAlias = dict[str, "Command | dict[str, Command]"]
COMMANDS: Commands = {}
"""The commands by their words; a first word may group several."""
for typed, file in bench.COMMAND_FILES.items():
    group, _, last = typed.rpartition(" ")
    place: Any = COMMANDS.setdefault(group, {}) if group else COMMANDS
    place[last] = Command(last, file)

START = (
    ("finetune", "finetune", "try it: a run on real digits"),
    ("data", "data check DIR", "your images: labels, splits, copies, broken files"),
    ("finetune", "finetune DIR --model timm:convnext_tiny.fb_in22k", "a model on them"),
    ("init", "init DIR --model NAME", "its settings as a file to edit, with reasons"),
    ("predict", "predict runs/finetune IMAGES", "answers of the finetuned model"),
    ("export", "export runs/finetune --to timm", "the model for its own library"),
    ("compare", "compare DIR --model NAME --methods full,gmixout", "methods under one protocol"),
    ("report", "report runs/compare", "tables, figures and a page"),
    ("doctor", "doctor", "what is installed, what is missing"),
)
"""First steps: the command that each needs, what to type, and what it does."""

RESUMED = ("finetune", "compare", "sweep")
"""Commands that take `--resume`."""

_LINES = "\n\t"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The words after `gmixout`; by default this process's.

    Returns:
        The exit code: 0, 2 for a user's error, or 128 plus the number of the signal that stopped
        the command (130 after Ctrl-C).

    Raises:
        SystemExit: With code 0, after `--help`, `--version` or `--print-config`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    stderr = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    rank = os.environ.get("RANK", "0")  # of a launcher's processes
    with warnings.catch_warnings():
        if not (debug or sys.warnoptions):
            warnings.simplefilter("ignore")  # of libraries; ours are errors
        try:
            _run(*_command_of(words))
        except KeyboardInterrupt as error:
            from gmixout.training.interrupts import exit_code

            resumes = {*words[:1]} & {*RESUMED}
            way_on = "; the same command with --resume continues." if resumes else "."
            if rank == "0":
                stderr.print(f"gmixout: {str(error) or 'stopped'}{way_on}")
            return exit_code(error)
        except Exception as error:
            known = _known(error)
            if debug or known is None:
                raise
            if rank == "0" or not isinstance(known, (WordsError, FollowedError)):
                process = "" if rank == "0" else f" (process {rank})"
                stderr.print(f"gmixout{process}: {printable(str(known), keep=_LINES)}")
            if rank == "0" and isinstance(known, WordsError):
                stderr.print(f"For all options: {known.title} --help")
            return 2
    return 0


class WordsError(ConfigError):
    """The typed words or a config file are not valid for a command."""

    def __init__(self, title: str, message: str) -> None:
        super().__init__(message)
        self.title = title


def _known(error: Exception) -> Exception | None:
    """Return an error that a user can fix; None for a bug of ours."""
    if isinstance(error, WordsError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name:
        return ConfigError(f"the command line needs {error.name}; pip install 'gmixout[all]'")
    from gmixout.training.faults import explained

    return explained(error) or (error if isinstance(error, (GmixoutError, OSError)) else None)


def _command_of(words: Sequence[str]) -> tuple[Command, str, list[str]]:
    """Return a command, its title, and the words after it."""
    found: Any = COMMANDS
    title, left = "gmixout", list(words)
    if not left:
        _end(_first_steps())
    while isinstance(found, dict):
        word = left.pop(0) if left else ""
        if word in ("-h", "--help"):
            _end(_overview(title, found))
        if word == "--version":
            _end(f"gmixout {__version__}")
        if word not in found:
            close = get_close_matches(word, found, 1)
            said = f"{word!r:.80} is not a command" if word else "name a command"
            meant = f"; did you mean {close[0]}?" if close else f": {', '.join(found)}"
            raise WordsError(title, f"{said}{meant}")
        found, title = found[word], f"{title} {word}"
    return found, title, left


def _first_steps() -> str:
    """Return what can be done, in ten lines."""
    steps = [(typed, text) for name, typed, text in START if name in COMMANDS]
    width = max(len(typed) for typed, _ in steps)
    lines = [f"  gmixout {typed:<{width}}  {text}" for typed, text in steps]
    title = "Robust finetuning of vision models. Commands: --help. Options: COMMAND --help"
    return "\n".join([title, *lines])


def _overview(title: str, commands: Mapping[str, Any]) -> str:
    """Return the help of several commands."""
    parser = argparse.ArgumentParser(
        prog=title,
        description="Robust finetuning of vision foundation models. Any command takes --help, "
        "--debug for the traceback of an error, and --allow MODULE, for your own code that a "
        "file names.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    listed = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in commands.items():
        inside = command.items() if isinstance(command, dict) else [("", command)]
        told = [f"{word}: {each.summary}".lstrip(": ") for word, each in inside]
        listed.add_parser(name, help=" ".join(told))
    return parser.format_help()


def _run(command: Command, title: str, words: Sequence[str]) -> None:
    """Parse the words after a command, and call it."""
    if page := requested_page(title, words):
        _end(page_text(page))
    function = command.function
    if not inspect.signature(function).parameters:
        if words:
            raise WordsError(title, f"{title} takes no options: {' '.join(words)!r:.80}")
        function()
        return
    # not at the top: all of this imports torch, too slow for help and wrong words
    from gmixout.allowed import allowing
    from gmixout.bench.options import options_of, subjects_of
    from gmixout.bench.usage import config_of, page_of, page_of_kind
    from gmixout.bench.words import Reading, split, without_allow
    from gmixout.training.interrupts import stoppable

    options = options_of(function)
    with stoppable(), ExitStack() as trust:
        try:
            words, allowed = without_allow(words)
            given = split(words, *subjects_of(options))
            if ("help", []) in given:
                _end(page_text(page_of(title, function)))
            trust.enter_context(allowing(allowed))
            reading = Reading(options, trust)
            for name, texts in given:
                if name.endswith(".help"):
                    _end(page_text(page_of_kind(*reading.kind(name.removesuffix(".help"), texts))))
            values = reading.read([each for each in given if each[0] != "print_config"])
        except ConfigError as error:
            raise WordsError(title, str(error)) from error
        if any(name == "print_config" for name, _ in given):
            _end(config_of(options, values))
        function(**values)


def _end(text: str) -> NoReturn:
    """Print the requested text, and exit."""
    sys.stdout.write(f"{text.rstrip()}\n")
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
