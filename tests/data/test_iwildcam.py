import official_trees as trees
import pytest
from official_trees import colour_of, remove

from gmixout.data import SOURCES
from gmixout.errors import DataError


def iwildcam(root):
    return SOURCES["iwildcam"](root, counts="any")


def load(root):
    return iwildcam(root).load(lambda picture: picture)


@pytest.fixture
def root(tmp_path):
    return trees.iwildcam(tmp_path)


def test_the_tables_splits_are_the_splits(root):
    splits = load(root)
    assert set(splits.shifts) == {"test"}
    assert set(splits.dev_shifts) == {"val"}
    order = ("train", "val", "test", "id_val", "id_test")
    for number, name in enumerate(order):
        found = [(colour_of(picture), label) for picture, label in splits.sets[name]]
        assert found == [((label, number, 0), label) for label in (0, 1, 3)]
        images = splits.sets[name]
        places = [images.group_names[group] for group in images.groups.tolist()]
        assert places == [f"location {50 + number + label}" for label in (0, 1, 3)]
        assert images.group_names == splits.train.group_names
    assert (splits.metric, splits.extra_metrics) == ("macro_f1", ("accuracy", "macro_recall"))


def test_a_gap_in_the_labels_moves_none_and_unused_species_are_no_class(root):
    assert load(root).classes == ("empty", "deer", "lion", "fox, red")
    assert iwildcam(root).check().notes == ("train has no image of 1 of 4 classes: lion",)


def test_without_category_names_the_table_says_how_many_classes_there_are(root):
    (root / "iwildcam_v2.0" / "categories.csv").unlink()
    assert load(root).classes == ("class 0", "class 1", "class 2", "class 3")
    assert any("and so is a zero-shot head" in note for note in load(root).notes)


def test_the_root_may_be_the_folder_itself(root):
    assert iwildcam(root / "iwildcam_v2.0").check().images == iwildcam(root).check().images


def rewrite(old, new):
    def do(root):
        file = root / "iwildcam_v2.0" / "metadata.csv"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return do


BREAKS = {
    "no table": (lambda r: remove(r / "iwildcam_v2.0/metadata.csv"), "there is no .*metadata.csv"),
    "no images": (lambda r: remove(r / "iwildcam_v2.0/train"), "there is no .*train"),
    "an image": (
        lambda r: remove(r / "iwildcam_v2.0/train/test_3.jpg"),
        "metadata.csv lists, for test, 1 images .* test_3.jpg",
    ),
    "a column": (rewrite("location_remapped", "place"), "has no column location_remapped"),
    "a split": (rewrite("id_val,53", "idval,53"), "line 11: split 'idval' must be one of"),
    "a label": (rewrite(",1,101,val_1", ",x,101,val_1"), "line 6: .* y 'x'"),
    "an unused species": (
        rewrite(",1,101,val_1", ",99999,101,val_1"),
        "1 images have a label of 99999 or more",
    ),
    "no rows": (
        lambda r: trees.write_csv(
            r / "iwildcam_v2.0/metadata.csv",
            ["split", "location_remapped", "y", "filename"],
            [],
        ),
        "train holds no image",
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_table_is_refused(kind, root):
    do, said = BREAKS[kind]
    do(root)
    with pytest.raises(DataError, match=said):
        iwildcam(root).check()
