"""Why a model could not be loaded, said plainly."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError

from gmixout.errors import ConfigError, DataError, GmixoutError, needs


@contextmanager
def loading(name: str, provide: str) -> Iterator[None]:
    """Turns whatever a library raises while it loads a model into one of our errors.

    Args:
        name: The model, as it was asked for.
        provide: How to load it without the hub.

    Raises:
        ConfigError: The hub says that there is no such model.
        DataError: The hub cannot be reached or wants a login, or the weights do not fit.
    """
    try:
        yield
    except GmixoutError:
        raise
    except Exception as error:
        raise _explained(error, name, provide) from error


def _explained(error: Exception, name: str, provide: str) -> GmixoutError:
    with needs("huggingface_hub", "hub"):
        from huggingface_hub import errors as hub
    causes = list(_chain(error))

    def any_is(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if any_is(hub.GatedRepoError):
        return DataError(
            f"{name} is gated: accept its licence on https://huggingface.co and log in with "
            f"`hf auth login`, or {provide}"
        )
    if any_is(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, URLError) or any(
        isinstance(cause, (ConnectionError, TimeoutError)) or type(cause).__name__ in NETWORK
        for cause in causes
    ):
        return DataError(
            f"the files of {name} are not all on this machine, and the hub cannot be reached from "
            f"it (no network, or HF_HUB_OFFLINE is set). To use the model offline, {provide}"
        )
    if any_is(hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError):
        return ConfigError(
            f"there is no model {name} on the Hugging Face hub, or it is private (`hf auth login`):"
            " look its name up on https://huggingface.co/models"
        )
    if any_is(hub.EntryNotFoundError):
        return ConfigError(f"{name} is on the hub, but a file of the model is not there: {error}")
    return DataError(f"{name} cannot be loaded: {str(error).strip() or type(error).__name__}")


NETWORK = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "ProxyError")
"""Errors of the HTTP client, whichever one the installed huggingface_hub uses."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those it came from; libraries wrap the hub's in errors of their own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
