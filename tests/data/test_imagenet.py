import json

import official_trees as trees
import pytest
import torch
from official_trees import WNIDS, colour_of, remove

from gmixout.data import SOURCES
from gmixout.data.common_corruptions.constants import EXTRA_KINDS, KINDS
from gmixout.data.sampling import FEW, MANY, MEDIUM, shot_groups
from gmixout.errors import DataError


def imagenet(root, **options):
    return SOURCES["imagenet"](root, **{"counts": "any", "val_share": 0.2} | options)


@pytest.fixture
def root(tmp_path):
    return trees.imagenet(tmp_path)


def pictures(images):
    return [(colour_of(picture), label) for picture, label in images]


def load(source):
    return source.load(lambda picture: picture)


def test_labels_are_places_among_the_sorted_wnids(root):
    splits = load(imagenet(root))
    assert splits.classes == tuple(WNIDS)
    for images in (splits.train, splits.id_val, splits.id_test, splits.shifts["sketch"]):
        assert {colour[0] == label for colour, label in pictures(images)} == {True}
    assert len(splits.train) + len(splits.id_val) == 5 * len(WNIDS)
    assert {colour[1] for colour, _ in pictures(splits.id_test)} == {1}


def test_v2s_folder_number_is_the_label_although_10_comes_before_2_as_text(root):
    found = pictures(load(imagenet(root)).shifts["v2"])
    assert len(found) == 2 * len(WNIDS)
    assert {colour[0] == label for colour, label in found} == {True}


def test_v2_sorted_into_wnids_is_read_too(root):
    folder = root / "imagenetv2-matched-frequency-format-val"
    for number, wnid in enumerate(WNIDS):
        (folder / str(number)).rename(folder / wnid)
    found = pictures(load(imagenet(root, shifts=("v2",))).shifts["v2"])
    assert {colour[0] == label for colour, label in found} == {True}


def test_another_sample_of_v2_is_another_folder(root):
    with pytest.raises(DataError, match="ImageNetV2-top-images"):
        imagenet(root, v2="top-images").check()
    (root / "imagenetv2-matched-frequency-format-val").rename(root / "ImageNetV2-top-images")
    assert imagenet(root, v2="top-images").check().images["v2"] == 2 * len(WNIDS)


@pytest.mark.parametrize("name", ["r", "a"])
def test_r_and_a_ask_for_their_own_classes_alone(name, root):
    splits = load(imagenet(root))
    images = splits.shifts[name]
    own = {"r": WNIDS[3:6], "a": [WNIDS[1], WNIDS[4]]}[name]
    assert list(images.space.classes) == own
    # a model that knows every image's class, but likes a class that the set has not even better
    places = torch.tensor([colour[0] for colour, _ in pictures(images)])
    logits = torch.nn.functional.one_hot(places, len(WNIDS)).float()
    logits[:, 0] = 9
    assert images.project(logits).argmax(1).tolist() == images.labels.tolist()
    assert imagenet(root).check().images[name] == 2 * len(own)


def test_objectnet_keeps_the_classes_that_imagenet_has_without_their_frame(root):
    images = load(imagenet(root)).shifts["objectnet"]
    assert images.space.classes == ("banana", "chair")
    assert images.space.members == ((10,), (2, 7))
    assert [label for _, label in images] == [0, 1]
    # 2 is the number of the banana's folder, 0 that of the chair's
    assert [picture.getcolors() for picture, _ in images] == [[(64, (2, 6, 0))], [(64, (0, 6, 0))]]
    logits = torch.zeros(1, len(WNIDS))
    logits[0, 7] = 3
    assert images.project(logits).tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("v2", "imagenetv2-matched-frequency-format-val"),
        ("r", "imagenet-r"),
        ("a", "imagenet-a"),
        ("sketch", "sketch"),
        ("objectnet", "objectnet-1.0"),
    ],
)
def test_a_missing_shift_is_refused_or_left_out_and_said(name, folder, root):
    remove(root / folder)
    with pytest.raises(DataError, match=rf"shift {name}: there is no folder.*missing=leave_out"):
        imagenet(root).check()
    inventory = imagenet(root, missing="leave_out").check()
    assert name not in inventory.images
    assert any(f"shift {name}:" in note and "left out" in note for note in inventory.notes)
    others = tuple({"v2", "r", "a", "sketch", "objectnet"} - {name})
    assert set(load(imagenet(root, shifts=others)).shifts) == set(others)
    assert imagenet(root, shifts=others).check().notes == ()


def test_names_come_from_the_file_beside_train(root):
    lines = [f"{wnid} thing {number}, other name" for number, wnid in enumerate(WNIDS)]
    (root / "imagenet" / "LOC_synset_mapping.txt").write_text("\n".join(lines))
    assert load(imagenet(root)).classes[3] == "thing 3, other name"
    (root / "imagenet" / "LOC_synset_mapping.txt").write_bytes(b"n01440764 ten\xe7h")
    with pytest.raises(DataError, match=r"LOC_synset_mapping.txt is not text in UTF-8"):
        load(imagenet(root))


