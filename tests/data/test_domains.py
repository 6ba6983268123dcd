import hashlib
import os
from pathlib import Path

import numpy as np
import official_trees as trees
import pytest
import torch
from official_trees import colour_of, remove

from gmixout.data import SOURCES
from gmixout.data.domains import domainbed_holdout
from gmixout.data.images import ImageFiles
from gmixout.data.sampling import SPLIT_SEED, stratified
from gmixout.data.source import Source, broken_in
from gmixout.errors import DataError
from gmixout.named import from_spec, identity, spec_of

PACS = ["art_painting", "cartoon", "photo", "sketch"]
CLASSES = ["dog", "giraffe", "horse"]


def load(source):
    return source.load(lambda picture: picture)


def pictures(images):
    return [(colour_of(picture), label) for picture, label in images]


def pacs(root, **options):
    return SOURCES["pacs"](root, counts="any", **options)


@pytest.fixture
def root(tmp_path):
    return trees.domains(tmp_path, PACS, CLASSES)


def files_of(root, domain):
    """A domain's images in the order that its split is made on."""
    paths = [
        f"{name}/{file.name}"
        for name in CLASSES
        for file in sorted((root / domain / name).iterdir())
    ]
    labels = [CLASSES.index(path.partition("/")[0]) for path in paths]
    return ImageFiles(root / domain, paths, labels)


def parts_of(images, protocol, environment, trial_seed=0):
    """Train, validation and test part of one domain, written out again."""
    if protocol == "stratified":
        val, test, train = stratified(images.labels, (0.2, 0.2), SPLIT_SEED)
    else:
        train, held = domainbed_holdout(len(images), trial_seed, environment)
        val, test = (held[half] for half in stratified(images.labels[held], (0.5,), SPLIT_SEED))
    return [images.subset(part) for part in (train, val, test)]


def three(splits):
    return splits.train, splits.id_val, splits.id_test


@pytest.mark.parametrize("protocol", ["stratified", "domainbed"])
@pytest.mark.parametrize("domain", PACS)
def test_one_domain_is_split_and_called_as_it_was_before_there_could_be_several(
    protocol, domain, root
):
    source = pacs(root, train_domain=domain, protocol=protocol)
    splits = load(source)
    parts = parts_of(files_of(root, domain), protocol, PACS.index(domain))
    assert [each.digest() for each in three(splits)] == [part.digest() for part in parts]
    assert {each.groups for each in splits.sets.values()} == {None}
    for name in set(PACS) - {domain}:
        assert splits.shifts[name].digest() == files_of(root, name).digest()
    # by which old runs are found again
    usual = {"root": str(root), "counts": "any"}
    usual |= {} if protocol == "stratified" else {"protocol": protocol}
    own = {} if domain == "photo" else {"train_domain": domain}
    assert identity(source) == {"name": "pacs", "options": {**usual, **own}}
    said = "" if protocol == "stratified" else f", protocol={protocol!r}"
    assert str(source) == f"pacs(train_domain={domain!r}{said})"
    assert spec_of(source)["init_args"]["train_domain"] == domain


@pytest.mark.parametrize("domain", PACS)
def test_every_domain_in_turn_is_trained_on_and_the_others_are_shifts(domain, root):
    splits = load(pacs(root, train_domain=domain))
    assert set(splits.shifts) == set(PACS) - {domain}
    own = [*splits.train, *splits.id_val, *splits.id_test]
    assert len(own) == 30
    assert {colour_of(picture)[1] for picture, _ in own} == {PACS.index(domain)}
    for name, images in splits.shifts.items():
        found = pictures(images)
        assert len(found) == 30
        assert {(colour[0] == label, colour[1]) for colour, label in found} == {
            (True, PACS.index(name))
        }


def domains_in(images):
    """The domain of each image by its colour, and the one that its group names."""
    pairs = zip(images, images.groups.tolist(), strict=True)
    return [(PACS[colour_of(p)[1]], images.group_names[group]) for (p, _), group in pairs]


def digests(splits):
    return {name: images.digest() for name, images in splits.sets.items()}


SEVERAL = [
    ({"train_domains": ("photo", "cartoon")}, ["cartoon", "photo"]),
    ({"train_domains": ("sketch", "art_painting", "photo")}, ["art_painting", "photo", "sketch"]),
    *(({"test_domain": domain}, [d for d in PACS if d != domain]) for domain in PACS),
]


