"""Loading of models through libraries: no code runs, and failures are explained."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest.mock import patch
from urllib.error import URLError

from gmixout.errors import ConfigError, DataError, GmixoutError, needs


@contextmanager
def loading(name: str, provide: str) -> Iterator[None]:
    """Turn whatever a library raises while it loads a model into a `GmixoutError`.

    Weights are loaded as weights alone, whatever the library asks torch for, and code that a
    checkpoint brings is not run, whatever the checkpoint's own config asks transformers for.

    Args:
        name: The requested model.
        provide: How to load it without the hub.

    Raises:
        ConfigError: The hub says that there is no such model.
        DataError: The hub cannot be reached or wants a login, or the weights do not fit.
    """
    try:
        with _weights_alone(), _no_code_of_checkpoints():
            yield
    except GmixoutError:
        raise
    except Exception as error:
        raise _explained(error, name, provide) from error


_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def _weights_alone() -> Iterator[None]:
    """Make torch unpickle only tensors and plain values, as with `weights_only=True`."""
    with patch.dict(os.environ, {_FORCE: "1"}):
        os.environ.pop(_FORCE_NOT, None)
        yield


@contextmanager
def _no_code_of_checkpoints() -> Iterator[None]:
    """Stop transformers from running a checkpoint's code or asking, for libraries that call it.

    It asks on the terminal unless its time-out is 0.
    """
    if "transformers" not in sys.modules:
        yield
        return
    from transformers import dynamic_module_utils as dynamic

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ValueError("custom code")

    with (
        patch.object(dynamic, "TIME_OUT_REMOTE_CODE", 0),
        patch.object(dynamic, "get_class_in_module", refuse),
    ):
        yield


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
    said = " ".join(map(str, causes))
    if "custom code" in said or "trust_remote_code" in said:
        return DataError(
            f"{name} brings Python code of its own (auto_map in its config), which is not run: "
            "use a model that transformers itself provides"
        )
    if "TorchScript" in said:
        return DataError(
            f"{name} is a TorchScript archive, which may hold code and is not loaded. If you trust "
            'it, make plain weights of it: python -c "import torch; torch.save(torch.jit.load('
            "'FILE', map_location='cpu').state_dict(), 'NEW.pt')\"; or take the model's "
            "safetensors from the hub"
        )
    if "weights_only" in said or "UnpicklingError" in said:
        return DataError(
            f"{name} is not loaded: its file holds more than weights, which may be code: take its "
            f"safetensors, or {provide}"
        )
    return DataError(f"{name} cannot be loaded: {str(error).strip() or type(error).__name__}")


NETWORK = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "ProxyError")
"""Errors of the HTTP client, whichever one the installed huggingface_hub uses."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Return the error and those it came from; libraries wrap the hub's in errors of their own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
