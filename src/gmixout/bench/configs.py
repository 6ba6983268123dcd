"""Config files: those that come with the package, and those of anybody."""

import os
from pathlib import Path
from typing import Any

import yaml

from gmixout.bench.yaml_text import LONGEST, load_yaml
from gmixout.errors import ConfigError

CONFIGS = {file.stem: file for file in sorted(Path(__file__).parents[1].glob("configs/*.yaml"))}
"""Config files that come with the package, by the names that `--config` takes."""


def read_config(name: str) -> dict[str, Any]:
    """Return the values of a config file.

    Args:
        name: Its path, or the name of one of `CONFIGS` if there is no file of that name here.

    Raises:
        ConfigError: There is no such file, or it is not a YAML mapping of a usual size.
    """
    if not os.path.isfile(name):
        if name not in CONFIGS:
            raise ConfigError(
                f"--config {name!r:.80}: there is no such file; configs that come with gmixout: "
                f"{', '.join(CONFIGS)}"
            )
        name = str(CONFIGS[name])
    held = read_yaml(name)
    if not isinstance(held, dict):
        raise ConfigError(f"{name} holds no settings: write `name: value` on each line")
    return held


def read_yaml(file: str) -> Any:
    """Return what a YAML file of anybody's holds.

    Raises:
        ConfigError: It cannot be read, or nobody can mean what it holds.
    """
    try:
        with open(file, encoding="utf-8") as opened:
            return load_yaml(opened.read(LONGEST + 1))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as a config: {error!s:.500}") from error


def yaml_value(text: str, name: str) -> Any:
    """Return the value of an option that is written as YAML or JSON, a list say.

    Raises:
        ConfigError: It is neither.
    """
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} {text!r:.80} cannot be read: {error!s:.300}") from error
