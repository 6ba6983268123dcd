"""The one error family. A message names the thing, the value, what is allowed and the way out."""

from collections.abc import Iterator
from contextlib import contextmanager


class GmixoutError(Exception):
    """Base of every error gmixout raises on purpose; the command line exits with code 2 on it."""


class ConfigError(GmixoutError, ValueError):
    """A setting is out of range, unknown, or contradicts another one."""


class AttachError(GmixoutError, RuntimeError):
    """A masking process cannot be put on, used with, or taken off this model."""


class StateError(GmixoutError, RuntimeError):
    """A saved state, a run folder or a set of weights does not fit what it is loaded into."""


class DataError(GmixoutError, ValueError):
    """A data set is missing, incomplete, or not laid out as its benchmark says."""


class TrainingError(GmixoutError, RuntimeError):
    """Training cannot go on (the loss is not finite, say); what was saved stays as it is."""


@contextmanager
def needs(package: str, extra: str, what: str = "this") -> Iterator[None]:
    """Import inside this context are of an optional package; a failed one says how to get it.

    Args:
        package: What is imported.
        extra: The extra of gmixout that brings it.
        what: What it is needed for.

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
