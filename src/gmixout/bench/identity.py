"""Hashes that identify runs and data."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gmixout.bench.task import IDENTITY_SCHEMA, LoadedTask
from gmixout.methods import Method
from gmixout.named import changed, identity, plain
from gmixout.training.arguments import TrainingArguments

DIGEST_SCHEMA = 2
"""Version of the digests of data: no default is part of them, so that they outlive run hashes."""


def hash_of(what: Mapping[str, Any], schema: int = IDENTITY_SCHEMA) -> str:
    """Return 12 hexadecimal digits that identify plain values."""
    text = json.dumps({"schema": schema, **what}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity_of_training(method: Method, arguments: TrainingArguments) -> dict[str, Any]:
    """Return the identity of a training run on its benchmark, as plain values.

    Default values are left out, so that the identity survives new options.
    """
    own = arguments.identity()
    settings = {k: plain(v, identity) for k, v in changed(arguments).items() if k in own}
    return {"method": identity(method), "training": settings}


def identity_of(task: LoadedTask) -> dict[str, Any]:
    """Return the identity of a task, for the hash of a run."""
    return {"benchmark": task.name, **task.identity}


def digests_of(task: LoadedTask) -> dict[str, str]:
    """Return digests of a task's data and initial weights, where known."""
    identity, found = task.identity, {}
    if "images" in identity:
        found["data"] = digest_of_data(identity["images"], identity.get("classes"))
    if "pretrained" in identity:
        found["pretrained"] = str(identity["pretrained"])
    return found


def digest_of_data(images: Mapping[str, str], classes: Sequence[str] | None) -> str:
    """Return a digest of data, wherever it is.

    Args:
        images: `ImageSet.digest` of each set by its name.
        classes: Class names.
    """
    listed = None if classes is None else list(classes)
    return hash_of({"images": dict(images), "classes": listed}, DIGEST_SCHEMA)
