"""What a run leaves for its page, and a model on unknown classes and on other data."""

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from finished import CLASSES, finetuned, pictures, saved
from PIL import Image
from tiny_foundations import clip_folder, hf_clip, timm_folder

import gmixout
from gmixout import bench
from gmixout.bench import task as task_module
from gmixout.cli import main
from gmixout.data import SOURCES
from gmixout.data.base import UNKNOWN_PREFIX
from gmixout.errors import ConfigError, DataError, StateError
from gmixout.evaluation.detection import DETECTORS
from gmixout.reports import write_report
from gmixout.results import RecordLog, RunFolder
from gmixout.results.predictions import load_predictions
from gmixout.use.classifier import read_picture


@pytest.fixture(autouse=True)
def _nothing_loaded():
    task_module._load.cache_clear()
    yield
    task_module._load.cache_clear()


def add_images(folder, names, count, seed, colour=None, coarse=False):
    draw = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (40, 50, 3))
            if coarse:  # patches, which models tell apart better than noise
                pixels = pixels[::20, ::25].repeat(20, 0).repeat(25, 1)
            if colour is not None:
                pixels[..., colour] = 255
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.jpg")


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A run on images with a shift and two sets of unknown classes, one without class folders."""
    root = tmp_path_factory.mktemp("strange") / 'photos "1"'
    pictures(root, np.random.default_rng(0))
    add_images(root / "shift_green", CLASSES, 5, 1, colour=1)
    add_images(root / "unknown_animals", ["cat", "<b>dog<", "cow"], 4, 2)
    add_images(root / "unknown_noise", [""], 7, 3)
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        report = import_module("gmixout.bench.commands.report")
        patch.setattr(report, "write_report", lambda *_, **__: [])
        model = timm_folder(tmp_path_factory.mktemp("model"), mean=[0.4, 0.5, 0.6])
        out = finetuned(tmp_path_factory.mktemp("runs") / "run", root, f"timm:{model}")
    return out, root


def test_predictions_are_kept_once_and_are_those_of_the_record(strange):
    out, root = strange
    (record,) = RecordLog(out / "records.jsonl").read()
    found = load_predictions(RunFolder(out).predictions)
    model = gmixout.load(out)
    assert found.temperature == pytest.approx(model.temperature, rel=1e-6)
    assert found.model == model.origin.about["digest"]
    assert found.start == ""  # the head was random
    assert list(found.sets) == ["id_val", "id_test", "green", "unknown/animals", "unknown/noise"]
    for name, scores in record.scores.items():
        each = found.sets[name]
        assert float(each.right.sum()) / len(each.labels) == scores.accuracy
        assert each.start is None
        assert 0 < len(each.mistakes) <= 12
        for mistake in each.mistakes:
            assert not each.right[mistake.index]
            assert mistake.thumbnail.startswith(b"\xff\xd8")
            assert (root / mistake.name).is_file()  # from the folder of the data, and no other
        sure = each.calibrated[[mistake.index for mistake in each.mistakes]]
        assert (sure.diff() <= 0).all()
    unknown = found.sets["unknown/animals"]
    assert unknown.classes == ("<b>dog<", "cat", "cow", "(none)")
    files = [root / mistake.name for mistake in unknown.mistakes]
    shares = model.predict(files)
    at = [mistake.index for mistake in unknown.mistakes]
    torch.testing.assert_close(shares.amax(1), unknown.calibrated[at], atol=1e-3, rtol=0)


def test_unknown_classes_are_neither_trained_on_nor_scored(strange):
    out, root = strange
    (record,) = RecordLog(out / "records.jsonl").read()
    assert set(record.scores) == {"id_val", "id_test", "green"}
    assert {name: each["energy"].images for name, each in record.detection.items()} == {
        "animals": 12, "noise": 7,
    }  # fmt: skip
    assert all(each.keys() == DETECTORS.keys() for each in record.detection.values())
    assert "unknown" not in (out / "split.csv").read_text()
    benchmark = SOURCES["imagefolder"](root).load()
    assert benchmark.classes == CLASSES
    assert any("unknown_animals/, unknown_noise/" in note for note in benchmark.notes)
    assert UNKNOWN_PREFIX + "noise" in benchmark.sets


def test_a_known_class_among_unknown_ones_is_refused(tmp_path):
    root = pictures(tmp_path / "photos", np.random.default_rng(0))
    add_images(root / "unknown_x", [CLASSES[0], "cat"], 2, 0)
    (root / "unknown_empty").mkdir()
    with pytest.raises(DataError) as error:
        SOURCES["imagefolder"](root).load()
    assert f"unknown_x/{CLASSES[0]} is the folder of a class that training has" in str(error.value)
    assert "unknown_empty holds no image" in str(error.value)


def test_unknown_classes_beside_plain_class_folders(tmp_path):
    add_images(tmp_path, ["cat", "dog"], 12, 0)
    add_images(tmp_path / "unknown_cars", [""], 3, 1)
    kind = SOURCES["imagefolder"]
    assert kind.recognize(tmp_path) == tmp_path
    found = kind(tmp_path).load()
    assert found.classes == ("cat", "dog")
    assert len(found.unknown["cars"]) == 3
    assert sum(len(getattr(found, part)) for part in ("train", "id_val", "id_test")) == 24


def test_the_page_of_the_run_is_written_with_the_report(strange, tmp_path, monkeypatch):
    out, _ = strange
    own = tmp_path / "own"
    shutil.copytree(out, own)
    monkeypatch.setattr("gmixout.reports._write_one", lambda *_: [])
    shutil.rmtree(tmp_path / "photos", ignore_errors=True)
    (page,) = write_report(own)
    assert page == own / "run.html"
    text = page.read_text()
    assert "<b>dog<" not in text
    assert "&lt;b&gt;dog&lt;" in text
    assert "AUROC" in text
    assert 'href="report.html"' in text
    assert str(tmp_path) not in text
    # a report on the same run into another folder, and one on two runs
    (elsewhere,) = write_report(own, out=tmp_path / "there")
    assert elsewhere.parent == tmp_path / "there"
    assert write_report([own, out], out=tmp_path / "both") == []
    # predictions of other weights are not shown as those of this model
    shutil.copy(saved(tmp_path / "other", _clip(tmp_path)) / "model.safetensors", own)
    with pytest.raises(StateError, match="of another model: delete it"):
        write_report(own)
    (own / "predictions.safetensors").unlink()
    assert write_report(own) == []


def _clip(tmp_path):
    (tmp_path / "clip").mkdir()
    return str(clip_folder(tmp_path / "clip"))


def test_evaluate_writes_what_an_older_run_lacks(strange, tmp_path, capsys):
    own = tmp_path / "own"
    shutil.copytree(strange[0], own)
    before = (own / "predictions.safetensors").read_bytes()
    (own / "predictions.safetensors").unlink()
    bench.evaluate(own)
    told = capsys.readouterr()
    assert (own / "predictions.safetensors").read_bytes() == before
    assert "Unknown classes, animals (12 images): max_softmax AUROC" in told.out
    assert "Equal to the recorded values" in told.out
    bench.evaluate(own)
    assert "Written to" not in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("name", DETECTORS)
def test_predict_adds_a_score_and_whether_the_class_is_unknown(strange, tmp_path, ending, name):
    from test_predict_command import rows_of

    out, root = strange
    (root.parent / "broken.jpg").write_bytes(b"no")
    words = [str(root / "val"), str(root.parent / "broken.jpg"), "--ood-score", name]
    file = tmp_path / f"p{ending}"
    assert main(["predict", str(out), *words, "--out", str(file)]) == 0
    rows = rows_of(file)
    assert rows[-1]["ood_score"] in ("", None)
    assert rows[-1]["unknown"] in ("", None)
    model = gmixout.load(out)
    files = [row["file"] for row in rows[:-1]]
    logits = model.logits(torch.stack([model.transform(read_picture(Path(f))) for f in files]))
    held = json.loads((out / "calibration.json").read_text())["thresholds"]
    scores = np.array([float(row["ood_score"]) for row in rows[:-1]])
    flags = np.array([row["unknown"] == "yes" for row in rows[:-1]])
    np.testing.assert_allclose(scores, DETECTORS[name](logits), rtol=1e-3)
    clear = ~np.isclose(scores, held[name], rtol=1e-4)
    assert ((scores < held[name]) == flags)[clear].all()
    assert clear.sum() >= len(clear) - 1
    assert flags.mean() <= 0.05 + 1 / len(flags)  # of the images that it was fitted to


def test_without_a_threshold_predict_says_how_to_get_it(strange, tmp_path, capsys):
    own = tmp_path / "own"
    shutil.copytree(strange[0], own)
    file = own / "calibration.json"
    held = json.loads(file.read_text())
    held.pop("thresholds")
    file.write_text(json.dumps(held))  # as older versions wrote it
    words = ["predict", str(own), str(strange[1] / "val")]
    assert main(words) == 0
    assert main([*words, "--ood-score", "energy"]) == 2
    told = capsys.readouterr().err
    assert "there is no threshold of energy" in told
    assert f"gmixout calibrate {own} fits it" in told
    file.unlink()
    assert main([*words, "--ood-score", "energy"]) == 2
    assert main([*words, "--ood-score", "entropy"]) == 2
    assert "max_softmax, max_logit, energy" in capsys.readouterr().err


def test_all_images_of_another_folder_are_tested(run, photos, tmp_path, capsys, monkeypatch):
    # the run's own data, moved: known by its digest, scored on its test sets
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    # the pretrained model is gone, and needed there
    with pytest.raises(DataError, match="foundation"):
        bench.evaluate(run, data_root=moved)
    # plain folders of classes: every image, whatever a training would have held out
    add_images(tmp_path / "plain", CLASSES, 9, 4)
    found = bench.evaluate(run, data_root=tmp_path / "plain")
    told = capsys.readouterr()
    assert found.keys() == {"all"}
    assert " 18 " in told.out
    assert "is not the data of the run: all of its images are tested" in " ".join(told.err.split())
    files = sorted((tmp_path / "plain").glob("*/*.jpg"))
    answers = gmixout.load(run).predict(files, top_k=1)
    right = [top[0][0] == file.parent.name for file, top in zip(files, answers, strict=True)]
    assert found["all"] == sum(right) / 18
    # a part of the own data is other data, too
    shutil.rmtree(moved / "test" / CLASSES[0])
    assert bench.evaluate(run, data_root=moved).keys() == {"train", "val", "test"}
    # the same from a table of files and labels
    table = tmp_path / "plain" / "labels.csv"
    with table.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", "label"])
        writer.writerows([file.relative_to(table.parent), file.parent.name] for file in files)
    again = bench.evaluate(run, benchmark=SOURCES["csv"](table))
    assert again == found


KINDS = {"open_clip": clip_folder, "hf clip": hf_clip}


@pytest.mark.parametrize("kind", KINDS)
def test_forgetting_is_accuracy_on_other_classes_before_and_after(kind, tmp_path, capsys):
    foundation = tmp_path / "foundation"
    foundation.mkdir()
    run = saved(tmp_path / "run", str(KINDS[kind](foundation)))
    (run / "config.yaml").write_text("")
    others = ["dog", "elephant", "clock"]
    known = CLASSES[0].upper()
    add_images(tmp_path / "zoo", [*others, known], 20, 5, coarse=True)
    found = bench.evaluate(run, other_classes=tmp_path / "zoo")
    told = " ".join(capsys.readouterr().out.split())
    assert "other classes" in told
    assert found["before"] != found["after"]  # or the test could not tell them apart
    assert f"zoo 3 60 {found['before']:.4f} {found['after']:.4f}" in told
    # before: the zero-shot model of these classes, as the library's own loader makes it
    start = gmixout.models.load_pretrained(str(foundation), sorted(others), "zero_shot")
    files = sorted((tmp_path / "zoo").glob("*/*.jpg"))
    files = [file for file in files if file.parent.name in others]
    images = torch.stack([start.transform(Image.open(f).convert("RGB")) for f in files])
    labels = [sorted(others).index(file.parent.name) for file in files]
    finetuned_tower = gmixout.load(run).model.visual.state_dict()
    for name in ("before", "after"):
        with torch.inference_mode():
            taken = start.model.eval()(images).argmax(1).tolist()
        hits = sum(t == label for t, label in zip(taken, labels, strict=True))
        assert found[name] == hits / 60
        start.model.visual.load_state_dict(finetuned_tower)
    held = json.loads((run / "other_classes.json").read_text())
    assert held["measured"][0]["images"] == 60
    add_images(tmp_path / "few", [*CLASSES, "dog"], 2, 6)
    with pytest.raises(DataError, match="finetuning did not see"):
        bench.evaluate(run, other_classes=tmp_path / "few")
    table = tmp_path / "several.csv"
    table.write_text("file,labels\nzoo/dog/0.jpg,dog|far\nzoo/clock/0.jpg,far\n")
    with pytest.raises(ConfigError, match=r"needs one class an image, and several\.csv is multi"):
        bench.evaluate(run, other_classes=table)
    shutil.rmtree(foundation)
    with pytest.raises(Exception, match="--pretrained FAMILY:NAME@FILE"):
        bench.evaluate(run, other_classes=tmp_path / "zoo")


def test_a_model_without_text_tower_forgets_nothing_that_could_be_measured(run, tmp_path):
    add_images(tmp_path / "zoo", ["dog", "cat"], 2, 5)
    with pytest.raises(ConfigError, match="needs a model with a text tower"):
        bench.evaluate(run, other_classes=tmp_path / "zoo")
    with pytest.raises(ConfigError, match="leave out --benchmark, --data-root"):
        bench.evaluate(run, data_root=tmp_path, other_classes=tmp_path / "zoo")
    with pytest.raises(ConfigError, match="goes with --other-classes"):
        bench.evaluate(run, pretrained="x")
