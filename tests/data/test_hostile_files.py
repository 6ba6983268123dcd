"""Files that are broken or made to do harm: read with the right value, or refused by name.

Never another error, never waiting, never memory out of proportion to the file.
"""

import io
import json
import os
import pickle
import random
import signal
import socket
import tracemalloc
from pathlib import Path

import numpy as np
import official_trees as trees
import pytest
import torch
from PIL import Image

from gmixout.data import SOURCES
from gmixout.data.common_corruptions.constants import KINDS
from gmixout.data.images import ImageFiles
from gmixout.data.reading import array_of, lines_of, reading, table_rows
from gmixout.data.source import broken_in
from gmixout.errors import DataError
from gmixout.plain import whole_number

LIMIT_SECONDS = 20


@pytest.fixture(autouse=True)
def _in_time():
    """A reader that waits for ever fails its test, instead of all tests."""

    def late(*_):
        raise TimeoutError("it takes too long")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def cifar(root):
    return trees.cifar10(root, KINDS)


def named_imagenet(root):
    trees.imagenet(root)
    names = "".join(f"{wnid} name {number}\n" for number, wnid in enumerate(trees.WNIDS))
    (root / "imagenet" / "classnames.txt").write_text(names)
    return root


def parquet_files(root):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    held = io.BytesIO()
    Image.new("RGB", (32, 32)).save(held, "PNG")
    table = pyarrow.table({"image": [held.getvalue()] * 40, "label": [n % 4 for n in range(40)]})
    for part in ("train", "test"):
        parquet.write_table(
            table.replace_schema_metadata({"classes": "a,b,c,d"}), root / f"{part}.parquet"
        )
    return root


CIFAR_FILES = ["cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/batches.meta"]
MAPPINGS = [
    f"objectnet-1.0/mappings/{name}"
    for name in (
        "folder_to_objectnet_label.json",
        "objectnet_to_imagenet_1k.json",
        "pytorch_to_imagenet_2012_id.json",
        "imagenet_to_label_2012_v2",
    )
]
READERS = {
    "domainnet": (trees.domainnet, {}, ["domainnet/splits/sketch_train.txt"]),
    "imagenet_lt": (trees.imagenet_lt, {}, [f"ImageNet_LT_{p}.txt" for p in ("train", "test")]),
    "iwildcam": (
        trees.iwildcam, {}, ["iwildcam_v2.0/metadata.csv", "iwildcam_v2.0/categories.csv"],
    ),
    "csv": (trees.csv_table, {}, [""]),
    "imagenet": (named_imagenet, {"val_share": 0.3}, [*MAPPINGS, "imagenet/classnames.txt"]),
    "cifar10": (cifar, {}, [*CIFAR_FILES, "CIFAR-10-C/labels.npy", "CIFAR-10-C/fog.npy"]),
    "cifar10 as parquet": (parquet_files, {"shifts": ()}, ["train.parquet", "test.parquet"]),
}  # fmt: skip
EACH = [(name, file) for name, (_, _, files) in READERS.items() for file in files]


def source(name, root):
    return SOURCES[name.split()[0]](root, counts="any", **READERS[name][1])


def look(name, root):
    for images in source(name, root).load().sets.values():
        images.digest()
        images.picture(0)


