"""Upload of an exported folder to the Hugging Face hub."""

import re
from pathlib import Path
from typing import Any

from gmixout.errors import ConfigError, StateError, needs
from gmixout.plain import printable

_NAME = re.compile(r"([\w.-]+/)?[\w.-]{1,96}")


def check_repository(name: str) -> None:
    """Check that this can be the name of a repository, NAME or OWNER/NAME.

    Raises:
        ConfigError: It cannot.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(f"push_to_hub={name!r:.80} must be a repository: NAME or OWNER/NAME")


def files_of(folder: Path) -> list[tuple[str, int]]:
    """Return the files of a folder, as paths from it, and their sizes in bytes."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [(file.relative_to(folder).as_posix(), file.stat().st_size) for file in files]


def push_folder(folder: Path, name: str, public: bool = False) -> str:
    """Upload an exported folder with its model card, and return where it is.

    The login is that of `huggingface_hub`: `hf auth login` or HF_TOKEN. It is never printed.

    Args:
        folder: The folder.
        name: The repository, OWNER/NAME; without an owner, of the user who is logged in. It is made
            if it does not exist.
        public: Make a new repository public; by default only its owner sees it.

    Raises:
        ConfigError: huggingface_hub is not installed, or the name is not one.
        StateError: Nobody is logged in, or the hub refused.
    """
    check_repository(name)
    with needs("huggingface_hub", "hub"):
        import huggingface_hub
    api = huggingface_hub.HfApi()
    try:
        made: Any = api.create_repo(name, repo_type="model", private=not public, exist_ok=True)
        repository = str(getattr(made, "repo_id", name))
        api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            repo_type="model",
            commit_message="Upload by gmixout",
        )
    except Exception as error:  # of a network, a hub and their libraries
        token = huggingface_hub.get_token()
        said = " ".join(printable(str(error) or type(error).__name__).split())
        said = said.replace(token, "***") if token else said
        way = "" if token else "; log in first: hf auth login, or set HF_TOKEN"
        raise StateError(
            f"{folder} was not uploaded to {name}: {said[:300]}{way}. The folder is complete"
        ) from error
    return f"{api.endpoint}/{repository}"
