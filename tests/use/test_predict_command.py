"""`gmixout predict`: files in, rows out, in order, whatever the files are."""

import csv
import io
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from finished import CLASSES
from PIL import Image
from pyarrow import parquet

import gmixout
from gmixout.bench import predict
from gmixout.cli import main
from gmixout.errors import GmixoutError
from gmixout.results import RecordLog
from gmixout.use import predictions as predicting
from gmixout.use.classifier import Classifier
from gmixout.use.inputs import inputs_of
from gmixout.use.predictions import predictions


def rows_of(file):
    if file.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(file.read_text())))
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    return parquet.read_table(file).to_pylist()


ENDINGS = (".csv", ".jsonl", ".parquet")


@pytest.mark.parametrize("ending", ENDINGS)
def test_agrees_with_the_evaluation_to_the_last_image(run, photos, tmp_path, ending):
    (record,) = RecordLog(run / "records.jsonl").read()
    out = tmp_path / f"p{ending}"
    assert main(["predict", str(run), str(photos / "test"), "--out", str(out)]) == 0
    rows = rows_of(out)
    right = [Path(row["file"]).parent.name == row["label"] for row in rows]
    assert len(rows) == record.scores["id_test"].examples == 24
    assert sum(right) / len(rows) == record.scores["id_test"].accuracy
    assert 0 < sum(right) < len(rows)


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_hold_the_probabilities_in_the_order_of_the_files(run, photos, tmp_path, ending):
    files = sorted((photos / "test").glob("*/*.jpg"), key=lambda each: each.name[::-1])
    out = tmp_path / f"p{ending}"
    predict(run, [str(f) for f in files], out, top_k=9, batch_size=5)
    expected = gmixout.load(run).predict(files)
    rows = rows_of(out)
    assert [row["file"] for row in rows] == [str(file) for file in files]
    for row, own in zip(rows, expected.tolist(), strict=True):
        if ending == ".jsonl":
            found = {each["class"]: each["probability"] for each in row["top"]}
        else:
            found = {row[f"class_{k}"]: float(row[f"probability_{k}"]) for k in (1, 2)}
        assert found == pytest.approx(dict(zip(CLASSES, own, strict=True)), abs=1e-5)
        assert float(row["confidence"]) == pytest.approx(max(own), abs=1e-5)
        assert (row["status"], row["label"]) == ("ok", CLASSES[own.index(max(own))])
        assert not row["error"]


@pytest.fixture
def odd(photos, tmp_path, monkeypatch):
    """A folder of everything that people have in folders."""
    folder = tmp_path / "odd"
    (folder / "a" / "deep").mkdir(parents=True)
    good = photos / "test" / CLASSES[0] / "01.jpg"
    for name in ("=cmd, 'x' \"y\".jpg", "été 写真.JPG", "a/deep/<b>.jpeg", "-n.jpg", "@at.jpg"):
        shutil.copy(good, folder / name)
    Image.fromarray(np.full((50, 40), 40000, np.uint16)).save(folder / "sixteen.png")
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    Image.new("RGBA", (40, 40), (200, 0, 0, 90)).save(folder / "clear.webp")
    (folder / "empty.jpg").touch()
    (folder / "broken.png").write_bytes(good.read_bytes()[:400])
    (folder / "text.jpg").write_text("no image")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.jpg").write_text("no image")
    (folder / "folder.jpg").mkdir()
    monkeypatch.chdir(folder)
    return folder


