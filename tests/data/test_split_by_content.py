"""Class folders alone, and folders without val: a split that depends on the images alone."""

import csv
import hashlib
import io
import os
import shutil

import official_trees as trees
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmixout.data import SOURCES, recognized
from gmixout.data.sampling import split_by_content
from gmixout.data.split_table import split_table
from gmixout.errors import DataError

SHARES = (0.2, 0.2)


def own(root, **options):
    return SOURCES["imagefolder"](root, **options)


def parts_of(root, **options):
    """The split of each image by its content."""
    splits = own(root, **options).load()
    return {
        splits.sets[part].content(index): (part, splits.classes[label])
        for part in ("train", "id_val", "id_test")
        for index, label in enumerate(splits.sets[part].labels.tolist())
    }


def hashes(count, salt=""):
    return [hashlib.sha256(f"{salt}{n}".encode()).hexdigest() for n in range(count)]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_image_is_in_one_part_and_order_does_not_count(labels, salt):
    contents = hashes(len(labels), salt)
    parts, _ = split_by_content(torch.tensor(labels, dtype=torch.int64), contents, SHARES)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    turned, _ = split_by_content(torch.tensor(labels[::-1]).long(), contents[::-1], SHARES)
    last = len(labels) - 1
    assert [sorted(last - n for n in part.tolist()) for part in turned] == [
        part.tolist() for part in parts
    ]
    for label in {*labels}:
        counts = [sum(labels[n] == label for n in part.tolist()) for part in parts]
        assert counts[-1]  # there is something to train on
        assert all(counts) or sum(counts) < len(parts)


def test_shares_are_met_on_average_and_additions_move_nothing():
    labels, contents = torch.arange(4).repeat(500), hashes(2000)
    parts, moved = split_by_content(labels, contents, (0.1, 0.3))
    assert moved == []
    assert [len(part) / 2000 for part in parts] == pytest.approx([0.1, 0.3, 0.6], abs=0.03)
    few, _ = split_by_content(labels[:1000], contents[:1000], (0.1, 0.3))
    assert [part[part < 1000].tolist() for part in parts] == [part.tolist() for part in few]


def test_equal_images_are_in_one_part():
    labels, contents = torch.arange(2).repeat(60), [h for h in hashes(40) for _ in range(3)]
    parts, _ = split_by_content(labels, contents, SHARES)
    seen = [{contents[n] for n in part.tolist()} for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 40


@pytest.fixture
def flat(tmp_path):
    trees.class_folders(tmp_path / "mine", ["ant", "bee", "cat"], 30, 0)
    return tmp_path / "mine"


def test_class_folders_alone_are_split_and_the_split_stays(flat):
    before = parts_of(flat)
    assert len(before) == 90
    assert {part for part, _ in before.values()} == {"train", "id_val", "id_test"}
    for number, file in enumerate(sorted(flat.rglob("*.jpg"))):
        os.rename(file, file.with_name(f"{number * 7 % 100}_renamed.jpeg"))
    trees.class_folders(flat, ["ant", "bee", "cat"], 5, 9)
    trees.class_folders(flat / "ant", ["inside"], 5, 8)
    os.rename(flat / "bee", flat / "wasp")
    shutil.copytree(flat, flat.parent / "elsewhere")
    after = parts_of(flat.parent / "elsewhere")
    assert {content: part for content, (part, _) in after.items() if content in before} == {
        content: part for content, (part, _) in before.items()
    }
    assert len(after) == 110


def test_the_split_and_where_it_may_change_are_said(flat):
    shares = {"id_val_share": 0.1, "id_test_share": 0.3}
    (note,) = [n for n in own(flat, **shares).check().notes if "held out" in n]
    assert note.startswith("there is no val and no test: about 10% for val and 30% for test are")
    assert not any("too small" in each for each in own(flat).check().notes)
    for name in ("dog", "eel"):
        trees.class_folders(flat, [name], 2, 7)
    notes = own(flat).check().notes
    assert any(each.startswith("classes too small for these shares") for each in notes)
    assert "train has fewer than 5 images of 2 of 5 classes: dog (1), eel (1)" in notes


def test_what_lies_beside_classes_is_said_and_shifts_are_shifts(flat):
    trees.class_folders(flat / "shift_rain", ["ant", "bee"], 4, 3)
    trees.paint(flat / "loose.jpg", (9, 9, 9))
    (flat / "empty").mkdir()
    (flat / "notes").mkdir()
    (flat / "notes" / "a.txt").touch()
    (flat / "dead").symlink_to("/nowhere")
    splits = own(flat).load()
    assert splits.classes == ("ant", "bee", "cat")
    assert {name: len(images) for name, images in splits.shifts.items()} == {"rain": 8}
    said = "\n".join(splits.notes)
    assert "empty/ holds no image: left out" in said
    assert "notes/ holds no image: left out" in said
    assert "1 image that lies in no class folder: .jpg (1)" in said
    assert "1 link that leads nowhere" in said


@pytest.mark.parametrize("parts", [("train",), ("Training",), ("train", "test")])
def test_what_train_lacks_is_held_out_of_it(parts, tmp_path):
    for number, part in enumerate(parts):
        trees.class_folders(tmp_path / part, ["ant", "bee"], 30, number)
    splits = own(tmp_path).load()
    sizes = {name: len(images) for name, images in splits.sets.items()}
    assert sum(sizes.values()) == 60 * len(parts)
    assert min(sizes.values()) > 0
    if "test" in parts:
        assert sizes["id_test"] == 60
        assert {trees.colour_of(picture)[1] for picture, _ in splits.id_test} == {1}


def test_domains_are_split_each_by_itself(tmp_path):
    for number, domain in enumerate(("day", "night", "rain")):
        trees.class_folders(tmp_path / domain, ["ant", "bee"], 20, number)
    splits = own(tmp_path, layout="domains", test_domain="rain").load()
    assert splits.classes == ("ant", "bee")
    assert len(splits.shifts["rain"]) == 40
    for name in ("train", "id_val", "id_test"):
        assert splits.sets[name].group_names == ("day", "night")
        assert {*splits.sets[name].groups.tolist()} == {0, 1}
    assert sum(len(splits.sets[n]) for n in ("train", "id_val", "id_test")) == 80


def test_one_image_a_class_is_a_clear_error(tmp_path):
    trees.class_folders(tmp_path, ["ant", "bee"], 1, 0)
    with pytest.raises(DataError, match="no val and no test, and the classes have too few images"):
        own(tmp_path).check()
    # copies are no other images
    for name in ("ant", "bee"):
        for number in range(1, 5):
            shutil.copy(tmp_path / name / f"{name}_0.jpg", tmp_path / name / f"{number}.jpg")
    with pytest.raises(DataError, match="they need 3 or more different ones each"):
        own(tmp_path).check()


def test_a_test_folder_of_another_set_is_not_split(tmp_path):
    trees.class_folders(tmp_path / "val", ["ant", "bee"], 4, 0)
    with pytest.raises(DataError, match=r"there is no folder .*train"):
        own(tmp_path).check()
    assert {name: len(images) for name, images in own(tmp_path).load_tests().shifts.items()} == {
        "val": 8
    }


def hugging_face(root):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"image": [b"x"], "label": [0]})
    rows.save_to_disk(str(root / "saved"))
    return root / "saved"


