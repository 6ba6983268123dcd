"""What a look at every image finds: copies across sets, near-copies, broken and odd images."""

import itertools
import shutil

import numpy as np
import official_trees as trees
import pytest
from PIL import Image

from gmixout.data import SOURCES
from gmixout.data.findings import NEAR, _near_pairs, differs, examine, leaks
from gmixout.errors import DataError

DRAWS = np.random.default_rng(0)


def noise(path, size=48):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(DRAWS.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def root(tmp_path):
    """Different images: two classes in train, val, test and a shift."""
    for part in ("train", "val", "test", "shift_fog"):
        for label, number in itertools.product(("cat", "dog"), range(3)):
            noise(tmp_path / part / label / f"{number}.png")
    return tmp_path


def look(root, **options):
    return examine(SOURCES["imagefolder"](root, **options))


def names(groups):
    return [sorted(found.name for found in group) for group in groups]


def test_nothing_is_found_where_nothing_is(root):
    found = look(root)
    assert (found.broken, found.odd, found.copies) == ((), (), ())
    assert not found.near
    assert found.inventory.images == {"train": 6, "id_val": 6, "id_test": 6, "fog": 6}
    assert found.lines[:2] == ["cannot be read: 0", "equal files: 0"]


def test_equal_files_are_found_and_those_of_train_and_test_come_first(root):
    shutil.copy(root / "val/cat/0.png", root / "test/cat/again.png")
    shutil.copy(root / "train/cat/1.png", root / "train/dog/other class.png")
    shutil.copy(root / "train/dog/0.png", root / "shift_fog/dog/leak.png")
    shutil.copy(root / "test/dog/0.png", root / "test/dog/twice.png")
    found = look(root)
    assert names(found.copies) == [
        ["shift_fog/dog/leak.png", "train/dog/0.png"],
        ["train/cat/1.png", "train/dog/other class.png"],
        ["test/cat/again.png", "val/cat/0.png"],
        ["test/dog/0.png", "test/dog/twice.png"],
    ]
    assert [leaks(group) for group in found.copies] == [True, False, False, False]
    assert [differs(group) for group in found.copies] == [False, True, False, False]
    said = "\n".join(found.lines)
    assert (
        "equal files: 8 images in 4 groups; 1 group in train and in another set; 1 group in "
        "several other sets; 1 group of different classes"
    ) in said
    assert "  equal: train/dog/0.png (dog, train), shift_fog/dog/leak.png (dog, fog)" in said
    assert "test/dog/twice.png" not in said
    assert "test sets hold images that are trained on" in said


def test_broken_images_have_reasons_and_are_no_copies(root):
    for name in ("train/cat/a.jpg", "val/cat/b.jpg"):
        (root / name).touch()
    (root / "train/dog/gone.jpg").symlink_to("/nowhere.jpg")
    trees.cut_short(root / "test/dog/cut.jpg")
    for options in ({}, {"on_broken": "skip"}):
        found = look(root, **options)
        assert sorted(each.name for each in found.broken) == [
            "test/dog/cut.jpg", "train/cat/a.jpg", "train/dog/gone.jpg", "val/cat/b.jpg",
        ]  # fmt: skip
        assert all(each.said for each in found.broken)
        assert found.copies == ()
        with pytest.raises(DataError):
            found.picture(found.broken[0])


def test_odd_images_are_named_by_what_is_odd(root):
    Image.new("RGB", (64, 64), (9, 9, 200)).save(root / "train/cat/flat.png")
    noise(root / "train/dog/tiny.png", 12)
    ramp = np.linspace(0, 4095, 64).round().astype(np.uint16)[None].repeat(64, 0)
    Image.fromarray(ramp).save(root / "val/dog/twelve bits.png")
    assert {each.name: each.said for each in look(root).odd} == {
        "train/cat/flat.png": "of a single colour",
        "train/dog/tiny.png": "smaller than 32 pixels",
        "val/dog/twelve bits.png": "darker than 24 of 255",
    }


def test_images_of_domains_and_tables_are_looked_at_under_their_own_names(root):
    parts = ("train", "val", "test", "shift_fog")
    rows = [
        [f"{part}/{label}/{n}.png", label, "ab"[number % 2]]
        for number, part in enumerate(parts)
        for label, n in itertools.product(("cat", "dog"), range(3))
    ]
    shutil.copy(root / "train/cat/0.png", root / "train/dog/2.png")
    trees.write_csv(root / "t.csv", ["path", "label", "domain"], rows)
    source = SOURCES["csv"](root / "t.csv", id_val_share=0.34, id_test_share=0.33)
    found = examine(source)
    ((first, second),) = found.copies
    assert {first.name, second.name} == {"train/cat/0.png", "train/dog/2.png"}
    assert sum(found.inventory.images.values()) == 24


def test_progress_is_told_up_to_the_end(root):
    told = []
    examine(SOURCES["imagefolder"](root), lambda *numbers: told.append(numbers))
    assert told[-1] == (24, 24)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_pairs_of_near_hashes_are_those_of_all_pairs():
    base = DRAWS.integers(0, 2**63, 40, dtype=np.uint64)
    near = [value ^ np.uint64(sum(1 << int(b) for b in DRAWS.choice(64, bits, replace=False)))
            for value in base for bits in (1, 5, 6, 7, 9)]  # fmt: skip
    hashes = np.unique(np.concatenate([base, np.array(near, np.uint64)]))
    all_pairs = {
        (i, j)
        for i, j in itertools.combinations(range(len(hashes)), 2)
        if bin(int(hashes[i] ^ hashes[j])).count("1") <= NEAR
    }
    assert len(all_pairs) > 100
    assert {tuple(sorted(pair)) for pair in _near_pairs(hashes)} == all_pairs
    assert list(_near_pairs(hashes[:0])) == []


def test_near_copies_are_found_and_equal_or_flat_ones_are_not_among_them(root):
    pytest.importorskip("imagehash")
    picture = Image.open(root / "train/cat/0.png").resize((96, 96))
    picture.save(root / "test/cat/larger.jpg", quality=60)
    shutil.copy(root / "train/dog/0.png", root / "test/dog/equal.png")
    for number in range(2):
        Image.new("RGB", (64, 64), (9, 9, number)).save(root / f"train/cat/flat{number}.png")
    found = look(root)
    assert names(found.near) == [["test/cat/larger.jpg", "train/cat/0.png"]]
    assert any("look at the near-copies" in line for line in found.lines)
    assert names(found.copies) == [["test/dog/equal.png", "train/dog/0.png"]]


def test_without_the_library_near_copies_are_not_looked_for(root, monkeypatch):
    from gmixout.data import findings

    monkeypatch.setattr(findings, "find_spec", lambda name: None)
    found = look(root)
    assert found.near is None
    assert "near-copies: not looked for; pip install 'gmixout[photos]'" in found.lines