BYTES = [
    b"", b"\0", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\x28", b"\x80\x04", b"PK\x03\x04",
    b"PAR1", b"\x93NUMPY", b"[" * 100_000, b'{"a":' * 100_000, b"{}", b"[]", b"null", b"1e999",
    b'"', b"a,b\n1", b"," * 200_000, b"a" * 200_000, b"a/b 1\na/b " + b"9" * 5000, b"<html></html>",
    b"(lp0\n.", b"\x80\x02}.", b"\x80\x02]q\x00.", b"N.", b"\x80\x02\x8a\x08", b"cos\nsystem\n.",
    b"B\xff\xff\xff\x7f.", b"\x8e" + b"\xff" * 7 + b"\x7f.",
    b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
    b"split,filename,y,location_remapped\n" + b"a" * 200_000, b"y,name\n1," + b"a" * 200_000,
    b"split,filename,y,location_remapped\ntrain,a.jpg,99999999999999999999,1",
    b"split,filename,y,location_remapped\ntrain,a.jpg,1,99999999999999999999",
    b"path,label\n" + b"a" * 200_000 + b",b", b"path,label\n" + b"a.jpg,b\n" * 20_000,
    b"path,label\na.jpg,\"b" + b"\na.jpg,c" * 10_000, b"path,label,label\na.jpg,b,c",
    b"path,label\n" + b"/".join([b"a"] * 60_000) + b",b", b"path,label\na.jpg,b,c,d",
    b"path,label,split\na.jpg,b,train" + b"\nb.jpg,b,train\x00", b"path,label\n\x00,\x00",
    b"split,filename,y,location_remapped\ntrain,a.jpg,\xd9\xa1,\xc2\xb2\n",
]  # fmt: skip


@pytest.mark.parametrize(("name", "file"), EACH)
def test_a_file_of_anything_is_read_or_refused(name, file, tmp_path):
    root = READERS[name][0](tmp_path)
    look(name, root)
    lengths = []
    for held in BYTES:
        (root / file).write_bytes(held)
        try:
            look(name, root)
        except DataError as error:
            lengths.append(len(str(error)))
    assert 0 < max(lengths) < 5000


@pytest.mark.parametrize(("name", "file"), EACH)
def test_a_spoilt_file_is_read_or_refused(name, file, tmp_path):
    root, draw = READERS[name][0](tmp_path), random.Random(file)
    good = (root / file).read_bytes()
    refused = 0
    for _ in range(20):
        bad = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            # heads and tails, where the structure is
            place = draw.choice([draw.randrange(len(bad)), draw.randrange(min(200, len(bad)))])
            place = draw.choice([place, len(bad) - 1 - draw.randrange(min(200, len(bad)))])
            kind = draw.randrange(4)
            if kind == 0:
                bad[place] = draw.randrange(256)
            elif kind == 1:
                bad[place : place + 1] = draw.choice([b"\0", b"\xff" * 4, b'"', b"-1", b"9" * 20])
            elif kind == 2:
                del bad[place : place + draw.randint(1, 20)]
            else:
                bad[place:place] = bad[place : place + 30]
            bad = bad or bytearray(b" ")
        (root / file).write_bytes(bad)
        try:
            look(name, root)
        except DataError:
            refused += 1
    assert refused


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


