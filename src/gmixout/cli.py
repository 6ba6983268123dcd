"""The command line: `gmixout COMMAND`, generated from the signatures in `gmixout.bench`."""

import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentParser, auto_cli, set_parsing_settings
from rich.console import Console

from gmixout import __version__, bench
from gmixout.errors import GmixoutError
from gmixout.methods import METHODS

COMMANDS: dict[str, Any] = {
    "finetune": bench.finetune,
    "compare": bench.compare,
    "evaluate": bench.evaluate,
    "interpolate": bench.interpolate,
    "soup": bench.soup,
    "report": bench.report,
    "doctor": bench.doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The words after `gmixout`; by default those of this process.

    Returns:
        The exit code: 0, or 2 for an error of the user's making, or 130 after Ctrl-C. Words that
        cannot be parsed raise `SystemExit` with code 2.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    stderr = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    with warnings.catch_warnings():
        if not (debug or sys.warnoptions):
            warnings.simplefilter("ignore")  # of libraries; ours are errors
        try:
            auto_cli(
                COMMANDS,
                args=[word for word in words if word != "--debug"],
                parser_class=_Parser,
                as_positional=False,
                prog="gmixout",
                version=__version__,
                description="Robust finetuning of vision foundation models. "
                "Any command takes --help, and --debug for the traceback of an error.",
            )
        except (GmixoutError, OSError) as error:
            if debug:
                raise
            stderr.print(f"gmixout: {error}")
            return 2
        except KeyboardInterrupt as error:
            way_on = "; the same command with --resume goes on." if str(error) else "."
            stderr.print(f"gmixout: {error or 'stopped'}{way_on}")
            return 130
    return 0


class _Parser(ArgumentParser):
    """Makes switches of booleans, and says an error in one line."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Adds an argument; `--resume` stands for `--resume true`."""
        if kwargs.get("type") is bool:
            del kwargs["type"]
            kwargs["action"] = ActionYesNo(no_prefix=None)  # type: ignore[arg-type]
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends with exit code 2."""
        if unknown := re.search(r'key "methods?".*dot import path string: (\S+)', message, re.S):
            message = (
                f"unknown method {unknown[1]!r}; known methods: {', '.join(METHODS)}; "
                "or the import path of a class of your own"
            )
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "")
        sys.stderr.write(f"gmixout: {message}\nFor all options: {command} --help\n")
        sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