@pytest.mark.parametrize("protocol", ["stratified", "domainbed"])
@pytest.mark.parametrize(("options", "trained"), SEVERAL)
def test_each_of_several_domains_is_split_by_itself(options, trained, protocol, root):
    splits = load(pacs(root, protocol=protocol, trial_seed=3, **options))
    assert set(splits.shifts) == set(PACS) - set(trained)
    for n, images in enumerate(three(splits)):
        alone = [
            parts_of(files_of(root, domain), protocol, PACS.index(domain), trial_seed=3)[n]
            for domain in trained
        ]
        assert pictures(images) == [each for part in alone for each in pictures(part)]
        # both of the halves of validation and test are of every domain
        assert {first for first, _ in domains_in(images)} == set(trained)
        assert {first == second for first, second in domains_in(images)} == {True}
        assert images.group_names == tuple(trained)
    whole = [each for images in splits.sets.values() for each in pictures(images)]
    assert len(set(whole)) == len(whole) == 120
    assert f"trained and validated on each of: {', '.join(trained)}" in splits.notes


def test_one_training_has_one_name(root):
    one = pacs(root, train_domain="cartoon")
    assert pacs(root, train_domains=("cartoon",)) == one
    assert pacs(root, train_domains=["photo"]) == pacs(root)
    several = pacs(root, train_domains=("photo", "cartoon"))
    assert pacs(root, train_domains=("cartoon", "photo", "photo")) == several
    assert str(several) == "pacs(train_domains=('cartoon', 'photo'))"
    left = pacs(root, test_domain="sketch")
    assert str(left) == "pacs(test_domain='sketch')"
    for source in (one, several, left):
        assert from_spec(spec_of(source), Source) == source
    assert len({digests(load(source))["train"] for source in (one, several, left)}) == 3


def test_a_domain_that_is_left_out_or_trained_on_has_to_be_there(root):
    remove(root / "sketch")
    for options in ({"test_domain": "sketch"}, {"train_domains": ("sketch", "photo")}):
        with pytest.raises(DataError, match=r"=sketch is not there; .*: art_painting, cartoon, ph"):
            pacs(root, **options).check()
    # the others may be missing, which is said
    splits = load(pacs(root, test_domain="photo"))
    assert splits.train.group_names == ("art_painting", "cartoon")
    assert splits.notes == (
        "there is no domain sketch: left out",
        "trained and validated on each of: art_painting, cartoon",
    )
    with pytest.raises(DataError, match="art_painting, cartoon, photo are the only domains"):
        pacs(root, train_domains=("art_painting", "cartoon", "photo")).check()
    remove(root / "art_painting")
    splits = load(pacs(root, test_domain="photo"))
    assert digests(splits)["train"] == digests(load(pacs(root, train_domain="cartoon")))["train"]
    remove(root / "cartoon")
    with pytest.raises(DataError, match=r"photo is the only domain in .*: none to train on"):
        pacs(root, test_domain="photo").check()


def test_a_domain_too_small_for_validation_is_named(root):
    for name in CLASSES:
        for path in sorted((root / "cartoon" / name).iterdir())[2:]:
            path.unlink()
    with pytest.raises(DataError, match="id_val has no image of the domain cartoon"):
        pacs(root, test_domain="photo").check()


def test_another_folder_is_tested_on_where_nothing_trained_is_in_it(root, tmp_path):
    other = trees.domains(tmp_path / "other", ["sketch"], CLASSES)
    for options in ({"test_domain": "sketch"}, {"train_domains": ("photo", "cartoon")}):
        tests = pacs(other, **options).load_tests()
        assert {name: len(images) for name, images in tests.shifts.items()} == {"sketch": 30}
    tests = pacs(root, test_domain="sketch").load_tests()
    assert {name: len(images) for name, images in tests.tests.items()} == {
        "id_val": 18, "id_test": 18, "sketch": 30,
    }  # fmt: skip
    for options in ({"test_domain": "photo"}, {"train_domains": ("photo", "sketch")}):
        with pytest.raises(DataError, match="photo is not there"):
            pacs(other, **options).load_tests()