@pytest.mark.parametrize("name", ["val_in_folder", "val_dirs", "validation"])
def test_folders_have_the_names_that_others_give_them(name, root):
    before = imagenet(root).check().images
    (root / "imagenet" / "val").rename(root / "imagenet" / name)
    (root / "imagenet").rename(root / "ILSVRC2012")
    assert imagenet(root).check().images == before


def test_train_may_lie_in_the_root_itself(root):
    for part in ("train", "val"):
        (root / "imagenet" / part).rename(root / part)
    assert imagenet(root).check().classes == len(WNIDS)


def flatten_val(root):
    for path in sorted((root / "imagenet/val").rglob("*.JPEG")):
        path.rename(root / "imagenet/val" / path.name)
    for folder in list((root / "imagenet/val").iterdir()):
        if folder.is_dir():
            folder.rmdir()


def empty_class(root):
    for path in (root / "imagenet/train" / WNIDS[2]).iterdir():
        path.unlink()


def change_mapping(name, text):
    return lambda root: (root / "objectnet-1.0/mappings" / name).write_text(text)


BREAKS = {
    "no train": (lambda root: remove(root / "imagenet/train"), "there is no train/ in"),
    "no val": (lambda root: remove(root / "imagenet/val"), "there is no val/ in"),
    "flat val": (flatten_val, "holds 24 images and no folders: sort them"),
    "a class not in val": (
        lambda root: remove(root / "imagenet/val" / WNIDS[1]),
        f"no folder of 1 of 12 classes, {WNIDS[1]}",
    ),
    "an empty class": (empty_class, f"{WNIDS[2]} holds no image"),
    "a class not in train": (
        lambda root: (root / "imagenet-r" / WNIDS[3]).rename(root / "imagenet-r/n99999999"),
        "n99999999 is not a class of ImageNet's train/",
    ),
    "v2 by name": (
        lambda root: (root / "imagenetv2-matched-frequency-format-val/3").rename(
            root / "imagenetv2-matched-frequency-format-val/three"
        ),
        "three is neither the number of a class nor a wnid",
    ),
    "v2 without a class": (
        lambda root: remove(root / "imagenetv2-matched-frequency-format-val/3"),
        "no images of 1 classes, 3 among them",
    ),
    "v2 with a class too many": (
        lambda root: trees.paint(
            root / "imagenetv2-matched-frequency-format-val/12/x.jpeg", (0, 0, 0)
        ),
        "v2: 1 labels are out of range, 12",
    ),
    "an object's folder": (
        lambda root: remove(root / "objectnet-1.0/images/banana"),
        "there is no folder .*images/banana",
    ),
    "a mapping": (
        lambda root: remove(root / "objectnet-1.0/mappings/objectnet_to_imagenet_1k.json"),
        "there is no .*objectnet_to_imagenet_1k.json",
    ),
    "a mapping that is no table": (
        change_mapping("objectnet_to_imagenet_1k.json", "["),
        "cannot be read as JSON",
    ),
    "an unknown name": (
        change_mapping("imagenet_to_label_2012_v2", "apple\nrocking chair\nfolding chair\n"),
        "do not fit together .*banana",
    ),
    "a place too high": (
        change_mapping("pytorch_to_imagenet_2012_id.json", json.dumps({"99": 0, "7": 1, "2": 2})),
        "banana is mapped to a class that ImageNet's train/ lacks",
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_tree_is_refused(kind, root):
    do, said = BREAKS[kind]
    do(root)
    with pytest.raises(DataError, match=said):
        imagenet(root).check()


def test_a_wrong_number_of_images_is_refused(root, monkeypatch):
    counts = imagenet(root).check().images
    own = {"classes": 12, "train": 60, "val": 24, "r": counts["r"], "objectnet classes": 2}
    monkeypatch.setattr(SOURCES["imagenet"], "official", own)
    imagenet(root, counts="official").check()
    (root / "imagenet-r" / WNIDS[3] / f"{WNIDS[3]}_0.jpg").unlink()
    with pytest.raises(DataError, match="imagenet-r: 5, and the published data has 6"):
        imagenet(root, counts="official").check()


def corrupted(root, kinds, **options):
    return SOURCES["imagenet_c"](
        trees.imagenet_c(root, kinds), counts="any", val_share=0.2, **options
    )


def test_imagenet_c_has_a_shift_for_each_kind_and_severity(tmp_path):
    splits = load(corrupted(tmp_path, KINDS))
    assert set(splits.shifts) == {f"{kind}/{s}" for kind in KINDS for s in range(1, 6)}
    assert splits.dev_shifts == {}
    assert splits.summary == "mce_alexnet"
    for code, kind in enumerate(KINDS):
        for severity in range(1, 6):
            found = pictures(splits.shifts[f"{kind}/{severity}"])
            assert found == [((n, 20 * (severity - 1) + code + 2, 0), n) for n in range(2)]


def test_the_extra_kinds_are_for_choices_alone(tmp_path):
    source = corrupted(tmp_path, KINDS + EXTRA_KINDS, extra=True)
    splits = load(source)
    assert {name.split("/")[0] for name in splits.shifts} == set(KINDS)
    assert {name.split("/")[0] for name in splits.dev_shifts} == set(EXTRA_KINDS)


def test_a_missing_kind_or_severity_is_refused(tmp_path):
    source = corrupted(tmp_path, KINDS)
    remove(tmp_path / "ImageNet-C/fog/4")
    remove(tmp_path / "ImageNet-C/snow")
    with pytest.raises(DataError, match=r"(?s)ImageNet-C/snow\n.*ImageNet-C/fog/4\n"):
        source.check()
    with pytest.raises(DataError, match="saturate"):
        SOURCES["imagenet_c"](tmp_path, counts="any", extra=True).check()


@pytest.mark.parametrize(
    ("convention", "groups"),
    [("oltr", [MANY, MANY, FEW, FEW]), ("lift", [MEDIUM, MANY, MEDIUM, FEW])],
)
def test_both_conventions_of_shots_at_their_limits(convention, groups, tmp_path):
    splits = load(
        SOURCES["imagenet_lt"](trees.imagenet_lt(tmp_path), counts="any", shots=convention)
    )
    assert splits.train.labels.bincount().tolist() == [100, 101, 20, 19]
    assert splits.id_test.labels.tolist() == [0, 1, 2, 3]
    assert splits.id_test.groups.tolist() == groups
    assert any(convention in note for note in splits.notes)
    assert splits.classes == tuple(WNIDS[:4])
    assert pictures(splits.id_test) == [((n, 2, 0), n) for n in range(4)]


def test_the_test_list_is_held_against_the_others_where_folders_say_the_class(tmp_path):
    root = trees.imagenet_lt(tmp_path)
    test = root / "ImageNet_LT_test.txt"
    for path in sorted((root / "val").iterdir()):
        wnid = path.stem.rpartition("_")[2]
        (root / "val" / wnid).mkdir()
        path.rename(root / "val" / wnid / path.name)
        test.write_text(test.read_text().replace(f"val/{path.name}", f"val/{wnid}/{path.name}"))
    source = SOURCES["imagenet_lt"](root, counts="any")
    assert load(source).id_test.labels.tolist() == [0, 1, 2, 3]
    test.write_text(test.read_text().replace(" 0", " x").replace(" 1", " 0").replace(" x", " 1"))
    with pytest.raises(DataError, match=r"test: val/.* has label 1; elsewhere label 1 is"):
        source.check()


def test_between_the_limits_conventions_agree():
    counts = torch.tensor([0, 1, 19, 21, 60, 99, 101, 1280])
    expected = [FEW, FEW, FEW, MEDIUM, MEDIUM, MEDIUM, MANY, MANY]
    for convention in ("oltr", "lift"):
        assert shot_groups(counts, convention).tolist() == expected


def rewrite(part, old, new):
    def change(root):
        file = root / f"ImageNet_LT_{part}.txt"
        file.write_text(file.read_text().replace(old, new, 1))

    return change


LT_BREAKS = {
    "no list": (lambda root: remove(root / "ImageNet_LT_val.txt"), "no .*ImageNet_LT_val.txt"),
    "no label": (
        rewrite("val", "b.JPEG 0", "b.JPEG"),
        "line 1: 'train/.*' is not `<folder>/<file> <label>`",
    ),
    "an image": (
        lambda root: remove(root / "train" / WNIDS[1] / "b.JPEG"),
        rf"ImageNet_LT_val.txt lists 1 images that are not in .*{WNIDS[1]}/b.JPEG",
    ),
    "a label twice": (rewrite("val", "b.JPEG 0", "b.JPEG 1"), "has label 1; elsewhere"),
    "a label too high": (
        rewrite("test", ".JPEG 3", ".JPEG 4"),
        "id_test: 1 labels are out of range, 4",
    ),
    "no train": (lambda root: remove(root / "train"), "there is no train/"),
    "an empty list": (lambda root: (root / "ImageNet_LT_test.txt").write_text(""), "id_test holds"),
}


@pytest.mark.parametrize("kind", LT_BREAKS)
def test_a_broken_long_tail_is_refused(kind, tmp_path):
    root = trees.imagenet_lt(tmp_path)
    do, said = LT_BREAKS[kind]
    do(root)
    with pytest.raises(DataError, match=said):
        SOURCES["imagenet_lt"](root, counts="any").check()
