"""Weights from packages of the index: of a package made on the spot, and the real ones."""

import hashlib
import pickle
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_foundations import CLASSES

from gmixout.errors import ConfigError, DataError, StateError
from gmixout.files import cache_folder
from gmixout.models import PACKAGED, load_pretrained, packaged
from gmixout.weightspace import fingerprint

timm = pytest.importorskip("timm")
MODEL = "test_efficientnet.r160_in1k"
FILE = "tiny_weights/models/tiny.pth"


class Package:
    """A package with the weights of a tiny model under names of its own, on the import path."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self._monkeypatch = monkeypatch
        self.state = timm.create_model("test_efficientnet").state_dict()
        self.file = folder / FILE
        self.file.parent.mkdir(parents=True)
        self.metadata = folder / "tiny_weights-1.0.dist-info" / "METADATA"
        self.metadata.parent.mkdir()
        self.metadata.write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        monkeypatch.syspath_prepend(str(folder))
        values = self.state.values()
        torch.save({f"other.{i}": value for i, value in enumerate(values)}, self.file)
        self.line = packaged.PackagedWeights(
            MODEL,
            "tiny-weights",
            FILE,
            "",
            fingerprint(self.state, packaged.DIGITS),
            "MIT",
        )
        self.know()

    def know(self, **changes) -> None:
        """List the file as it is now."""
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        self.line = replace(self.line, **{"sha256": digest, **changes})
        self._monkeypatch.setitem(PACKAGED, "tiny", self.line)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Package(tmp_path / "site", monkeypatch)


def cached() -> Path:
    (file,) = cache_folder().rglob("tiny*.safetensors")
    return file


def test_a_model_is_loaded_by_its_own_name(tiny):
    loaded = load_pretrained("tiny", timm.data.ImageNetInfo("imagenet-1k").label_names())
    torch.testing.assert_close(loaded.model.state_dict(), tiny.state, atol=0, rtol=0)
    assert loaded.head_from == "pretrained"
    assert loaded.name == "tiny"
    assert loaded.mean == timm.get_pretrained_cfg(MODEL).mean
    assert "weights: package tiny-weights (MIT)" in loaded.description
    assert load_pretrained("tiny", CLASSES).head_from == "random"


def test_it_is_converted_once(tiny):
    load_pretrained("tiny", CLASSES)
    before = cached().stat().st_mtime_ns
    tiny.file.unlink()  # not needed any more
    load_pretrained("tiny", CLASSES)
    assert cached().stat().st_mtime_ns == before


DAMAGES = {
    "cut short": lambda held: held[: len(held) // 2],
    "empty": lambda _: b"",
    "a bit differs": lambda held: held[:-9] + bytes([held[-9] ^ 1]) + held[-8:],
    "not safetensors": lambda held: b"x" * len(held),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_made_again(tiny, damage):
    load_pretrained("tiny", CLASSES)
    whole = cached().read_bytes()
    cached().write_bytes(damage(whole))
    load_pretrained("tiny", CLASSES)
    assert cached().read_bytes() == whole


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_another_file_than_the_known_one_is_not_opened(tiny, damage, monkeypatch):
    monkeypatch.setattr(torch, "load", None)
    tiny.file.write_bytes(damage(tiny.file.read_bytes()))
    digest = hashlib.sha256(tiny.file.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=f"tiny-weights.*{digest}.*{tiny.line.sha256}.*reinstall"):
        load_pretrained("tiny", CLASSES)
    assert not list(cache_folder().rglob("*"))


class Planted:
    """Code in a pickle."""

    def __reduce__(self):
        return Path.touch, (Path("planted"),)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: torch.save({"weight": Planted()}, file),
        lambda file: torch.save({"weight": Planted()}, file, _use_new_zipfile_serialization=False),
        lambda file: file.write_bytes(pickle.dumps(Planted())),
    ],
    ids=["torch's", "torch's of old", "plain"],
)
def test_code_in_a_known_file_does_not_run(tiny, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tiny.file)
    tiny.know()
    with pytest.raises(DataError, match=r"holds more than weights.*tiny-weights"):
        load_pretrained("tiny", CLASSES)
    assert not Path("planted").exists()


def test_tensors_that_do_not_fit_timms_are_refused(tiny):
    values = list(tiny.state.values())
    for wrong in (values[1:], values[::-1], []):
        torch.save({f"other.{i}": value for i, value in enumerate(wrong)}, tiny.file)
        tiny.know()
        with pytest.raises(DataError, match=f"tiny: timm {timm.__version__} .*fingerprint"):
            load_pretrained("tiny", CLASSES)
    tiny.know(model="test_resnet.r160_in1k")
    with pytest.raises(DataError, match="lays out test_resnet"):
        load_pretrained("tiny", CLASSES)


def test_a_package_that_is_not_there_is_named_with_its_extra(tiny):
    tiny.metadata.unlink()
    tiny.metadata.parent.rmdir()
    with pytest.raises(ConfigError, match=r"tiny needs tiny-weights.*gmixout\[real\]"):
        load_pretrained("tiny", CLASSES)


def test_a_package_that_lacks_its_file_is_named(tiny):
    tiny.file.unlink()
    with pytest.raises(DataError, match=r"tiny-weights lacks its file tiny_weights/.*reinstall"):
        load_pretrained("tiny", CLASSES)


def test_a_cache_that_cannot_be_written_is_named(tiny, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StateError, match=f"cannot write {tmp_path}/cache"):
        load_pretrained("tiny", CLASSES)


@pytest.mark.parametrize("name", PACKAGED)
def test_other_weights_go_with_the_architectures_name(name, tmp_path):
    way_out = f"timm:{PACKAGED[name].model}@FILE"
    with pytest.raises(ConfigError, match=way_out):
        load_pretrained(f"{name}@{tmp_path}", CLASSES)
    with pytest.raises(ConfigError, match=way_out):
        load_pretrained(name, CLASSES, weights=tmp_path)


@pytest.mark.parametrize("typed", ["efficientnet_lite9", "efficientnet-lite0", "eficientnet_lite0"])
def test_a_name_like_one_of_ours_is_explained(typed):
    with pytest.raises(ConfigError, match=r"Did you mean efficientnet_lite\d\? .*gmixout\[real\]"):
        load_pretrained(typed, CLASSES)


@pytest.mark.parametrize("typed", ["efficientnet_lite0", "tf_efficientnet_lite0"])
def test_timms_name_without_a_hub_leads_to_ours(typed):
    with pytest.raises(DataError, match=r"or take --model efficientnet_lite0\b.*gmixout\[real\]"):
        load_pretrained(f"timm:{typed}", CLASSES)


def installed(name: str) -> bool:
    try:
        distribution(PACKAGED[name].package)
    except PackageNotFoundError:
        return False
    return True


@pytest.fixture(params=PACKAGED, scope="module")
def real(request):
    if not installed(request.param):
        pytest.skip(f"{PACKAGED[request.param].package} is not installed: gmixout[real]")
    return request.param


@pytest.fixture(scope="module")
def photographs():
    """Two photographs that come with libraries, by their names in WordNet."""
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_image

    return {
        "palace": Image.fromarray(load_sample_image("china.jpg")),
        "military uniform": Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)),
    }


@torch.no_grad()
def logits(loaded, photographs):
    return loaded.model(torch.stack([loaded.transform(each) for each in photographs.values()]))


def test_real_weights_know_what_is_on_a_photograph(real, photographs):
    info = timm.data.ImageNetInfo("imagenet-1k")
    names = [text.partition(",")[0] for text in info.label_descriptions()]
    loaded = load_pretrained(real, info.label_names())
    assert loaded.head_from == "pretrained"
    found = logits(loaded, photographs)
    rows = [names.index(name) for name in photographs]
    for scores, row in zip(found, rows, strict=True):
        assert (scores > scores[row]).sum() < 3  # of 1,000 classes
    part = load_pretrained(real, [*photographs])
    assert part.head_from == "pretrained"
    torch.testing.assert_close(logits(part, photographs), found[:, rows])


def test_real_weights_take_smaller_images(real, photographs):
    part = load_pretrained(real, [*photographs], image_size=128)
    assert part.size == (128, 128)
    assert logits(part, photographs).argmax(1).tolist() == [0, 1]
    random = load_pretrained(real, ["dog", "elephant"], image_size=128)
    assert random.head_from == "random"