def test_broken_images_of_several_domains_are_left_out_and_named(root):
    broken = [root / domain / "dog" / "dog_3.jpg" for domain in ("photo", "cartoon", "sketch")]
    for path in broken:
        path.write_bytes(b"no image")
    splits = pacs(root, test_domain="sketch", on_broken="skip").load()
    assert sorted(broken_in(splits)) == sorted(map(str, broken))
    assert sum(len(images) for images in splits.sets.values()) == 117
    for images in three(splits):
        assert {first == second for first, second in domains_in(images)} == {True}


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"train_domains": ("sketch", "painting")}, ["painting", "sketch"]),
        ({"test_domain": "real"}, ["painting", "sketch"]),
        ({"test_domain": "sketch", "shift_domains": ("real",)}, ["painting", "real"]),
    ],
)
def test_domainnets_lists_of_several_domains(options, trained, lists):
    def domainnet(**own):
        return load(SOURCES["domainnet"](lists, counts="any", **own))

    splits = domainnet(**options)
    alone = [domainnet(train_domain=domain) for domain in trained]
    for n, images in enumerate(three(splits)):
        parts = [three(each)[n] for each in alone]
        assert pictures(images) == [each for part in parts for each in pictures(part)]
        assert images.group_names == tuple(trained)
        assert images.groups.bincount().tolist() == [len(part) for part in parts]
    assert set(splits.shifts) == {"painting", "real", "sketch"} - set(trained)
    for name, images in splits.shifts.items():
        assert pictures(images) == pictures(alone[0].shifts[name])


def test_the_trained_domain_is_split_in_proportion(root):
    splits = load(pacs(root, id_val_share=0.1, id_test_share=0.3))
    for images, count in ((splits.train, 6), (splits.id_val, 1), (splits.id_test, 3)):
        assert images.labels.bincount().tolist() == [count] * 3


def test_missing_domains_are_said(root):
    remove(root / "sketch")
    remove(root / "cartoon")
    inventory = pacs(root).check()
    assert inventory.notes == (
        "there is no domain cartoon: left out",
        "there is no domain sketch: left out",
    )
    assert "art_painting" in inventory.images


def test_a_half_by_domainbeds_protocol_is_said_not_to_be_its_split(root):
    def says(**options):
        notes = load(pacs(root, **options)).notes
        return any("not the images that DomainBed holds out" in note for note in notes)

    assert says(protocol="domainbed", half="second")
    assert not says(protocol="domainbed")
    assert not says(half="second")


@pytest.mark.parametrize("above", ["PACS", "pacs", "kfold", "images"])
def test_the_root_may_be_the_folder_above(above, tmp_path):
    trees.domains(tmp_path / above, PACS, CLASSES)
    assert pacs(tmp_path).check().images == pacs(tmp_path / above).check().images


def test_names_are_matched_without_case_and_separators(tmp_path):
    trees.domains(tmp_path, ["art", "CLIPART", "real_world"], ["Alarm_Clock", "Bed"])
    (tmp_path / "CLIPART" / "Alarm_Clock").rename(tmp_path / "CLIPART" / "alarm clock")
    splits = load(SOURCES["officehome"](tmp_path, counts="any"))
    assert len(splits.classes) == 2
    assert set(splits.shifts) == {"Art", "Clipart"}
    for images in splits.shifts.values():
        assert {colour[0] == label for colour, label in pictures(images)} == {True}


def test_other_names_of_domains_are_known(tmp_path):
    trees.domains(tmp_path, ["CALTECH", "PASCAL"], ["bird", "car"])
    assert set(load(SOURCES["vlcs"](tmp_path, counts="any")).shifts) == {"Caltech101"}


def test_places_of_terra_incognita_are_in_the_order_of_text(tmp_path):
    """Which decides the images that DomainBed holds out of each."""
    trees.domains(tmp_path, ["L100", "L38", "L43", "L46"], ["bird", "cat"])
    for environment, place in enumerate(("100", "38", "43", "46")):
        domain = f"location_{place}"
        source = SOURCES["terra_incognita"](
            tmp_path, counts="any", protocol="domainbed", train_domain=domain
        )
        splits = load(source)
        files = sorted((tmp_path / f"L{place}").rglob("*.jpg"))
        train, _ = domainbed_holdout(20, 0, environment)
        assert [splits.train.path(n) for n in range(16)] == [files[n] for n in train]


def test_a_class_that_a_domain_lacks_moves_no_label(root):
    remove(root / "cartoon" / "giraffe")
    source = pacs(root)
    found = pictures(load(source).shifts["cartoon"])
    assert {label for _, label in found} == {0, 2}
    assert {colour[0] == label for colour, label in found} == {True}
    assert source.check().notes == ("cartoon has no folder of giraffe",)


