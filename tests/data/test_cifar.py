import os
import pickle
from pathlib import Path

import numpy as np
import official_trees as trees
import pytest
from official_trees import remove

from gmixout.data import SOURCES
from gmixout.data.cifar import unpickle
from gmixout.data.common_corruptions.constants import EXTRA_KINDS, KINDS
from gmixout.data.parquet import read_parquet
from gmixout.errors import ConfigError, DataError


def cifar10(root, **options):
    return SOURCES["cifar10"](root, counts="any", **options)


def load(source):
    return source.load(lambda picture: picture)


@pytest.fixture
def root(tmp_path):
    return trees.cifar10(tmp_path, KINDS)


def colours(images):
    return [(*trees.colour_of(picture)[:2], label) for picture, label in images]


def test_rows_of_planes_become_pixels(tmp_path):
    """Each of the three planes and each place in a plane is where the archive means it to be."""
    root = trees.cifar10(tmp_path, KINDS)
    row = np.arange(3072, dtype=np.uint32).astype(np.uint8)[None].repeat(20, axis=0)
    batch = {b"data": row, b"labels": [0, 1] * 10}
    trees.python2_pickle(root / "cifar-10-batches-py" / "data_batch_2", batch)
    images = [np.array(picture) for picture, _ in load(cifar10(root)).train]
    varied = next(image for image in images if image[..., 2].any())
    for x, y in ((0, 0), (31, 0), (0, 31), (7, 20)):
        assert varied[y, x].tolist() == [(plane * 1024 + 32 * y + x) % 256 for plane in range(3)]


def test_five_files_are_the_training_set_and_one_is_the_test_set(root):
    splits = load(cifar10(root))
    assert splits.classes == ("plane", "car")
    own = colours(splits.train) + colours(splits.id_val)
    assert sorted(own) == sorted((label, n, label) for n in range(1, 6) for label in [0, 1] * 10)
    assert len(splits.id_val) == 10
    assert colours(splits.id_test) == [(1, 9, 1), (0, 9, 0), (1, 9, 1)]


def test_a_severity_is_a_block_of_rows(root):
    splits = load(cifar10(root))
    assert {name.split("/")[0] for name in splits.shifts} == {*KINDS, "cifar10_1"}
    for kind in KINDS:
        for severity in range(1, 6):
            found = colours(splits.shifts[f"{kind}/{severity}"])
            assert found == [(label, 100 + severity, label) for label in (1, 0, 1)]
    assert splits.summary == "mean_corruption_error_unnormalised"


def test_both_versions_of_cifar10_1_are_parts_of_one_shift(root):
    splits = load(cifar10(root, shifts=("10.1",)))
    assert set(splits.shifts) == {"cifar10_1/v4", "cifar10_1/v6"}
    assert colours(splits.shifts["cifar10_1/v6"])[0] == (1, 21, 1)
    assert splits.summary is None


def test_the_extra_kinds_are_for_choices_alone(tmp_path):
    root = trees.cifar10(tmp_path, KINDS + EXTRA_KINDS)
    splits = load(cifar10(root, extra=True, shifts=("c",)))
    assert {name.split("/")[0] for name in splits.shifts} == set(KINDS)
    assert {name.split("/")[0] for name in splits.dev_shifts} == set(EXTRA_KINDS)


def test_the_batches_may_lie_in_the_root_itself(root):
    flat = root / "cifar-10-batches-py"
    assert cifar10(flat, shifts=()).check().images["id_test"] == 3


def test_a_missing_shift_is_refused_or_left_out_and_said(root):
    remove(root / "CIFAR-10-C")
    remove(root / "cifar10.1_v4_data.npy")
    with pytest.raises(DataError, match=r"(?s)CIFAR-10-C \(missing=leave_out.*v4_data.npy"):
        cifar10(root).check()
    inventory = cifar10(root, missing="leave_out").check()
    assert set(inventory.images) == {"train", "id_val", "id_test", "cifar10_1/v6"}
    assert len(inventory.notes) == 2
    assert all(note.endswith(": left out") for note in inventory.notes)


def save(name, array):
    return lambda root: np.save(root / "CIFAR-10-C" / name, array)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


class Evil:
    def __reduce__(self):
        return (print, ("code of the file is run",))