IRREGULAR = {
    "a pipe": a_pipe,
    "a socket": a_socket,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a pipe": lambda path: (os.mkfifo(f"{path}.p"), path.symlink_to(f"{path}.p")),
    "a link to nothing": lambda path: path.symlink_to("/nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", IRREGULAR)
def test_only_regular_files_are_opened(kind, tmp_path):
    for number, (name, file) in enumerate(EACH):
        if name.startswith("cifar10 ") or "categories" in file or "classnames" in file:
            continue  # what need not be there
        (tmp_path / str(number)).mkdir()
        root = READERS[name][0](tmp_path / str(number))
        (root / file).unlink()
        IRREGULAR[kind](root / file)
        with pytest.raises(DataError, match=(root / file).name):
            look(name, root)


@pytest.mark.parametrize("kind", IRREGULAR)
def test_an_image_that_is_no_regular_file_is_broken(kind, tmp_path):
    root = trees.imagefolder(tmp_path)
    bad = root / "train" / "cat" / "bad.png"
    IRREGULAR[kind](bad)
    with pytest.raises(DataError, match=r"bad\.png cannot be read as an image"):
        ImageFiles(root, ["train/cat/bad.png"], [0]).picture(0)
    with pytest.raises(DataError, match=r"bad\.png cannot be read as an image"):
        SOURCES["imagefolder"](root).check(decode=True)
    skipped = SOURCES["imagefolder"](root, on_broken="skip").load()
    assert broken_in(skipped) == (str(bad),)


OUT = ["../out.jpg", "a/../../out.jpg", "/etc/out.jpg", "..", "a/../b.jpg", "a/\0.jpg", "//a/b.jpg"]


@pytest.mark.parametrize("path", OUT)
def test_a_list_cannot_name_what_lies_outside_of_its_folder(path, tmp_path):
    """Even if the file is there."""
    root = trees.domainnet(tmp_path / "in")
    trees.paint(tmp_path / "in" / "out.jpg", (1, 1, 1))
    with (root / "domainnet/splits/sketch_train.txt").open("a") as opened:
        opened.write(f"{path} 0\n")
    with pytest.raises(DataError, match=r"sketch_train.txt, line 25: .*(leads out of|is not `)"):
        look("domainnet", root)
    root = trees.iwildcam(tmp_path / "wild")
    with (root / "iwildcam_v2.0/metadata.csv").open("a") as opened:
        opened.write(f"train,1,1,1,1,{path}\n")
    with pytest.raises(DataError, match=r"metadata.csv, line 17: .*leads out of"):
        look("iwildcam", root)


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_cannot_lead_a_list_outside_of_its_folder(linked, tmp_path):
    root = trees.domainnet(tmp_path / "in")
    listed = root / "domainnet/sketch/zebra/zebra_0.jpg"
    moved = tmp_path / "outside"
    target = listed if linked == "file" else listed.parent
    target.rename(moved)
    target.symlink_to(moved)
    with pytest.raises(DataError, match=r"links lead out of .*zebra_0.jpg"):
        look("domainnet", root)


def test_links_that_stay_inside_and_a_linked_root_are_fine(tmp_path):
    plain = source("domainnet", trees.domainnet(tmp_path / "plain")).load().sets
    root = trees.domainnet(tmp_path / "in")
    listed = root / "domainnet/sketch/zebra/zebra_0.jpg"
    listed.rename(root / "domainnet/kept.jpg")
    listed.symlink_to(root / "domainnet/kept.jpg")
    (root / "domainnet").rename(tmp_path / "elsewhere")
    (root / "domainnet").symlink_to(tmp_path / "elsewhere")
    listed.unlink()
    listed.symlink_to("../../kept.jpg")
    (tmp_path / "link").symlink_to(root)
    look("domainnet", tmp_path / "link")
    linked = source("domainnet", tmp_path / "link").load().sets
    assert {n: len(each) for n, each in linked.items()} == {n: len(e) for n, e in plain.items()}
    assert all(torch.equal(linked[name].labels, plain[name].labels) for name in plain)


@pytest.mark.parametrize(
    "text",
    ["-1", "1e3", "1.0", "+1", "1_0", "\N{SUPERSCRIPT TWO}", "\u0661", "", " ", "9" * 10, "0x1"],
)
def test_numbers_in_text_are_digits_and_bounded(text):
    assert whole_number(text) is None
    assert whole_number("999999999") == 999_999_999
    assert whole_number("007") == 7


def test_a_byte_order_mark_and_any_line_ends_are_no_part_of_a_list(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa/b 0\r\n\r\na/c 1\rx y\n")
    assert list(lines_of(tmp_path / "x")) == [(1, "a/b 0"), (3, "a/c 1"), (4, "x y")]
    (tmp_path / "t").write_bytes(b'\xef\xbb\xbfa,b\r\n"1\r\n2",3\r\n')
    assert list(table_rows(tmp_path / "t", ["a"])) == [(3, {"a": "1\r\n2", "b": "3"})]


def test_what_a_parser_raises_names_file_and_place_and_other_errors_stay(tmp_path):
    for error in (KeyError("x"), RecursionError(), MemoryError(), OverflowError(), EOFError()):
        says = pytest.raises(DataError, match=r"f, line 3 cannot be read as a list")
        with says, reading(Path("f"), "a list", lambda: ", line 3"):
            raise error
    with pytest.raises(KeyboardInterrupt), reading(Path("f"), "a list"):
        raise KeyboardInterrupt
    (tmp_path / "t").write_bytes(b"a\n1\n" + b"b" * 200_000)
    with pytest.raises(DataError, match=r"t, line 3 cannot be read as a table"):
        list(table_rows(tmp_path / "t", ["a"]))


def npy(path, array=None, header=None):
    if header is None:
        np.save(path, array, allow_pickle=True)
        return
    text = header.encode() + b" " * (117 - len(header)) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 64)


HEAD = "{{'descr': '{}', 'fortran_order': False, 'shape': {}}}"
ARRAYS = {
    "objects": {"array": np.array([{}, 1], object)},
    "text": {"array": np.array(["a", "b"])},
    "named fields": {"array": np.zeros(3, [("a", "u1")])},
    "nothing": {"array": np.zeros(0)},
    "dates": {"array": np.zeros(3, "M8[s]")},
    "complex numbers": {"array": np.zeros(3, complex)},
    "more than the file holds": {"header": HEAD.format("|u1", (10**12,))},
    "rows of nothing": {"header": HEAD.format("|V0", (10**15,))},
    "a side of nothing": {"header": HEAD.format("|u1", (10**15, 0))},
    "a negative side": {"header": HEAD.format("|u1", (-1,))},
    "a number too long": {"header": HEAD.format("|u1", (10**30,))},
    "an open bracket": {"header": "{'descr': ((((("},
    "code": {"header": "__import__('os').system('x')"},
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_anything_but_numbers_are_refused(kind, tmp_path):
    npy(tmp_path / "x.npy", **ARRAYS[kind])
    with pytest.raises(DataError, match=r"x\.npy"):
        array_of(tmp_path / "x.npy")


def test_an_archive_of_arrays_is_no_array(tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros(3))
    with pytest.raises(DataError, match=r"x\.npz cannot be read as an array"):
        array_of(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "labels",
    [[0.5] * 15, [-1] * 15, [True] * 15, [2**40] * 15, [2**63] * 15, [[1]] * 15, 1, [np.nan]],
)
def test_labels_in_arrays_are_class_numbers(labels, tmp_path):
    root = cifar(tmp_path)
    dtype = np.uint64 if labels == [2**63] * 15 else None
    np.save(root / "CIFAR-10-C/labels.npy", np.array(labels, dtype))
    with pytest.raises(DataError, match=r"labels\.npy|labels are out of range"):
        look("cifar10", root)


class Broadcast:
    """A thousand images of one and the same bytes: strides of zero."""

    def __reduce__(self):
        return np.ndarray, ((1000, 3072), np.dtype("u1"), bytes(3072), 0, (0, 1))


BATCHES = {
    "labels that are no list": {"labels": "ab"},
    "labels that are an array": {"labels": np.zeros(20, np.int64)},
    "fractions": {"labels": [0.5] * 20},
    "booleans": {"labels": [True] * 20},
    "nothing": {"labels": [None] * 20},
    "lists": {"labels": [[1]] * 20},
    "negative labels": {"labels": [-1] * 20},
    "large labels": {"labels": [2**70] * 20},
    "larger labels": {"labels": [2**40] * 20},
    "fewer labels": {"labels": [1]},
    "no data": {"data": None},
    "data that are a list": {"data": [[0] * 3072] * 20},
    "data of objects": {"data": np.full((20, 3072), None)},
    "data of floats": {"data": np.zeros((20, 3072))},
    "one row": {"data": np.zeros(3072, np.uint8)},
    "an array larger than the file": {"data": Broadcast(), "labels": [1] * 1000},
}


@pytest.mark.parametrize("kind", BATCHES)
def test_pickles_of_valid_form_and_wrong_contents_are_refused(kind, tmp_path):
    root = cifar(tmp_path)
    good = {"data": np.zeros((20, 3072), np.uint8), "labels": [0, 1] * 10}
    file = root / "cifar-10-batches-py/data_batch_1"
    file.write_bytes(pickle.dumps({**good, **BATCHES[kind]}, protocol=4))
    with pytest.raises(DataError, match="data_batch_1"):
        look("cifar10", root)
    file.write_bytes(pickle.dumps(good, protocol=4))
    for names in (None, "ab", [1], [b"a"], {}):
        held = {} if names is None else {"label_names": names}
        (file.parent / "batches.meta").write_bytes(pickle.dumps(held))
        with pytest.raises(DataError, match="has no list of text label_names"):
            look("cifar10", root)


LABELS = [
    [None] * 40, ["a"] * 40, [0.5] * 40, [-1] * 40, [10**12] * 40, [2**62] * 40, [True] * 40,
    [None, *[1] * 39], [[1]] * 40, [41 * 10] * 40,
]  # fmt: skip
IMAGES = [["x"] * 40, [1] * 40, [[1]] * 40, [{"bytes": b"x"}] * 40]


def write_parquet(root, metadata=None, **columns):
    import pyarrow
    from pyarrow import parquet

    good = parquet.read_table(root / "test.parquet").to_pydict()
    table = pyarrow.table({**good, **columns}).replace_schema_metadata(metadata)
    parquet.write_table(table, root / "train.parquet")


@pytest.mark.parametrize("number", range(len(LABELS) + len(IMAGES) + 1))
def test_columns_of_another_kind_are_refused(number, tmp_path):
    root = parquet_files(tmp_path)
    columns = [{"label": each} for each in LABELS] + [{"image": each} for each in IMAGES]
    metadata = {"classes": b"\xff\xfe"} if number == len(columns) else None
    write_parquet(root, metadata, **(columns[number] if number < len(columns) else {}))
    with pytest.raises(DataError, match=r"train\.parquet"):
        look("cifar10 as parquet", root)


def test_a_column_that_repeats_one_image_is_refused_before_it_is_large(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    root = parquet_files(tmp_path)
    one = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 40_000, pyarrow.int32()), pyarrow.array([bytes(2**20)])
    )
    table = pyarrow.table({"image": one, "label": [0, 1] * 20_000})
    parquet.write_table(table, root / "train.parquet", store_schema=False)
    size = (root / "train.parquet").stat().st_size
    assert size < 10**6
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(DataError, match=r"train\.parquet has .* bytes and grows to more than"):
        look("cifar10 as parquet", root)
    assert tracemalloc.get_traced_memory()[1] < 2**29
    tracemalloc.stop()
    assert pyarrow.total_allocated_bytes() - before < 2**28


PLACES = [
    {"10": 0, "7": 1, "2": 2.7}, {"10": 0, "7": 1, "2": True}, {"10": 0, "7": 1, "2": "2"},
    {"-1": 0, "7": 1, "2": 2}, {"10": 0, "7": 0, "2": 2}, {"10": 0, "7": 1, "99": 2},
    {"10": 0, "7": 1, "x": 2}, {"10": 0, "7": 1, "2": [2]}, [0, 1, 2], {"1" * 5000: 0},
]  # fmt: skip


@pytest.mark.parametrize("places", PLACES, ids=range(len(PLACES)))
def test_a_place_among_the_classes_is_a_whole_number_inside(places, tmp_path):
    root = named_imagenet(tmp_path)
    (root / MAPPINGS[2]).write_text(json.dumps(places))
    with pytest.raises(DataError, match="objectnet"):
        look("imagenet", root)


@pytest.mark.parametrize("name", ["9" * 30, "9" * 10, "-1", "\u0661"])
def test_a_folder_that_is_no_number_of_a_class_is_refused(name, tmp_path):
    root = named_imagenet(tmp_path)
    folder = root / "imagenetv2-matched-frequency-format-val"
    (folder / "0").rename(folder / name)
    with pytest.raises(DataError, match="is neither the number of a class nor a wnid"):
        look("imagenet", root)


def test_a_label_in_a_test_list_alone_does_not_ask_for_memory(tmp_path):
    root = trees.imagenet_lt(tmp_path)
    with (root / "ImageNet_LT_test.txt").open("a") as opened:
        opened.write(f"val/ILSVRC2012_val_{trees.WNIDS[0]}.JPEG 999999999\n")
    with pytest.raises(DataError, match="1 labels are out of range, 999999999"):
        look("imagenet_lt", root)