def test_halves_are_fixed_disjoint_and_together_all(root):
    both, first, second = (load(pacs(root, half=half)) for half in ("both", "first", "second"))
    again = load(pacs(root, half="first"))
    for name in both.shifts:
        parts = [set(pictures(splits.shifts[name])) for splits in (first, second, again)]
        assert len(parts[0]) == len(parts[1]) == 15
        assert parts[0] | parts[1] == set(pictures(both.shifts[name]))
        assert parts[0] == parts[2]
    own = [
        {pair for key in ("train", "id_val", "id_test") for pair in pictures(splits.sets[key])}
        for splits in (first, second)
    ]
    assert not own[0] & own[1]


def reference_holdout(examples, trial_seed, environment):
    """DomainBed's split as its paper's appendix and code describe it, written out again."""
    digest = hashlib.md5(f"({trial_seed}, {environment})".encode()).hexdigest()
    generator = np.random.RandomState(int(digest, 16) % (2**31))
    keys = list(range(examples))
    generator.shuffle(keys)
    count = int(examples * 0.2)
    return keys[count:], keys[:count]


@pytest.mark.parametrize(("trial_seed", "environment"), [(0, 0), (0, 3), (2, 1)])
def test_domainbeds_split(trial_seed, environment):
    train, held = domainbed_holdout(1670, trial_seed, environment)
    assert (train.tolist(), held.tolist()) == reference_holdout(1670, trial_seed, environment)
    assert len(held) == 334
    assert not set(train.tolist()) & set(held.tolist())


def test_domainbeds_protocol_halves_what_it_holds_out(root):
    remove(root / "art_painting")  # the place of a domain is that among all, whether there or not
    source = pacs(root, protocol="domainbed", train_domain="sketch", trial_seed=1)
    splits = load(source)
    files = sorted(path for path in (root / "sketch").rglob("*.jpg"))
    train, held = domainbed_holdout(30, 1, 3)
    assert [splits.train.path(n) for n in range(len(splits.train))] == [files[n] for n in train]
    out = {images.path(n) for images in (splits.id_val, splits.id_test) for n in range(len(images))}
    assert out == {files[n] for n in held}
    other = load(pacs(root, protocol="domainbed", train_domain="sketch", trial_seed=2))
    assert other.train._positions.tolist() != splits.train._positions.tolist()


def empty_class(root):
    for path in (root / "cartoon" / "dog").iterdir():
        path.unlink()


