import pickle
import socket
import sys

import official_trees as trees
import pytest
from official_trees import colour_of

from gmixout.data import SOURCES
from gmixout.errors import ConfigError, DataError


def huggingface(root, **options):
    return SOURCES["huggingface"](root, **options)


def load(source):
    return source.load(lambda picture: picture)


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs datasets.*pip install 'gmixout\[hub\]'"):
        huggingface(tmp_path).check()


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets")


def split(datasets, folder, number, labels, feature, broken=False):
    import pyarrow

    rows = []
    for index, label in enumerate(labels):
        path = folder / f"{number}_{index}.png"
        trees.paint(path, (0, number, index))
        encoded = b"" if broken and index == 0 else path.read_bytes()
        rows.append({"image": {"bytes": encoded, "path": path.name}, "label": label})
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
    # without a fingerprint it would pickle pyarrow's types, which not every version lets it
    return datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=f"{number}")


@pytest.fixture
def make(datasets, tmp_path):
    """Writes a data set; each split has its own feature and labels."""

    def write(splits, broken=()):
        held = {
            name: split(datasets, tmp_path, number, labels, feature, name in broken)
            for number, (name, (labels, feature)) in enumerate(splits.items())
        }
        datasets.DatasetDict(held).save_to_disk(str(tmp_path / "saved"))
        return tmp_path / "saved"

    return write


def test_splits_labels_and_shifts(make, datasets):
    names = datasets.ClassLabel(names=["cat", "dog"])
    root = make(
        {
            "train": ([0, 1, 1], names),
            "validation": ([0, 1] * 2, names),
            "test": ([1], names),
            "fog": ([0, 1], names),
        }
    )
    splits = load(huggingface(root, test="test"))
    assert splits.classes == ("cat", "dog")
    assert [len(images) for images in splits.sets.values()] == [3, 4, 1, 2]
    assert [colour_of(picture)[1:] for picture, _ in splits.shifts["fog"]] == [(3, 0), (3, 1)]
    assert splits.train.labels.tolist() == [0, 1, 1]
    sent = pickle.loads(pickle.dumps(splits.shifts["fog"].transformed(colour_of)))
    assert [colour for colour, _ in sent] == [(0, 3, 0), (0, 3, 1)]
    halved = load(huggingface(root, shifts=("fog",)))
    assert halved.id_val.labels.tolist() == halved.id_test.labels.tolist() == [0, 1]
    assert "one half of validation" in halved.notes[0]


def test_a_class_has_one_label_whatever_its_number_in_a_split(make, datasets):
    names, swapped = (datasets.ClassLabel(names=n) for n in (["cat", "dog"], ["dog", "cat"]))
    both = {"train": ([0, 1], names), "validation": ([0, 1] * 2, names), "fog": ([0, 1], swapped)}
    assert load(huggingface(make(both))).shifts["fog"].labels.tolist() == [1, 0]


def test_labels_that_are_text_are_sorted(make, datasets):
    text = datasets.Value("string")
    splits = load(
        huggingface(
            make(
                {
                    "train": (["dog", "ape", "dog"], text),
                    "validation": (["ape", "ape"], text),
                    "fog": (["dog"], text),
                }
            )
        )
    )
    assert splits.classes == ("ape", "dog")
    assert splits.train.labels.tolist() == [1, 0, 1]


def test_a_broken_image_is_named_and_can_be_skipped(make, datasets):
    number = datasets.Value("int64")
    root = make(
        {"train": ([0, 1], number), "validation": ([0, 0], number), "fog": ([0, 1], number)},
        broken=("fog",),
    )
    with pytest.raises(DataError, match=r"row 0 of .*saved, split fog cannot be read"):
        list(load(huggingface(root)).shifts["fog"])
    splits = load(huggingface(root, on_broken="skip"))
    assert splits.shifts["fog"].labels.tolist() == [1]
    assert len(splits.broken) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val": "dev"}, "there is no split dev; there is: train, validation, fog"),
        ({"image": "img"}, "split train has no column img; it has: image, label"),
        ({"train": "fog"}, "split validation has labels that fog has not: 1"),
    ],
)
def test_what_is_not_there_is_named(options, said, make, datasets):
    number = datasets.Value("int64")
    root = make({"train": ([0, 1], number), "validation": ([0, 1], number), "fog": ([0], number)})
    with pytest.raises(DataError, match=said):
        huggingface(root, **options).check()


@pytest.fixture
def connections(monkeypatch):
    """Addresses that anything tries to connect to, which nothing can."""
    asked = []

    def refuse(self, address):
        asked.append(address)
        raise OSError("no connection in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: refuse(None, args))
    return asked


def test_a_name_that_is_not_on_this_machine_is_refused_without_a_download(datasets, connections):
    with pytest.raises(
        DataError, match=r"cannot be loaded without a download.*(?s:.)*save_to_disk"
    ):
        huggingface("nobody/nothing-of-this-name").check()
    assert connections == []


def test_a_name_whose_files_are_in_the_cache_needs_no_connection(
    datasets, connections, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    stored = tmp_path / "hub" / "datasets--somebody--pets"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("abc")
    for part in ("train", "validation"):
        trees.class_folders(stored / "snapshots" / "abc" / part, ["cat", "dog"], 2, 0)
    source = huggingface("somebody/pets")
    assert source.placed() == source  # no folder of the working directory
    splits = load(source)
    assert splits.classes == ("cat", "dog")
    assert len(splits.train) == 4
    assert any("no split is a shift" in note for note in splits.notes)
    assert connections == []
