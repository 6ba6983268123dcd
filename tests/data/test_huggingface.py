import json
import os
import pickle
import socket
import sys

import official_trees as trees
import pytest
from official_trees import colour_of

from gmixout.data import SOURCES
from gmixout.data.source import broken_in
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


def test_every_image_is_a_test_image_for_a_model_of_other_data(make, datasets):
    names = datasets.ClassLabel(names=["cat", "dog"])
    source = huggingface(make({"train": ([0, 1] * 10, names), "fog": ([1, 0, 1], names)}))
    tests = source.load_tests()
    assert {name: len(images) for name, images in tests.shifts.items()} == {"all": 20, "fog": 3}
    colours = {colour_of(tests.shifts["all"].picture(index)) for index in range(20)}
    assert len(colours) == 20
    assert tests.shifts["all"].labels.sum() == 10


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
    halved = load(huggingface(root, shifts=("fog",), test=""))
    assert halved.id_val.labels.tolist() == halved.id_test.labels.tolist() == [0, 1]
    assert "one half of the validation split" in halved.notes[0]


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
    assert len(broken_in(splits)) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val": "dev"}, "there is no split dev; there is: train, validation, fog"),
        ({"image": "img"}, "split train has no column img; it has: image, label"),
        ({"train": "fog"}, "split validation has labels that fog lacks: 1"),
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


def test_a_split_without_labels_is_left_out_with_a_note(make, datasets):
    """The test split of ImageNet-1k on the hub has -1 alone."""
    names = datasets.ClassLabel(names=["cat", "dog"])
    good = ([0, 1] * 2, names)
    root = make(
        {"train": good, "validation": good, "test": ([-1] * 3, names), "bare": ([None] * 2, names)}
    )
    splits = load(huggingface(root))
    assert splits.shifts == {}
    assert {f"split {name} has no labels: left out" for name in ("test", "bare")} <= {*splits.notes}
    for options in ({"test": "test"}, {"shifts": ("bare",)}):
        with pytest.raises(DataError, match=r"rows have no label, row 0 first"):
            load(huggingface(root, **options))


WRONG_LABELS = {
    "one without": (lambda d: d.ClassLabel(names=["a", "b"]), [0, 1, -1, None], "2 of 4 .*row 2"),
    "text without": (lambda d: d.Value("string"), ["a", "b", None], "1 of 3 .*row 2"),
    "not a number": (lambda d: d.Value("float32"), [0.0, float("nan")], "1 of 2 .*row 1"),
    "several": (lambda d: d.List(d.ClassLabel(names=["a", "b"])), [[0, 1], [0]], "the one class"),
    "bytes": (lambda d: d.Value("binary"), [b"a", b"b"], "the one class"),
    "days": (lambda d: d.Value("timestamp[s]"), [0, 1], "the one class"),
}


@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_labels_that_are_no_classes_are_named(kind, make, datasets):
    feature, labels, said = WRONG_LABELS[kind]
    feature = feature(datasets)
    good = [each for each in labels if each not in (None, -1) and each == each]
    root = make({"train": (labels, feature), "validation": (good, feature)})
    with pytest.raises(DataError, match=f"(?s)split train.*{said}"):
        huggingface(root).check()


def test_a_number_without_a_name_is_named(make, datasets):
    """The numbers lie in one file and their names in another, which may be of another version."""
    names = datasets.ClassLabel(names=["cat", "dog", "fox"])
    root = make({"train": ([0, 1, 2], names), "validation": ([0, 1], names)})
    for info in root.rglob("dataset_info.json"):
        held = json.loads(info.read_text())
        held["features"]["label"]["names"] = ["cat", "dog"]
        info.write_text(json.dumps(held))
    with pytest.raises(
        DataError, match="split train, row 2: 2 is not a class label; they go from 0 to 1"
    ):
        huggingface(root).check()


@pytest.mark.parametrize("wrong", [{}, 1, None, True, [], ["a"]])
def test_class_names_are_text(wrong, make, datasets):
    names = datasets.ClassLabel(names=["cat", "dog"])
    root = make({"train": ([0, 1], names), "validation": ([0, 1], names)})
    for info in root.rglob("dataset_info.json"):
        held = json.loads(info.read_text())
        held["features"]["label"]["names"] = ["cat", wrong]
        info.write_text(json.dumps(held))
    with pytest.raises(DataError, match=r"class names .* are not all text|cannot be loaded"):
        huggingface(root).check()


