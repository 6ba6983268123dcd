"""Versions of the code behind a result."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gmixout": version("gmixout"),
    }


@cache
def git_commit() -> str | None:
    """Return the commit of the source tree this file belongs to; None for an installed package."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False
        )
        if tracked.returncode != 0:
            return None
        commit = [*git, "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