BREAKS = {
    "the trained domain": (
        lambda root: remove(root / "photo"),
        "train_domain=photo is not there; the domains in .* are: art_painting, cartoon, sketch",
    ),
    "every other domain": (
        lambda root: [remove(root / name) for name in PACS if name != "photo"],
        "photo is the only domain",
    ),
    "an empty class": (empty_class, "cartoon/dog holds no image"),
    "a domain twice": (lambda root: (root / "Art Painting").mkdir(), "may both be art_painting"),
    "a class twice": (
        lambda root: trees.paint(root / "photo" / "DOG" / "a.jpg", (0, 0, 0)),
        "photo/dog is a class that another folder beside it has too",
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_tree_is_refused(kind, root):
    do, said = BREAKS[kind]
    do(root)
    with pytest.raises(DataError, match=said):
        pacs(root).check()


@pytest.mark.skipif("GMIXOUT_DATA" not in os.environ, reason="GMIXOUT_DATA names no folder")
def test_a_real_pacs_has_the_published_counts():
    source = SOURCES["pacs"](Path(os.environ["GMIXOUT_DATA"]))
    splits = load(source)
    assert splits.classes == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    assert len(splits.train) + len(splits.id_val) + len(splits.id_test) == 1670
    for images in splits.sets.values():
        assert images.labels.unique().tolist() == list(range(7))


def test_hidden_files_are_no_images(root):
    before = pacs(root).check().images
    (root / "cartoon" / ".ipynb_checkpoints").mkdir()
    (root / "cartoon" / "dog" / "._dog_0.jpg").write_bytes(b"resource fork")
    (root / "cartoon" / "dog" / "Thumbs.db").write_bytes(b"")
    assert pacs(root).check().images == before


@pytest.fixture
def lists(tmp_path):
    return trees.domainnet(tmp_path)


def domainnet(root, **options):
    return SOURCES["domainnet"](root, counts="any", **options)


def test_the_number_in_a_list_is_the_label_whatever_the_folders_order(lists):
    splits = load(domainnet(lists, train_domain="painting"))
    assert splits.classes == ("zebra", "t-shirt", "apple")
    for images in splits.sets.values():
        assert {colour[0] == label for colour, label in pictures(images)} == {True}
    assert domainnet(lists, train_domain="painting").check().notes == (
        "there is no domain clipart: left out",
        "there is no domain infograph: left out",
        "there is no domain quickdraw: left out",
        "train has no image of 1 of 3 classes: t-shirt",
    )


def test_shifts_are_the_other_domains_test_lists(lists):
    splits = load(domainnet(lists, train_domain="real", id_val_share=0.25))
    assert {name: len(images) for name, images in splits.sets.items()} == {
        "train": 18,
        "id_val": 6,
        "id_test": 6,
        "painting": 6,
        "sketch": 6,
    }
    assert {colour[2] for colour, _ in pictures(splits.id_test)} == {8, 9}


def test_shifts_are_the_chosen_domains_and_nothing_is_asked_of_the_others(lists):
    remove(lists / "domainnet/splits/painting_test.txt")
    source = domainnet(lists, shift_domains=("real", "clipart", "sketch"))
    splits = load(source)
    assert set(splits.shifts) == {"real"}
    assert len(splits.id_test) > 0
    assert "there is no domain clipart: left out" in splits.notes
    assert not any("quickdraw" in note for note in splits.notes)
    by_folders = load(domainnet(lists, shift_domains=("painting",), protocol="domainbed"))
    assert set(by_folders.shifts) == {"painting"}


def test_without_the_trained_domain_test_lists_stay_the_test_sets(lists):
    whole = domainnet(lists).load_tests()
    remove(lists / "domainnet/sketch")
    tests = domainnet(lists).load_tests()
    assert tests.classes == whole.classes == ("zebra", "t-shirt", "apple")
    assert {name: len(images) for name, images in tests.shifts.items()} == {
        "painting": 6,
        "real": 6,
    }
    for name, images in tests.shifts.items():
        assert [images.path(n) for n in range(6)] == [whole.sets[name].path(n) for n in range(6)]
    by_folders = domainnet(lists, protocol="stratified").load_tests()
    assert {name: len(images) for name, images in by_folders.shifts.items()} == {
        "painting": 30,
        "real": 30,
    }


def test_by_folders_labels_are_another_order_and_duplicates_are_left_out(lists):
    duplicate = "painting/zebra/zebra_3.jpg"
    (lists / "domainnet" / "domain_net_duplicates.txt").write_text(f"{duplicate}\nreal/gone.jpg\n")
    for protocol in ("stratified", "domainbed"):
        splits = load(domainnet(lists, protocol=protocol))
        assert sorted(splits.classes) == list(splits.classes) == ["apple", "t-shirt", "zebra"]
        paths = [str(splits.shifts["painting"].path(n)) for n in range(29)]
        assert len(splits.shifts["painting"]) == 29
        assert not any(path.endswith(duplicate) for path in paths)
        assert len(splits.shifts["real"]) == 30


def rewrite(name, change):
    def do(root):
        file = root / "domainnet" / "splits" / name
        file.write_text(change(file.read_text()))

    return do


LIST_BREAKS = {
    "no list": (
        lambda root: remove(root / "domainnet/splits/real_test.txt"),
        "there is no list .*real_test.txt",
    ),
    "no label": (
        rewrite("real_test.txt", lambda text: text.replace("zebra_8.jpg 0", "zebra_8.jpg x")),
        "real_test.txt, line 1: 'real/zebra/zebra_8.jpg x'",
    ),
    "no folder": (
        rewrite("real_test.txt", lambda text: "zebra_8.jpg 0\n" + text),
        "line 1: 'zebra_8.jpg 0' is not `<folder>/<file> <label>`",
    ),
    "no text": (
        lambda root: (root / "domainnet/splits/real_test.txt").write_bytes(b"real/\xe9/a.jpg 0"),
        "real_test.txt is not text in UTF-8",
    ),
    "a label far too high": (
        rewrite(
            "real_test.txt", lambda text: text.replace("zebra_8.jpg 0", "zebra_8.jpg 99999999")
        ),
        "has label 99999999; elsewhere(?s:.)*label 99999999 is listed, and 4 labels are in all",
    ),
    "other labels": (
        rewrite("real_test.txt", lambda text: text.replace(" 0\n", " 2\n")),
        "real_test.txt: real/zebra/zebra_8.jpg has label 2; elsewhere",
    ),
    "an image": (
        lambda root: remove(root / "domainnet/real/zebra/zebra_9.jpg"),
        "real_test.txt lists 1 images .* real/zebra/zebra_9.jpg",
    ),
    "an empty list": (rewrite("real_test.txt", lambda text: ""), "real holds no image"),
}


@pytest.mark.parametrize("kind", LIST_BREAKS)
def test_broken_lists_are_refused(kind, lists):
    do, said = LIST_BREAKS[kind]
    do(lists)
    with pytest.raises(DataError, match=said):
        domainnet(lists).check()


def test_lists_with_spaces_in_names_are_read(tmp_path):
    root = trees.domainnet(tmp_path)
    (root / "domainnet/real/zebra/zebra_8.jpg").rename(root / "domainnet/real/zebra/zebra 8.jpg")
    change = rewrite("real_test.txt", lambda text: text.replace("zebra_8.jpg", "zebra 8.jpg"))
    change(root)
    assert len(load(domainnet(root)).shifts["real"]) == 6


@pytest.fixture
def folders(tmp_path):
    return trees.imagefolder(tmp_path)


def imagefolder(root):
    return SOURCES["imagefolder"](root)


def test_every_shift_folder_is_a_shift(folders):
    splits = load(imagefolder(folders))
    assert set(splits.shifts) == {"fog", "snow"}
    assert pictures(splits.shifts["snow"])[0] == ((0, 3, 0), 0)


def test_without_a_test_folder_val_is_halved_and_that_is_said(folders):
    splits = load(imagefolder(folders))
    assert splits.id_val.labels.tolist() == splits.id_test.labels.tolist() == [0, 0, 1, 1]
    assert "one half of val/" in imagefolder(folders).check().notes[0]
    trees.class_folders(folders / "test", ["cat", "dog"], 3, 7)
    splits = load(imagefolder(folders))
    assert (len(splits.id_val), len(splits.id_test)) == (8, 6)
    assert {colour[1] for colour, _ in pictures(splits.id_test)} == {7}
    assert not any("val" in note and "half" in note for note in imagefolder(folders).check().notes)


FOLDER_BREAKS = {
    "no train": (lambda root: remove(root / "train"), "there is no folder .*train"),
    "neither train nor classes": (
        lambda root: [remove(root / name) for name in ("train", "val")],
        "there is no folder .*train",
    ),
    "a flat val": (
        lambda root: [remove(root / "val"), trees.paint(root / "val/a.jpg", (0, 0, 0))],
        "val holds 1 images and no folders: sort them by class",
    ),
    "a class more": (
        lambda root: trees.paint(root / "shift_fog/bird/a.jpg", (0, 0, 0)),
        "shift_fog/bird is the folder of a class that training does not have",
    ),
    "an empty class": (lambda root: (root / "train/eel").mkdir(), "train/eel holds no image"),
}


@pytest.mark.parametrize("kind", FOLDER_BREAKS)
def test_broken_folders_are_refused(kind, folders):
    do, said = FOLDER_BREAKS[kind]
    do(folders)
    with pytest.raises(DataError, match=said):
        imagefolder(folders).check()


def test_without_a_shift_that_is_said(folders):
    for name in ("shift_fog", "shift_snow"):
        remove(folders / name)
    splits = load(imagefolder(folders))
    assert splits.shifts == {}
    assert any("only corruptions, if any, to test on" in note for note in splits.notes)


def test_without_train_what_is_there_is_tested_on(folders):
    for name in ("train", "val", "shift_snow"):
        remove(folders / name)
    remove(folders / "shift_fog" / "cat")
    tests = imagefolder(folders).load_tests()
    assert tests.classes == ("dog",)
    assert {name: len(images) for name, images in tests.shifts.items()} == {"fog": 4}
    remove(folders / "shift_fog")
    with pytest.raises(DataError, match="there is no folder of images in "):
        imagefolder(folders).load_tests()


def test_other_folders_are_said_and_a_shift_may_lack_classes(folders):
    (folders / "raw").mkdir()
    remove(folders / "shift_fog" / "cat")
    splits = load(imagefolder(folders))
    assert splits.shifts["fog"].labels.tolist() == [1] * 4
    assert "raw/ is not used" in splits.notes
    assert torch.equal(splits.shifts["fog"].project(torch.ones(1, 2)), torch.ones(1, 2))