def test_images_that_are_text_or_missing_are_named(make, datasets, tmp_path):
    import pyarrow

    features = datasets.Features(
        {"image": datasets.Value("string"), "label": datasets.Value("int64")}
    )
    table = pyarrow.table({"image": ["a.png", "b.png"], "label": [0, 1]})
    table = table.cast(features.arrow_schema)
    held = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="x")
    datasets.DatasetDict({"train": held, "validation": held}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(DataError, match=r"column image holds .*string.* cast_column"):
        huggingface(tmp_path / "text").check()


def test_a_pipe_in_the_folder_is_named(make, datasets):
    number = datasets.Value("int64")
    root = make({"train": ([0, 1], number), "validation": ([0, 1], number)})
    file = next(root.rglob("*.arrow"))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match=r"arrow is not a regular file"):
        huggingface(root).check()


def test_a_split_called_test_is_the_test_unless_that_is_refused(make, datasets):
    number = datasets.Value("int64")
    root = make({"train": ([0, 1] * 2, number), "valid": ([0, 1] * 2, number),
                 "test": ([0, 1, 1], number), "fog": ([1], number)})  # fmt: skip
    splits = load(huggingface(root))
    assert {name: len(images) for name, images in splits.sets.items()} == {
        "train": 4, "id_val": 4, "id_test": 3, "fog": 1,
    }  # fmt: skip
    assert load(huggingface(root, test="", shifts=())).shifts == {}
    splits = load(huggingface(root, test=""))
    assert {*splits.shifts} == {"test", "fog"}
    assert (len(splits.id_val), len(splits.id_test)) == (2, 2)


def test_none_is_all_and_empty_is_none(make, datasets):
    """What is not asked for need not even be readable."""
    number, text = datasets.Value("int64"), datasets.Value("binary")
    root = make({"train": ([0, 1] * 2, number), "validation": ([0, 1] * 2, number),
                 "fog": ([1], number), "odd": ([b"x"], text)})  # fmt: skip
    assert load(huggingface(root, shifts=())).shifts == {}
    assert {*load(huggingface(root, shifts=("fog",))).shifts} == {"fog"}
    with pytest.raises(DataError, match="split odd: column label holds"):
        load(huggingface(root))


def test_what_is_missing_is_held_out_by_content(make, datasets):
    number = datasets.Value("int64")
    root = make({"train": ([0, 1] * 20, number), "fog": ([1], number)})
    splits = load(huggingface(root, id_val_share=0.3))
    sizes = {name: len(images) for name, images in splits.sets.items()}
    assert sizes["train"] + sizes["id_val"] + sizes["id_test"] == 40
    assert min(sizes.values()) > 0
    assert any("there is no val and no test: about 30% for val and 20%" in n for n in splits.notes)
    parts = (splits.train, splits.id_val, splits.id_test)
    assert len({colour_of(picture) for part in parts for picture, _ in part}) == 40
    root = make({"train": ([0, 1], number), "test": ([0, 1], number)})
    with pytest.raises(DataError, match="no val, and the classes have too few images"):
        huggingface(root).check()


def test_one_split_without_a_dictionary_is_the_training_split(make, datasets, tmp_path):
    number = datasets.Value("int64")
    root = make({"train": ([0, 1] * 20, number)})
    datasets.load_from_disk(str(root))["train"].save_to_disk(str(tmp_path / "single"))
    splits = load(huggingface(tmp_path / "single"))
    assert [len(i) for i in splits.sets.values()] == [
        len(i) for i in load(huggingface(root)).sets.values()
    ]


def test_columns_of_other_names_are_taken_where_there_is_one_of_the_kind(make, datasets, tmp_path):
    names = datasets.ClassLabel(names=["cat", "dog"])
    root = make({"train": ([0, 1] * 20, names)})
    rows = datasets.load_from_disk(str(root))["train"]
    renamed = rows.rename_columns({"image": "img", "label": "fine_label"})
    renamed.save_to_disk(str(tmp_path / "one"))
    notes = load(huggingface(tmp_path / "one")).notes
    assert {"column img is read as image", "column fine_label is read as label"} <= {*notes}
    both = renamed.add_column("coarse_label", [0] * 40).cast_column("coarse_label", names)
    both.save_to_disk(str(tmp_path / "two"))
    with pytest.raises(DataError, match="no column label, and fine_label or coarse_label may be m"):
        huggingface(tmp_path / "two").check()
    assert len(load(huggingface(tmp_path / "two", label="fine_label")).classes) == 2


def test_a_parquet_file_of_images_is_read(make, datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for number in range(30):
        trees.paint(tmp_path / "images" / f"{number}.png", (number % 2, 0, number))
    encoded = [(tmp_path / "images" / f"{number}.png").read_bytes() for number in range(30)]
    table = pyarrow.table({"image": encoded, "label": [number % 2 for number in range(30)]})
    parquet.write_table(table, tmp_path / "x.parquet")
    splits = load(huggingface(tmp_path / "x.parquet"))
    for images in (splits.train, splits.id_val, splits.id_test):
        assert all(colour_of(picture)[0] == label for picture, label in images)
    assert sum(map(len, splits.sets.values())) == 30
