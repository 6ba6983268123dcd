"""Config files: those in the package, and the user's."""

import os
from pathlib import Path
from typing import Any

import yaml

from gmixout.bench.yaml_text import LONGEST, load_yaml
from gmixout.errors import ConfigError

CONFIGS = {file.stem: file for file in sorted(Path(__file__).parents[1].glob("configs/*.yaml"))}
"""Config files in the package, by the names that `--config` takes."""


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
    """Return the content of an untrusted YAML file.

    Raises:
        ConfigError: It cannot be read, or its content cannot be meant.
    """
    try:
        with open(file, encoding="utf-8") as opened:
            return load_yaml(opened.read(LONGEST + 1))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as a config: {error!s:.500}") from error


def yaml_value(text: str, name: str) -> Any:
    """Return the value of an option in YAML or JSON, for example a list.

    Raises:
        ConfigError: It is neither.
    """
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} {text!r:.80} cannot be read: {error!s:.300}") from error
