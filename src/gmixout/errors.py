"""The error family. A message names the setting, its value, what is allowed and the way out."""

from collections.abc import Iterator
from contextlib import contextmanager


class GmixoutError(Exception):
    """Base of every error gmixout raises on purpose; the command line exits with code 2 on it."""


class ConfigError(GmixoutError, ValueError):
    """A setting is out of range, unknown, or contradicts another one."""


class AttachError(GmixoutError, RuntimeError):
    """A masking process cannot be attached to, used with, or detached from this model."""


class StateError(GmixoutError, RuntimeError):
    """A saved state, a run folder or a set of weights does not fit what it is loaded into."""


class DataError(GmixoutError, ValueError):
    """A data set is missing, incomplete, or not laid out as its benchmark says."""


class TrainingError(GmixoutError, RuntimeError):
    """Training cannot continue (for example, the loss is not finite); saved files are kept."""


class FollowedError(GmixoutError, RuntimeError):
    """Another process of this run has an error, which it reports; this one only ends."""


@contextmanager
def needs(package: str, extra: str, what: str = "this") -> Iterator[None]:
    """Explain how to install an optional package if its import in this context fails.

    Args:
        package: The package.
        extra: The extra of gmixout that installs it.
        what: The feature that needs it.

    Raises:
        ConfigError: An import failed.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{what} needs {package}, which cannot be imported ({error}): "
            f"pip install 'gmixout[{extra}]'"
        ) from error
