"""The commands, as functions of this package, and their jobs on run folders."""

from importlib import import_module
from typing import Any

COMMAND_FILES: dict[str, str] = {
    "init": "init",
    "finetune": "finetune",
    "compare": "compare",
    "sweep": "compare",
    "evaluate": "evaluate",
    "predict": "predict",
    "calibrate": "calibrate",
    "export": "export",
    "interpolate": "derive",
    "soup": "derive",
    "diagnose": "diagnose",
    "report": "report",
    "data check": "data",
    "doctor": "doctor",
    "completion bash": "completion",
    "completion zsh": "completion",
    "completion fish": "completion",
}
"""File in `commands` by the typed command; the function has the name of the last word."""

_FILES = {typed.rpartition(" ")[2]: file for typed, file in COMMAND_FILES.items()}

__all__ = sorted(_FILES)


def __getattr__(name: str) -> Any:
    """Return a command and import its libraries."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.commands.{_FILES[name]}"), name)
