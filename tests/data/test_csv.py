"""A table of the user's own images: what is read, how it is split, and what is refused."""

import csv
import os
import re

import official_trees as trees
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_trees import colour_of

from gmixout.data import SOURCES, csv_file
from gmixout.errors import DataError

CLASSES = ["cat", "dog", "eel"]
DOMAINS = ["art", "photo", "sketch"]


def table(root, columns, rows, **options):
    trees.write_csv(root / "table.csv", columns, rows)
    return SOURCES["csv"](root / "table.csv", **options)


def domain_rows(root, images=10, **more):
    """Rows `path, label, domain` of images that say what they are."""
    rows = []
    for number, domain in enumerate(DOMAINS):
        trees.class_folders(root / domain, CLASSES, images, number)
        for name in CLASSES:
            rows += [[f"{domain}/{name}/{name}_{n}.jpg", name, domain] for n in range(images)]
    return rows


def held(images):
    """(class, set, number) of each image, and its label."""
    return [(colour_of(picture), label) for picture, label in images]


def files(images):
    return [os.path.relpath(images._name(int(p))) for p in images._positions]


def all_of(splits, names):
    return [file for name in names for file in files(splits.sets[name])]


def test_without_splits_every_class_of_every_domain_is_held_out_in_proportion(tmp_path):
    rows = domain_rows(tmp_path)
    source = table(tmp_path, ["path", "label", "domain"], rows, id_val_share=0.1, id_test_share=0.3)
    splits = source.load()
    assert splits.classes == tuple(CLASSES)
    for images, count in ((splits.train, 6), (splits.id_val, 1), (splits.id_test, 3)):
        assert images.group_names == tuple(DOMAINS)
        found = [
            (g, label)
            for g, label in zip(images.groups.tolist(), images.labels.tolist(), strict=True)
        ]
        assert {pair: found.count(pair) for pair in found} == {
            (group, label): count for group in range(3) for label in range(3)
        }
        for (colour, label), group in zip(held(images), images.groups.tolist(), strict=True):
            assert colour[:2] == (label, group)
    assert len({*all_of(splits, splits.sets)}) == len(all_of(splits, splits.sets)) == 90
    shuffled = table(tmp_path, ["path", "label", "domain"], rows[::-1], id_val_share=0.1)
    assert sorted(all_of(shuffled.load(), splits.sets)) == sorted(all_of(splits, splits.sets))


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({}, DOMAINS),
        ({"train_domains": ("photo", "art")}, ["art", "photo"]),
        ({"train_domains": ("sketch",)}, ["sketch"]),
        ({"test_domain": "art"}, ["photo", "sketch"]),
    ],
)
def test_domains_that_are_not_trained_on_are_shifts(options, trained, tmp_path):
    splits = table(tmp_path, ["path", "label", "domain"], domain_rows(tmp_path), **options).load()
    assert set(splits.shifts) == {*DOMAINS} - {*trained}
    for name in ("train", "id_val", "id_test"):
        images = splits.sets[name]
        assert {colour[1] for colour, _ in held(images)} == {DOMAINS.index(d) for d in trained}
        assert images.group_names == (tuple(trained) if len(trained) > 1 else ())
    for name, images in splits.shifts.items():
        assert len(images) == 30
        assert {colour[1] for colour, _ in held(images)} == {DOMAINS.index(name)}
    assert len({*all_of(splits, splits.sets)}) == len(all_of(splits, splits.sets)) == 90


def test_a_tables_splits_are_the_splits_and_what_it_lacks_is_held_out(tmp_path):
    rows = domain_rows(tmp_path)
    parts = ["Train"] * 6 + ["validation"] * 2 + ["TEST", "fog"]
    rows = [[*row, parts[n % 10]] for n, row in enumerate(rows)]
    columns = ["path", "label", "domain", "split"]
    splits = table(tmp_path, columns, rows, test_domain="photo").load()
    assert {name: len(images) for name, images in splits.sets.items()} == {
        "train": 36, "id_val": 12, "id_test": 6, "fog": 9, "photo": 27,
    }  # fmt: skip
    assert {colour[2] for colour, _ in held(splits.id_val)} == {6, 7}
    assert splits.shifts["photo"].groups is None
    less = [row for row in rows if row[3] != "validation" or row[2] == "art"]
    splits = table(tmp_path, columns, less).load()
    assert {name: len(images) for name, images in splits.sets.items()} == {
        "train": 18 + 2 * 15, "id_val": 6 + 2 * 3, "id_test": 9, "fog": 9,
    }  # fmt: skip
    assert "there is no val of photo, sketch: it is held out of the training images" in splits.notes
    assert table(tmp_path, columns, rows, split_column=None).load().shifts == {}