def parquet(root, images):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    column = {"image": [b"x"]} if images else {"file": ["a.jpg"]}
    parquet.write_table(pyarrow.table({**column, "label": ["ant"]}), root / "x.parquet")
    return root / "x.parquet"


def listed(root, name="list.csv", text="file,class\na/1.jpg,ant\n"):
    trees.paint(root / "images" / "1.jpg", (0, 0, 0))
    (root / name).write_text(text)
    return root


def spelled(root):
    return [(root / "b").mkdir(), trees.class_folders(root / "Train", ["a", "b"], 1, 0)] and root


@pytest.mark.parametrize("layout", ["classes", "domains"])
def test_the_recorded_split_makes_the_same_split_again(layout, tmp_path):
    root = tmp_path / "mine"
    if layout == "classes":
        trees.class_folders(root, ["-1", "=a, b", "c"], 20, 0)
        trees.class_folders(root / "shift_rain", ["-1", "c"], 3, 5)
    else:
        for number, domain in enumerate(("day", "night", "rain")):
            trees.class_folders(root / domain, ["ant", "bee"], 20, number)
    options = {"layout": layout, "test_domain": "rain"} if layout == "domains" else {}
    before = own(root, **options).load()
    (root / "split.csv").write_text(split_table(before, root))
    after = SOURCES["csv"](root / "split.csv").load()

    def held(splits, part):
        images = splits.sets[part]
        groups = images.groups if images.groups is not None else [0] * len(images)
        return {
            (images.content(n), splits.classes[label].removeprefix("'"), int(groups[n]))
            for n, label in enumerate(images.labels.tolist())
        }

    assert {*after.sets} == {*before.sets}
    for part in before.sets:
        assert held(after, part) == held(before, part)
    rows = csv.reader(io.StringIO((root / "split.csv").read_text()))
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)


KINDS = {
    "class folders": (lambda root: trees.class_folders(root, "ab", 1, 0) or root, "imagefolder"),
    "train": (lambda root: trees.class_folders(root / "train", "ab", 1, 0) or root, "imagefolder"),
    "train in another spelling": (spelled, "imagefolder"),
    "published domains": (
        lambda root: trees.domains(root, ["photo", "art painting"], ["dog", "house"], 1), "pacs"
    ),
    "a table": (lambda root: listed(root) / "list.csv", "csv"),
    "a table of tabs": (lambda root: listed(root, "a.TSV") / "a.TSV", "csv"),
    "a table of files in parquet": (lambda root: parquet(root, images=False), "csv"),
    "a folder with a table": (listed, "csv"),
    "images in parquet": (lambda root: parquet(root, images=True), "huggingface"),
    "a folder of them": (lambda root: parquet(root, images=True).parent, "huggingface"),
    "save_to_disk": (hugging_face, "huggingface"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data_are_recognized(kind, tmp_path):
    make, name = KINDS[kind]
    root = make(tmp_path)
    found, place = recognized(root)
    assert found is SOURCES[name]
    assert place == (root / "list.csv" if kind == "a folder with a table" else root)


def one_class(root):
    trees.class_folders(root, ["ant"], 3, 0)


UNKNOWN = {
    "nothing": (lambda root: root.rmdir(), "is not there"),
    "an empty folder": (lambda root: None, "holds 0 folders with 0 images"),
    "one class": (one_class, "holds 1 folders with 3 images, which are not two or more classes"),
    "loose images": (
        lambda root: trees.paint(root / "a.jpg", (0, 0, 0)), "holds 1 image in no class folder"
    ),
    "a table of others": (lambda root: listed(root, text="a,b\n1,2\n"), "holds 1 folders with"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_no_data_set_is_described(kind, tmp_path):
    root = tmp_path / "mine"
    root.mkdir()
    make, said = UNKNOWN[kind]
    make(root)
    with pytest.raises(DataError, match=f"mine {said}.*--benchmark NAME"):
        recognized(root)
