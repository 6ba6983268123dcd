import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official_trees import colour_of, cut_short, paint
from PIL import Image
from torch.utils.data import DataLoader

from gmixout.data import images
from gmixout.data.common_corruptions import corrupted
from gmixout.data.images import ImageArray, ImageBytes, ImageFiles, LabelSpace
from gmixout.data.sampling import stratified
from gmixout.data.several import joined
from gmixout.errors import DataError


def to_tensor(picture):
    """A transform that workers can be sent."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@pytest.fixture
def files(tmp_path):
    for number in range(6):
        paint(tmp_path / "a" / f"{number}.jpg", (number, 7, 7))
    paths = [f"a/{number}.jpg" for number in range(6)]
    return ImageFiles(tmp_path, paths, range(6), groups=[5, 4, 3, 2, 1, 0], group_names="abcdef")


def test_a_file_is_decoded_with_its_label_and_group(files):
    picture, label = files[4]
    assert colour_of(picture) == (4, 7, 7)
    assert (label, type(label)) == (4, int)
    assert files.path(4).name == "4.jpg"
    assert colour_of(files[-1][0]) == (5, 7, 7)
    with pytest.raises(IndexError):
        files[6]


def test_a_subset_keeps_images_labels_and_groups_together(files):
    part = files.subset([5, 1, 3]).subset([2, 0])
    assert [colour_of(picture)[0] for picture, _ in part] == part.labels.tolist() == [3, 5]
    assert part.groups.tolist() == [2, 0]
    assert part.group_names == tuple("abcdef")
    assert len(files) == 6


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 6], [0, -1, 2, 3, 4, 5], [10**9] * 6])
def test_every_group_has_a_name(groups, files):
    wrong = next(group for group in groups if group not in range(6))
    with pytest.raises(DataError, match=f"group {wrong} has no name.*which has 6"):
        files.grouped(torch.tensor(groups), "abcdef")
    with pytest.raises(DataError, match=f"group {wrong} has no name.*which has 6"):
        ImageFiles(files.root, [""] * 6, range(6), groups=groups, group_names="abcdef")
    regrouped = files.grouped(torch.zeros(6, dtype=torch.int64), ["all"])
    assert (regrouped.groups.tolist(), regrouped.group_names) == ([0] * 6, ("all",))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (4, 4)).save(tmp_path / f"x.{suffix}")
    picture, _ = ImageFiles(tmp_path, [f"x.{suffix}"], [0])[0]
    assert picture.mode == "RGB"


def test_names_beyond_ascii_are_found(tmp_path):
    paint(tmp_path / "Bücher" / "本.png", (1, 2, 3))
    assert colour_of(ImageFiles(tmp_path, ["Bücher/本.png"], [0])[0][0]) == (1, 2, 3)


def test_the_border_is_cut_off_on_all_sides(tmp_path):
    picture = Image.new("RGB", (9, 7), (255, 0, 0))
    picture.paste((0, 0, 9), (2, 2, 7, 5))
    picture.save(tmp_path / "x.png")
    inside, _ = ImageFiles(tmp_path, ["x.png"], [0], border=2)[0]
    assert inside.size == (5, 3)
    assert inside.getcolors() == [(15, (0, 0, 9))]
    Image.new("RGB", (9, 4)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png.*9 x 4 pixels"):
        ImageFiles(tmp_path, ["x.png"], [0], border=2)[0]


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("<html>404 not found</html>")


BREAKS = {"empty": empty, "cut short": cut_short, "no image": text, "gone": lambda p: p.unlink()}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_image_is_named(kind, files):
    BREAKS[kind](files.path(2))
    with pytest.raises(DataError, match=r"2\.jpg cannot be read.*on_broken=skip"):
        files[2]
    files[3]


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_images_are_left_out_and_counted(kind, files, monkeypatch):
    monkeypatch.setattr(images, "_BLOCK", 4)
    BREAKS[kind](files.path(2))
    BREAKS[kind](files.path(5))
    kept = files.without_broken()
    assert [name[-5:] for name in kept.broken] == ["2.jpg", "5.jpg"]
    assert [colour_of(picture)[0] for picture, _ in kept] == [0, 1, 3, 4]
    assert kept.labels.tolist() == [0, 1, 3, 4]
    assert kept.groups.tolist() == [5, 4, 2, 1]
    assert kept.without_broken().broken == kept.broken
    empty(files.path(0))
    assert [name[-5:] for name in kept.without_broken().broken] == ["2.jpg", "5.jpg", "0.jpg"]
    assert files.broken == ()


def test_a_broken_image_is_named_from_a_worker_too(files):
    empty(files.path(3))
    loader = DataLoader(files.transformed(to_tensor), batch_size=2, num_workers=2)
    with pytest.raises(DataError, match=r"3\.jpg cannot be read"):
        list(loader)


def test_workers_read_what_one_reader_reads(files):
    # pickled, as workers that are spawned get it
    read = pickle.loads(pickle.dumps(files.subset([5, 0, 3, 2]).transformed(to_tensor)))
    loader = DataLoader(read, batch_size=3, num_workers=2)
    pixels, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert labels.tolist() == [5, 0, 3, 2]
    assert pixels[:, 0, 0, 0].tolist() == [5, 0, 3, 2]


def test_bytes_and_arrays_give_what_files_give(files):
    encoded = [files.path(number).read_bytes() for number in range(6)]
    names = [f"file {number}" for number in range(6)]
    pixels = np.stack([np.array(picture) for picture, _ in files])
    for other in (ImageBytes(encoded, names, range(6)), ImageArray(pixels, range(6), "array")):
        again = pickle.loads(pickle.dumps(other.subset([1, 4])))
        assert [(colour_of(p), label) for p, label in again] == [((1, 7, 7), 1), ((4, 7, 7), 4)]
    broken = ImageBytes([encoded[0], b""], names[:2], [0, 0])
    with pytest.raises(DataError, match="file 1 cannot be read"):
        broken[1]


@pytest.fixture
def several(files):
    """Six images as files, in three sets of three kinds of store, in an order of their own."""
    encoded = [files.path(number).read_bytes() for number in (0, 5)]
    pixels = np.stack([np.array(files.picture(number)) for number in (4, 2)])
    return {
        "files": files.subset([3, 1]),
        "bytes": ImageBytes(encoded, ["file 0", "file 5"], [0, 5]),
        "array": ImageArray(pixels, [4, 2], "array"),
    }


ORDER = [3, 1, 0, 5, 4, 2]


def test_joined_sets_are_one_set_with_their_names_as_groups(several):
    whole = joined(several)
    assert [(colour_of(picture)[0], label) for picture, label in whole] == [(n, n) for n in ORDER]
    assert whole.group_names == ("files", "bytes", "array")
    assert whole.groups.tolist() == [0, 0, 1, 1, 2, 2]
    part = pickle.loads(pickle.dumps(whole.subset([5, 0, 2, 0]).transformed(to_tensor).kept()))
    assert [int(item[0, 0, 0]) for item, _ in part] == part.labels.tolist() == [2, 3, 0, 3]
    assert part[1][0] is part[1][0]
    assert (part.groups.tolist(), part.group_names) == ([2, 0, 1, 0], whole.group_names)
    assert joined({"files": several["files"]}) is several["files"]


def test_joined_sets_can_be_joined_corrupted_and_grouped_again(several):
    whole = joined(several)
    again = joined({"a": whole.subset([4, 1]), "b": several["bytes"]})
    assert [colour_of(picture)[0] for picture, _ in again] == again.labels.tolist() == [4, 1, 0, 5]
    assert again.groups.tolist() == [0, 0, 1, 1]
    spoilt = corrupted(whole.subset([5, 0]), "brightness", 1)
    assert (spoilt.groups.tolist(), spoilt.group_names) == ([2, 0], whole.group_names)
    assert [colour_of(picture)[0] > n for n, (picture, _) in zip((2, 3), spoilt, strict=True)]
    assert (whole.grouped(None).groups, whole.grouped(None).group_names) == (None, ())


def test_a_broken_image_of_joined_sets_is_named_and_left_out(several, files):
    empty(files.path(1))
    whole = joined(several)
    with pytest.raises(DataError, match=r"1\.jpg cannot be read"):
        whole[1]
    good = whole.without_broken()
    assert [name[-5:] for name in good.broken] == ["1.jpg"]
    assert good.groups.tolist() == [0, 1, 1, 2, 2]
    assert good.labels.tolist() == [3, 0, 5, 4, 2]
    assert joined({"a": good, "b": several["bytes"]}).broken == good.broken


def test_a_joined_sets_digest_is_that_of_its_images_their_order_and_domains(files):
    def digest(one, other, names=("a", "b"), order=None):
        whole = joined(dict(zip(names, (files.subset(one), files.subset(other)), strict=True)))
        return (whole if order is None else whole.subset(order)).digest()

    files.labels[:] = 0  # which are a part of any digest
    base = digest([0, 1], [2, 3])
    assert base == digest([0, 1], [2, 3])
    assert base == digest([0, 1, 5], [2, 3, 4], order=[0, 1, 3, 4])
    others = [
        digest([0, 1], [2, 4]),
        digest([0, 2], [1, 3]),
        digest([0], [1, 2, 3]),
        digest([1, 0], [2, 3]),
        digest([0, 1], [2, 3], names=("a", "c")),
        digest([2, 3], [0, 1], names=("b", "a")),
        digest([0, 1], [2, 3], order=[0, 2, 1, 3]),
        files.subset([0, 1, 2, 3]).digest(),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_sets_of_other_classes_or_transforms_are_not_joined(files):
    space = LabelSpace(("x",), ((0, 1),))
    other = ImageFiles(files.root, ["a/0.jpg"], [0], space=space)
    for second in (other, files.transformed(to_tensor)):
        with pytest.raises(DataError, match="one, two cannot be one set: join sets before"):
            joined({"one": files, "two": second})


def test_a_set_without_a_label_space_leaves_logits_alone(files):
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    assert files.project(logits) is logits


@settings(deadline=None)
@given(st.data())
def test_projection_takes_the_best_of_each_classs_members(data):
    every = data.draw(st.integers(2, 8))
    ids = st.lists(st.integers(0, every - 1), min_size=1, max_size=3, unique=True)
    members = data.draw(st.lists(ids, min_size=1, max_size=4))
    logits = torch.randn(5, every, generator=torch.Generator().manual_seed(every))
    space = LabelSpace(tuple(map(str, members)), tuple(map(tuple, members)))
    projected = space.project(logits)
    assert projected.shape == (5, len(members))
    for own, places in enumerate(members):
        for row in range(5):
            assert projected[row, own] == max(logits[row, place] for place in places)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=60),
    st.sampled_from([(0.5,), (0.2, 0.2), (0.1, 0.3, 0.6)]),
    st.integers(0, 3),
)
def test_a_stratified_split_shares_out_every_class(labels, shares, seed):
    given_labels = torch.tensor(labels, dtype=torch.int64)
    parts = stratified(given_labels, shares, seed)
    assert len(parts) == len(shares) + 1
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    for part in parts:
        assert part.tolist() == sorted(part.tolist())
    for label in set(labels):
        for part, share in zip(parts, shares, strict=False):
            count = (given_labels[part] == label).sum().item()
            assert abs(count - share * labels.count(label)) <= 1
    for part, again in zip(parts, stratified(given_labels, shares, seed), strict=True):
        assert torch.equal(part, again)


def test_a_split_depends_on_its_seed_and_leaves_the_global_generators_alone():
    labels = torch.zeros(100, dtype=torch.int64)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    first, other = stratified(labels, (0.5,), 0)[0], stratified(labels, (0.5,), 1)[0]
    after = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert first.tolist() != other.tolist()
    assert before == after