def test_a_table_of_tests_alone_is_tested_on_as_a_whole(tmp_path):
    rows = [row for row in domain_rows(tmp_path) if row[2] != "art"]
    trained = {"test_domain": "sketch"}
    source = table(
        tmp_path, ["path", "label", "domain"], [r for r in rows if r[2] == "sketch"], **trained
    )
    tests = source.load_tests()
    assert {name: len(images) for name, images in tests.shifts.items()} == {"sketch": 30}
    rows = [[*row, "fog" if n % 3 else "test"] for n, row in enumerate(rows)]
    tests = table(tmp_path, ["path", "label", "domain", "split"], rows).load_tests()
    assert {name: len(images) for name, images in tests.shifts.items()} == {"test": 20, "fog": 40}
    assert tests.shifts["test"].group_names == ("photo", "sketch")
    source = table(tmp_path, ["path", "label"], [row[:2] for row in rows], **trained)
    assert {name: len(images) for name, images in source.load_tests().shifts.items()} == {
        "table": 60
    }


def test_columns_go_by_any_name(tmp_path):
    rows = domain_rows(tmp_path)
    usual = table(tmp_path, ["path", "label", "domain"], rows).load()
    names = {"path_column": "file name", "label_column": "", "domain_column": "split"}
    named = table(tmp_path, ["file name", "", "split"], rows, split_column=None, **names).load()
    assert [images.digest() for images in named.sets.values()] == [
        images.digest() for images in usual.sets.values()
    ]


def test_labels_that_are_numbers_are_in_their_order(tmp_path):
    rows = []
    for n in (10, 9, 100, 2):
        trees.class_folders(tmp_path, [str(n)], 5, 0)
        rows += [[f"{n}/{n}_{i}.jpg", f" {n} "] for i in range(5)]
    assert table(tmp_path, ["path", "label"], rows).load().classes == ("2", "9", "10", "100")


TEXT = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/\\\0"),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12, unique_by=lambda row: row[0]),
    st.sampled_from(["", "\N{ZERO WIDTH NO-BREAK SPACE}"]),
    st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL), ("\n", csv.QUOTE_ALL)]),
)
def test_whatever_a_spreadsheet_writes_is_read_back(tmp_path_factory, rows, mark, form):
    """Commas, quotes and line ends in values, a byte-order mark; the values come back."""
    file = tmp_path_factory.mktemp("x") / "table.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        opened.write(mark)
        writer = csv.writer(opened, lineterminator=form[0], quoting=form[1])
        writer.writerows([["label", "path"], *((label, f"in/{path}") for path, label in rows)])
    parsed = list(SOURCES["csv"](file)._parsed())
    assert [(row.path, row.cells) for row, _ in parsed] == [
        (os.path.normpath(f"in/{path}"), (label.strip(),)) for path, label in rows
    ]
    for (path, label), (_, wrong) in zip(rows, parsed, strict=True):
        odd = not label.strip() or re.search(r"[\0-\x1f\x7f]", label.strip())
        assert bool(wrong) == bool(odd or path == "..")