WRONG = {"empty.jpg", "broken.png", "text.jpg", "folder.jpg"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_cannot_be_read_is_a_row(run, odd, tmp_path, capsys, ending):
    out = tmp_path / f"p{ending}"
    assert main(["predict", str(run), ".", "absent.jpg", "--out", str(out), "--top-k", "1"]) == 0
    rows = rows_of(out)
    errors = {Path(row["file"]).name for row in rows if row["status"] == "error"}
    assert errors == WRONG | {"absent.jpg"}
    assert all(bool(row["error"]) == (row["status"] == "error") for row in rows)
    assert all(bool(row["label"]) == (row["status"] == "ok") for row in rows)
    assert len(rows) == 8 + len(errors)
    told = capsys.readouterr().err
    assert "5 could not be read, the first " in told
    assert "1 file that is not read as an image: .txt (1)" in told
    if ending == ".csv":
        assert not [row for row in rows if row["file"][:1] in "=+-@"]
        assert "'-n.jpg" not in out.read_text()  # a folder goes before it


@pytest.mark.parametrize("name", ["-n.jpg", "@at.jpg", "=cmd, 'x' \"y\".jpg", "été 写真.JPG"])
def test_no_name_is_a_formula_an_option_or_a_list(run, odd, tmp_path, name):
    out = tmp_path / "p.csv"
    predict(run, [name], out)
    (row,) = rows_of(out)
    guard = "'" if name[0] in "=-@" else ""
    assert (row["file"], row["status"]) == (f"{guard}{name}", "ok")
    if not name.startswith("-"):
        assert main(["predict", str(run), name, "--out", str(out), "--overwrite"]) == 0
        assert rows_of(out) == [row]


def test_words_with_commas_and_brackets_are_names(run, odd, tmp_path):
    names = ["[1].jpg", "{a}.jpg", "a,b.jpg", "1e3"]
    out = tmp_path / "p.jsonl"
    assert main(["predict", str(run), *names, "--out", str(out)]) == 0
    assert [row["file"] for row in rows_of(out)] == names
    assert main(["predict", str(run), "--files", *names, "--out", str(out), "--overwrite"]) == 0
    assert [row["file"] for row in rows_of(out)] == names


class Stdin:
    def __init__(self, held):
        self.buffer = io.BytesIO(held)


LISTS = {
    "lines": lambda names: "\n".join(names).encode(),
    "windows": lambda names: b"\xef\xbb\xbf" + "\r\n".join([*names, "", " "]).encode(),
    "find -print0": lambda names: "\0".join([*names, ""]).encode(),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_and_standard_input(kind, odd, tmp_path, monkeypatch):
    names = ["-n.jpg", "@at.jpg", "=cmd, 'x' \"y\".jpg", "été 写真.JPG", "absent", "a"]
    held = LISTS[kind](names)
    (tmp_path / "list").write_bytes(held)
    found = [*names[:-1], "a/deep/<b>.jpeg"]
    assert inputs_of([f"@{tmp_path / 'list'}"]).files == found
    monkeypatch.setattr(sys, "stdin", Stdin(held))
    assert inputs_of(["one.png", "-", "clear.webp"]).files == ["one.png", *found, "clear.webp"]


def test_a_name_in_no_encoding_is_kept(tmp_path, monkeypatch):
    name = os.fsdecode(b"\xff\xfe.jpg")
    (tmp_path / "list").write_bytes(b"\xff\xfe.jpg\n")
    assert inputs_of([f"@{tmp_path / 'list'}"]).files == [name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name image files, folders"),
        (["EMPTY"], "no image is named: EMPTY holds no image"),
        (["TEXT"], r"no image is named: .*\.txt \(1\)"),
        (["@absent"], "absent cannot be opened"),
        (["@EMPTY"], "is a folder"),
        (["@NOTHING"], "the list is empty"),
    ],
)
def test_words_that_name_nothing_are_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "TEXT").mkdir()
    (tmp_path / "TEXT" / "x.txt").touch()
    (tmp_path / "NOTHING").write_text("\n")
    with pytest.raises(GmixoutError, match=message):
        inputs_of(words)


def test_abstains_below_the_threshold(run, photos, tmp_path, capsys):
    out = tmp_path / "p.csv"
    words = ["predict", str(run), str(photos / "test"), "--out", str(out)]
    assert main([*words, "--top-k", "1"]) == 0
    confidences = sorted(float(row["confidence"]) for row in rows_of(out))
    between = (confidences[11] + confidences[12]) / 2
    assert main([*words, "--threshold", str(between), "--overwrite"]) == 0
    rows = rows_of(out)
    assert Counter(row["status"] for row in rows) == {"ok": 12, "abstain": 12}
    for row in rows:
        assert (float(row["confidence"]) < between) == (row["status"] == "abstain")
        assert bool(row["label"]) == (row["status"] == "ok")
        assert row["class_1"]
    assert "12 below the threshold" in capsys.readouterr().err