BREAKS = {
    "a batch": (
        lambda root: remove(root / "cifar-10-batches-py/data_batch_3"),
        "there is no .*data_batch_3",
    ),
    "a kind": (lambda root: remove(root / "CIFAR-10-C/fog.npy"), "there is no .*fog.npy"),
    "the labels": (lambda root: remove(root / "CIFAR-10-C/labels.npy"), "there is no .*labels.npy"),
    "a short file": (
        save("fog.npy", trees.cifar_pixels([1] * 12, 0)),
        r"fog.npy is uint8 \[12, 32",
    ),
    "floats": (save("fog.npy", np.zeros((15, 32, 32, 3))), "fog.npy is float64"),
    "a cut file": (lambda root: truncate(root / "CIFAR-10-C/fog.npy"), "fog.npy cannot be read"),
    "labels sorted otherwise": (
        save("labels.npy", np.repeat([1, 0, 1], 5)),
        "labels.npy is not the test labels five times",
    ),
    "a label too high": (save("labels.npy", np.array([1, 0, 2] * 5)), "labels are out of range, 2"),
    "a cut batch": (
        lambda root: truncate(root / "cifar-10-batches-py/data_batch_1"),
        "data_batch_1 cannot be read as a file of CIFAR",
    ),
    "another pickle": (
        lambda root: (root / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps([1])),
        "test_batch cannot be read as a file of CIFAR",
    ),
    "other keys": (
        lambda root: trees.python2_pickle(root / "cifar-10-batches-py/test_batch", {b"data": [1]}),
        "test_batch is not a file of cifar-10-batches-py: labels",
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_files_are_refused(kind, root):
    do, said = BREAKS[kind]
    do(root)
    with pytest.raises(DataError, match=said):
        cifar10(root).check()


def test_a_pickle_runs_no_code(tmp_path, capsys):
    (tmp_path / "x").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(DataError, match=r"asks for builtins\.print"):
        unpickle(tmp_path / "x")
    assert capsys.readouterr().out == ""


FOREIGN = [
    "xcore.multiarray _reconstruct",
    "x.numpy.core.multiarray _reconstruct",
    "numpy.xcore.multiarray _reconstruct",
    "core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy.core.multiarray fromfile",
    "numpy load",
    "numpy ndarray.tofile",
    "numpy dtype.__init__",
    "numpy.core numeric",
    "builtins eval",
    "posix system",
    "_codecs encode",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_pickle_imports_nothing_that_its_names_only_resemble(name, tmp_path, monkeypatch):
    for package in ("xcore", "x/numpy/core", "core"):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "multiarray.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    module, attribute = name.split()
    (tmp_path / "a").write_bytes(f"c{module}\n{attribute}\n(tR.".encode())
    (tmp_path / "b").write_bytes(
        b"\x80\x04"
        + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in name.split())
        + b"\x93)R."
    )
    for file in ("a", "b"):
        with pytest.raises(DataError, match=f"it asks for {module}"):
            unpickle(tmp_path / file)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_either_numpy_are_read(module, tmp_path):
    content = pickle.dumps({"data": np.arange(3)}, protocol=3)
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        content = content.replace(b"c" + name + b"\n", b"c" + module.encode() + b"\n")
    (tmp_path / "x").write_bytes(content)
    assert unpickle(tmp_path / "x")["data"].tolist() == [0, 1, 2]


def test_cifar100_has_the_fine_labels(tmp_path):
    splits = load(SOURCES["cifar100"](trees.cifar100(tmp_path, KINDS), counts="any"))
    assert splits.classes == ("apple", "bee")
    assert colours(splits.shifts["snow/4"]) == [(1, 104, 1), (0, 104, 0)]


def write_parquet(file, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(columns).replace_schema_metadata({"classes": "plane,car"})
    parquet.write_table(table, file)


def test_parquet_files_do_in_place_of_the_archive(tmp_path):
    trees.paint(tmp_path / "a.png", (3, 2, 1), size=32)
    encoded = (tmp_path / "a.png").read_bytes()
    for part, count in (("train", 20), ("test", 4)):
        labels = [0, 1] * (count // 2)
        write_parquet(tmp_path / f"{part}.parquet", image=[encoded] * count, label=labels)
    splits = load(cifar10(tmp_path, missing="leave_out"))
    assert splits.classes == ("plane", "car")
    assert (len(splits.train), len(splits.id_val), len(splits.id_test)) == (18, 2, 4)
    assert colours(splits.id_test)[1] == (3, 2, 1)


@pytest.mark.skipif("GMIXOUT_DATA" not in os.environ, reason="GMIXOUT_DATA names no folder")
def test_a_real_cifar10_has_the_published_counts():
    pytest.importorskip("pyarrow")
    splits = load(SOURCES["cifar10"](Path(os.environ["GMIXOUT_DATA"]) / "cifar10", shifts=()))
    assert splits.train.labels.bincount().tolist() == [4500] * 10
    assert splits.id_test.labels.bincount().tolist() == [1000] * 10
    assert splits.id_test[0][0].size == (32, 32)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [b""]}, "x.parquet has no column label; it has: image"),
        ({"image": [b""], "label": ["a"]}, "column label must hold integers, and is string"),
    ],
)
def test_a_wrong_parquet_file_is_refused(columns, said, tmp_path):
    write_parquet(tmp_path / "x.parquet", **columns)
    with pytest.raises(DataError, match=said):
        read_parquet(tmp_path / "x.parquet")


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    for part in ("train", "test"):
        (tmp_path / f"{part}.parquet").write_text("PAR1")
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        cifar10(tmp_path).check()


def test_a_missing_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    import sys

    for part in ("train", "test"):
        (tmp_path / f"{part}.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow.*pip install 'gmixout\[hub\]'"):
        cifar10(tmp_path).check()