HOSTILE = {
    "a path above": (["../x.jpg,cat"], r"line 4: '\.\./x\.jpg' leads out of "),
    "an absolute path": (["/etc/x.jpg,cat"], r"line 4: '/etc/x\.jpg' leads out of "),
    "a way out and in": (["a/../../x.jpg,cat"], "line 4: .* leads out of "),
    "no path": ([",cat"], "line 4: path is empty"),
    "no label": (["a/0.jpg,"], "line 4: label is empty"),
    "a label of spaces": (["a/0.jpg,  "], "line 4: label is empty"),
    "a short row": (["a/0.jpg"], "line 4: label is empty"),
    "a long row": (["a/0.jpg,cat,dog"], "line 4 has more values .* needs quotes around it"),
    "a file that is not there": (["a/9.jpg,cat"], "line 4: 'a/9.jpg' in .* is not there"),
    "a folder that is not there": (["b/0.jpg,cat"], "line 4: 'b/0.jpg' in .* is not there"),
    "a path twice": (["a/1.jpg,dog"], "line 4: 'a/1.jpg' is listed in line 3, too"),
    "a path twice, spelled otherwise": (["a/./1.jpg,cat"], "line 4: 'a/1.jpg' is listed in line 3"),
    "a link out": (["a/out.jpg,cat"], "line 4: 'a/out.jpg' in .* is a link that leads out of it"),
    "an open quote": (['a/0.jpg,"cat', "x.jpg,dog"], "line 5 cannot be read as a table .*end of d"),
    "a label of two lines": (['a/0.jpg,"cat', 'dog"'], "line 5: label has a line break in it, or"),
    "a label as long as a text": (["a/0.jpg," + "x" * 201], "line 4: label has .*more than 200 c"),
    "two wrong rows": ([",cat", "../x,dog"], "(?s)line 4: path is empty\n.*line 5: '../x' leads"),
    "thirty wrong rows": ([",cat"] * 30, "(?s)line 4: .*line 23: path is empty\n.*and 10 more"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_wrong_row_is_named_by_its_line(kind, tmp_path):
    rows, said = HOSTILE[kind]
    for number in range(3):
        trees.paint(tmp_path / "a" / f"{number}.jpg", (0, 0, number))
    trees.paint(tmp_path.parent / "x.jpg", (0, 0, 0))
    (tmp_path / "a/out.jpg").symlink_to(tmp_path.parent / "x.jpg")
    file = tmp_path / "table.csv"
    good = ["path,label", "a/2.jpg,dog", "a/1.jpg,cat"]
    file.write_text("\n".join([*good, *rows]) + "\n")
    with pytest.raises(DataError, match=said):
        SOURCES["csv"](file).check()
    # those rows alone are wrong, down to what so small a table can be split into
    file.write_text("\n".join(good) + "\n")
    with pytest.raises(DataError, match="no row of split val, and its classes have too few"):
        SOURCES["csv"](file).check()


HEADERS = {
    "no label": ("path,kind\n", {}, "has no column label; it has: .'path', 'kind'."),
    "two that may be meant": ("image,file,label\n", {}, "no column path, and image or file may be"),
    "a column twice": ("path,label,label\n", {}, "has more than one column 'label'"),
    "a column of the user's": ("path,label\n", {"split_column": "part"}, "has no column part"),
    "no rows": ("path,label\n", {}, "it lists no image"),
    "nothing": ("", {}, "has no column path, label"),
    "other marks": ("path|label\na.jpg|cat\n", {}, "has no column path, label; it has"),
    "UTF-16": ("path,label\n".encode("utf-16"), {}, "is not text in UTF-8: line 1"),
    "domains without a column": (
        "path,label\na.jpg,b\n", {"test_domain": "x"}, "test_domain=x is not there.* are: none",
    ),
    "another domain": (
        "path,label,domain\na.jpg,b,y\n",
        {"test_domain": "x"},
        "test_domain=x is not there; the domains in .* are: y",
    ),
    "the only domain": (
        "path,label,domain\na.jpg,b,y\n", {"test_domain": "y"}, "y is the only domain .* train on",
    ),
    "no train": ("path,label,split\na.jpg,b,val\n", {}, "there is no row of split train"),
    "a domain without train": (
        "path,label,split,domain\na.jpg,b,val,x\nb.jpg,b,train,y\n",
        {},
        "no row of split train and domain x",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_a_wrong_table_is_refused(kind, tmp_path):
    text, options, said = HEADERS[kind]
    for name in ("a.jpg", "b.jpg"):
        trees.paint(tmp_path / name, (0, 0, 0))
    file = tmp_path / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=said):
        SOURCES["csv"](file, **options).check()


@pytest.mark.parametrize("column", ["split", "domain"])
def test_a_column_of_something_else_makes_no_thousands_of_sets(column, tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "MOST_SETS", 20)
    rows = [[path, label, n] for n, (path, label, _) in enumerate(domain_rows(tmp_path))]
    with pytest.raises(DataError, match=f"column {column} has 90 values: more than 20 {column}s"):
        table(tmp_path, ["path", "label", column], rows).check()


def test_a_folder_is_told_from_a_table(tmp_path):
    with pytest.raises(DataError, match=r"it is a folder: name the table in it, .*table\.csv"):
        SOURCES["csv"](tmp_path).check()


FORMS = {
    "tabs": ("x.tsv", "\t", "utf-8"),
    "tabs under another name": ("x.csv", "\t", "utf-8"),
    "semicolons, as Excel writes them": ("x.csv", ";", "utf-8-sig"),
    "a comma in a table of tabs": ("x.tsv", "\t", "utf-8-sig"),
}


def columns_of(root, images=6):
    trees.class_folders(root, ["a, b", "c;d"], images, 0)
    paths = [f"{name}/{name}_{n}.jpg" for name in ("a, b", "c;d") for n in range(images)]
    labels = [name for name in ("a, b", "c;d") for _ in range(images)]
    splits = [["Training", "val", "testing"][n % 3] for n in range(2 * images)]
    return {"File": paths, "class": labels, "set": splits}


def seen(source):
    splits = source.load()
    assert splits.classes == ("a, b", "c;d")
    for part in splits.sets.values():
        assert all(colour[0] == label for colour, label in held(part))
    notes = [note for note in splits.notes if "is read as" in note]
    read_as = {"File": "path", "class": "label", "set": "split"}
    assert notes == [f"column {column} is read as {name}" for column, name in read_as.items()]
    return {name: len(images) for name, images in splits.sets.items()}


@pytest.mark.parametrize("form", FORMS)
def test_tables_are_read_whatever_separates_their_values(form, tmp_path):
    name, mark, encoding = FORMS[form]
    columns = columns_of(tmp_path)
    with (tmp_path / name).open("w", newline="", encoding=encoding) as opened:
        writer = csv.writer(opened, delimiter=mark)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    assert seen(SOURCES["csv"](tmp_path / name)) == {"train": 4, "id_val": 4, "id_test": 4}


def test_a_table_in_parquet_is_a_table(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = columns_of(tmp_path)
    file = tmp_path / "x.parquet"
    table = pyarrow.table({**columns, "others": [b"x"] * 12})
    table = table.set_column(1, "class", table["class"].dictionary_encode())
    parquet.write_table(table.drop_columns(["others"]), file)
    assert seen(SOURCES["csv"](file)) == {"train": 4, "id_val": 4, "id_test": 4}
    numbers = {"path": columns["File"], "label": [n // 6 for n in range(12)]}
    parquet.write_table(pyarrow.table(numbers), file)
    assert SOURCES["csv"](file).load().classes == ("0", "1")
    parquet.write_table(pyarrow.table({**numbers, "label": [None] * 12}), file)
    with pytest.raises(DataError, match="line 12: label is empty"):
        SOURCES["csv"](file).check()
    parquet.write_table(pyarrow.table({**numbers, "label": [[1]] * 12}), file)
    with pytest.raises(DataError, match="column label must hold text or numbers"):
        SOURCES["csv"](file).check()
    file.write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        SOURCES["csv"](file).check()


def test_a_column_that_is_named_is_that_column(tmp_path):
    columns = columns_of(tmp_path)
    rows = list(zip(*columns.values(), strict=True))
    for options, said in (({"path_column": "file"}, "no column file"),
                          ({"label_column": "label2"}, "no column label2")):  # fmt: skip
        with pytest.raises(DataError, match=said):
            table(tmp_path, list(columns), rows, **options).check()
    source = table(tmp_path, list(columns), rows, split_column=None)
    assert len(source.load().train) == 8