WORDS = {
    "--top-k 0": "top_k=0",
    "--batch-size 0": "batch_size=0",
    "--threshold 1.5": "threshold=1.5",
    "--threshold .nan": "threshold=nan",
    "--device nowhere": "device='nowhere' is not here",
    "--device cuda:99": "device='cuda:99' is not here",
    "--out x.xlsx": "must end in one of: .csv, .jsonl, .parquet",
    "--out there.csv": "exists already",
    "--out folder.csv": "is a folder",
}


@pytest.mark.parametrize("words", WORDS)
def test_a_wrong_setting_is_named_and_nothing_is_written(run, odd, tmp_path, capsys, words):
    os.chdir(tmp_path)
    Path("there.csv").write_text("mine")
    Path("folder.csv").mkdir()
    before = sorted(os.listdir())
    out = [] if "--out" in words else ["--out", "new.csv"]
    assert main(["predict", str(run), str(odd), *words.split(), *out]) == 2
    assert WORDS[words] in capsys.readouterr().err
    assert sorted(set(os.listdir()) - {"new.csv"}) == before
    assert Path("there.csv").read_text() == "mine"


def test_without_a_file_rows_are_printed(run, odd, capsys):
    assert main(["predict", str(run), "one.png", "text.jpg", "--top-k", "1"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    name, label, best = first.split("\t")
    assert (name, label) == ("one.png", best.rpartition(" ")[0])
    assert best.endswith("%")
    assert second.split("\t")[:2] == ["text.jpg", "(error)"]


class Odd(torch.nn.Module):
    """Scores that overflow on white images."""

    def forward(self, images):
        total = images.mean((1, 2, 3))
        return torch.stack([total, torch.where(total > 0.9, torch.nan, -total)], 1)


def varying(picture):
    return torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1) / 255


def test_scores_that_are_not_finite_and_pictures_of_all_shapes(tmp_path):
    files, images = [], [((9, 9), 0), ((5, 9), 255), ((5, 9), 99), ((9, 9), 1)]
    for number, (size, colour) in enumerate(images):
        files.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", size, (colour,) * 3).save(files[-1])
    batches = predictions(Classifier(Odd(), ["a", "b"], varying), files, batch_size=3)
    rows = [row for batch in batches for row in batch]
    assert [row.file for row in rows] == files
    assert [row.status for row in rows] == ["ok", "error", "ok", "ok"]
    assert "not finite" in rows[1].error


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_done_survives_ctrl_c(run, photos, tmp_path, ending, monkeypatch, capsys):
    batches = []

    def stopped(*words):
        batches.append(words)
        if len(batches) == 4:
            if ending != ".parquet":  # or a process that is killed would lose it
                assert len(rows_of(out)) == 15
            raise KeyboardInterrupt
        return real(*words)

    real = predicting._tops
    monkeypatch.setattr(predicting, "_tops", stopped)
    out = tmp_path / f"p{ending}"
    words = ["predict", str(run), str(photos), "--out", str(out), "--batch-size", "5"]
    assert main(words) == 130
    assert "stopped" in capsys.readouterr().err
    rows = rows_of(out)
    assert [row["file"] for row in rows] == inputs_of([str(photos)]).files[:15]
    assert os.listdir(tmp_path) == [out.name]


def test_a_reader_that_stops_ends_it_quietly(run, photos, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert main(["predict", str(run), str(photos), "--batch-size", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_workers_give_the_same_rows(run, odd, tmp_path):
    files = sorted(os.listdir())
    predict(run, files, tmp_path / "a.csv")
    predict(run, files, tmp_path / "b.csv", num_workers=2, batch_size=2)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
