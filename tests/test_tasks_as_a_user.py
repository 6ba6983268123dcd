"""Tables of several labels and of numbers, from the command line to predictions and a report."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_foundations import timm_folder

import gmixout
from gmixout.bench.tracked import tracked_scores
from gmixout.cli import main
from gmixout.errors import ConfigError, StateError
from gmixout.reports.run_facts import measured
from gmixout.results import RecordLog, RunFolder, Study
from gmixout.results.predictions import load_predictions
from gmixout.results.record import Record

FEW = ["--recipe", "none", "--steps", "4", "--batch-size", "8", "--method", "full"]
COLUMNS = {
    "labels": ("labels", 'red, "soil"|grün', "grün", ""),
    "value": ("value", "-1250.5", "0", "3e3"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images, and a table for each kind of target; a quarter is a shift."""
    root = tmp_path_factory.mktemp("photos")
    draws = np.random.default_rng(0)
    rows = []
    for number in range(96):
        pixels = draws.integers(0, 40, (24, 30, 3))
        target = number % 3
        pixels[..., target] += 100
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
        part = ("train", "train", "val", "test")[number // 3 % 4] if number % 4 else "fog"
        rows.append((f"{number}.png", target, part))
    for name, (column, *targets) in COLUMNS.items():
        with (root / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", column, "split"])
            writer.writerows([path, targets[n], part] for path, n, part in rows)
    (root / "broken.png").write_text("no image")
    return root


@pytest.fixture(scope="module")
def foundation(tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return f"timm:{timm_folder(tmp_path_factory.mktemp('foundation'))}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, photos, foundation):
    """A finished run of each kind."""
    out = tmp_path_factory.mktemp("runs")
    for name in COLUMNS:
        data = [str(photos / f"{name}.csv"), "--model", foundation, "--head", "linear_probe"]
        assert main(["finetune", *data, *FEW, "--out", str(out / name)]) == 0
    return out


def record_of(folder: Path) -> Record:
    (record,) = RunFolder(folder).log.read()
    return record


def test_several_labels_are_read_learned_and_reported(runs, photos):
    folder = runs / "labels"
    record = record_of(folder)
    assert record.benchmark.metric == "mean_average_precision"
    assert {each.accuracy for each in record.scores.values()} == {None}
    assert record.shifts.keys() == {"fog"}
    assert record.id > 0.9, "a linear probe tells three colours apart"
    config = " ".join((folder / "config.yaml").read_text().split())
    assert "loss: class_path: binary_cross_entropy" in config
    with (folder / "split.csv").open(encoding="utf-8") as file:
        rows = {row["path"]: row["labels"] for row in csv.DictReader(file)}
    assert {*rows.values()} == {'grün|red, "soil"', "grün", ""}
    report = (folder / "report.md").read_text()
    assert "ID mAP %" in report
    assert "accuracy %" not in report.lower()
    page = (folder / "report.html").read_text()
    assert "MAP in domain and under shift" in page


def test_numbers_are_read_learned_and_reported_with_lower_as_better(runs):
    folder = runs / "value"
    record = record_of(folder)
    assert record.benchmark.metric == "mae"
    (score,) = {each.nll for each in record.scores.values()}
    assert score is None
    # in the units of the table: a model of the mean alone is wrong by 1600 on average
    assert 0 < record.id < 1600
    assert record.of("r2")["id_test"] > 0
    report = (folder / "report.md").read_text()
    assert "ID MAE \N{DOWNWARDS ARROW}" in report
    assert f"{record.id:.4g}" in report
    page = (folder / "report.html").read_text()
    assert "down and to the left, the better" in page
    assert not RunFolder(folder).calibration.exists()


@pytest.mark.parametrize("name", COLUMNS)
def test_a_loaded_model_says_what_the_command_writes(name, runs, photos, tmp_path, capsys):
    files = [str(photos / f"{number}.png") for number in range(6)]
    model = gmixout.load(runs / name)
    expected = model.predict(files)
    words = ["predict", str(runs / name), *files, str(photos / "broken.png")]
    for kind in ("csv", "jsonl", "parquet"):
        assert main([*words, "--out", str(tmp_path / f"p.{kind}")]) == 0
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        *rows, broken = csv.DictReader(file)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert broken["status"] == lines[-1]["status"] == "error"
    assert broken["error"] == lines[-1]["error"]
    assert [row["status"] for row in rows] == ["ok"] * 6
    if name == "labels":
        assert expected.shape == (6, 2)
        for row, line, share in zip(rows, lines, expected.tolist(), strict=False):
            chosen = {c for c, p in zip(model.classes, share, strict=True) if p >= 0.5}
            assert {*filter(None, row["labels"].split("|"))} == {*line["labels"]} == chosen
            assert float(row["probability_1"]) == pytest.approx(max(share), rel=1e-5)
        capsys.readouterr()
        assert main([*words, "--threshold", "0"]) == 0
        told = capsys.readouterr().out.splitlines()
        assert {line.split("\t")[1].count("|") for line in told[:6]} == {1}
        assert model.predict(files, top_k=1)[0][0][0] in model.classes
    else:
        assert expected.shape == (6, 1)
        found = [float(row["predicted_value"]) for row in rows]
        assert found == pytest.approx(expected[:, 0].tolist(), rel=1e-5)
        assert [line["predicted_value"] for line in lines[:6]] == found
        assert "class_1" not in rows[0]
        assert main([*words, "--threshold", "0.5"]) == 2
        assert "this model predicts numbers" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="top_k=1 is for classes"):
            model.predict(files, top_k=1)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_run_is_evaluated_again_to_the_last_digit(name, runs, photos, capsys):
    assert main(["evaluate", str(runs / name)]) == 0
    assert "Equal to the recorded values" in capsys.readouterr().out
    own = ["--benchmark", "csv", "--data-root", str(photos / f"{name}.csv")]
    assert main(["evaluate", str(runs / name), *own]) == 0
    other = next(each for each in COLUMNS if each != name)
    own = ["--benchmark", "csv", "--data-root", str(photos / f"{other}.csv")]
    assert main(["evaluate", str(runs / name), *own]) == 2
    assert "and the model's task is" in capsys.readouterr().err


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("form", ["torch_export", "delta"])
def test_an_export_knows_the_task(name, form, runs, photos, tmp_path):
    suffix = {"torch_export": ".pt2", "delta": ".safetensors"}[form]
    out = tmp_path / f"model{suffix}"
    assert main(["export", str(runs / name), "--to", form, "--out", str(out)]) == 0
    card = out.with_suffix(".md").read_text()
    model = gmixout.load(runs / name)
    assert f"Task: {model.task.name}" in card
    assert "accuracy" not in card
    files = [str(photos / "0.png"), str(photos / "1.png")]
    if form == "delta":
        again = gmixout.load(out)
        assert again.task == model.task
        assert torch.equal(again.predict(files), model.predict(files))
    else:
        program = torch.export.load(out).module()
        images = torch.stack([model.transform(Image.open(file).convert("RGB")) for file in files])
        _, answers = program(images)
        torch.testing.assert_close(answers.float(), model.predict(files), rtol=1e-4, atol=1e-4)


def test_probabilities_of_several_labels_are_calibrated_and_numbers_are_not(runs, capsys):
    assert main(["calibrate", str(runs / "labels")]) == 0
    assert "temperature" in capsys.readouterr().out
    assert main(["calibrate", str(runs / "value")]) == 2
    assert "predicts numbers of an image" in capsys.readouterr().err


@pytest.mark.parametrize("name", COLUMNS)
def test_the_page_of_a_run_has_its_metrics_and_nothing_about_classes(name, runs):
    own = RunFolder(runs / name)
    html = own.run_page.read_text(encoding="utf-8")
    record, found = record_of(own.path), load_predictions(own.predictions)
    assert found.sets == {}
    assert found.start == ""
    assert found.temperature == gmixout.load(own.path).temperature
    headings = [each.title for each in measured(record)]
    expected = {"labels": ["mAP (%)", "macro F1 (%)", "micro F1 (%)", "NLL", "ECE (%)"],
                "value": ["MAE", "RMSE", "R2"]}  # fmt: skip
    assert headings == expected[name]
    assert all(f"<th>{title}</th>" in html for title in headings)
    scores = record.of(record.benchmark.metric)
    shown = {n: f"{100 * v:.2f}" if name == "labels" else f"{v:.4g}" for n, v in scores.items()}
    assert all(f"<td>{value}</td>" in html for value in shown.values())
    assert ("lower is better" in html) == (name == "value")
    assert "accuracy" not in html.partition("<h2>Cost</h2>")[0].lower()
    assert not {"nan", "None"} & {
        *re.findall(r"\w+", re.sub("<style>.*</style>", "", html, flags=re.S))
    }
    for section in ("classes", "confusions", "mistakes", "calibration"):
        assert f'<section id="{section}"' not in html
    assert '<section id="cost">' in html


@pytest.mark.parametrize("name", COLUMNS)
def test_predictions_of_an_older_run_are_made_up_for(name, runs, tmp_path):
    folder = RunFolder(shutil.copytree(runs / name, tmp_path / name))
    folder.predictions.unlink()
    folder.run_page.unlink()
    assert main(["evaluate", str(folder.path)]) == 0
    assert main(["report", str(folder.path)]) == 0
    assert folder.run_page.read_text() == RunFolder(runs / name).run_page.read_text()


@pytest.mark.parametrize("name", COLUMNS)
def test_scores_of_known_classes_are_for_one_class_an_image(name, runs, photos, tmp_path, capsys):
    words = ["predict", str(runs / name), str(photos / "0.png"), "--out", str(tmp_path / "p.csv")]
    assert main([*words, "--ood-score", "energy"]) == 2
    said = capsys.readouterr().err
    assert "ood_score=energy is for models of one class an image" in " ".join(said.split())
    refused = ["--threshold", "0.5" if name == "value" else "2"]
    assert main([*words, *refused]) == 2
    assert not (tmp_path / "p.csv").exists(), "checked before the file is opened"
    calibration = RunFolder(runs / name).calibration
    if name == "labels":
        assert json.loads(calibration.read_text())["thresholds"] == {}


def test_a_config_file_names_the_loss_of_the_task(photos, foundation, tmp_path):
    out = tmp_path / "own.yaml"
    words = [str(photos / "value.csv"), "--model", foundation, "--out", str(out)]
    assert main(["init", *words]) == 0
    lines = out.read_text().splitlines()
    assert [line for line in lines if re.match("#?loss:", line)] == [
        "loss: mse  # ours, the data is regression (numbers of an image)"
    ]
    run = ["finetune", "--config", str(out), "--steps", "1", "--out", str(tmp_path / "x")]
    assert main(run) == 0
    assert record_of(tmp_path / "x").benchmark.metric == "mae"


def test_trackers_get_what_was_measured(runs):
    values = tracked_scores(record_of(runs / "value"))
    assert {name.partition("/")[2] for name in values} == {"mae", "rmse", "r2"}
    values = tracked_scores(record_of(runs / "labels"))
    assert "id_test/mean_average_precision" in values
    assert "id_test/accuracy" not in values


REFUSED = {
    "labels --head zero_shot": "nothing of each by itself",
    "labels --loss cross_entropy": "use --loss binary_cross_entropy",
    "labels --label-smoothing 0.1": "it is an option of cross-entropy",
    "labels --logit-adjustment 1": "it is an option of cross-entropy",
    "labels --batches even_classes": "one class for each image",
    "labels --method full+teacher": "teacher is for single_label",
    "value --loss binary_cross_entropy": "use --loss mse or l1 or huber",
    "value --cutmix 1": "mixing is for single_label and multi_label",
    "value --method full+cutmix": "cutmix is for single_label and multi_label",
    "value --task multi": "auto or one of: single_label, multi_label, regression",
    "value --task single_label --target-columns value": "it is for task=regression",
    "value --label-columns value --target-columns value": "leave out one",
    "value --target-columns absent": "has no column absent",
    "value --target-columns split": "is 'fog', not a number",
    "labels --label-columns split": "is 'fog', neither 0 nor 1",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_has_no_meaning_is_refused_and_said(words, photos, foundation, tmp_path, capsys):
    name, *options = words.split()
    data = [str(photos / f"{name}.csv"), "--model", foundation, "--out", str(tmp_path / "x")]
    given = [*FEW[:-2], *(() if "--method" in options else FEW[-2:])]
    assert main(["finetune", *data, *given, *options]) == 2
    assert REFUSED[words] in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("words", ["labels --cutmix 1 --mixup 1", "value --mixup 0.4",
                                   "labels --method gmixout+regmixup+sam", "value --loss huber",
                                   "value --method lp_ft(probe_steps=1)"])  # fmt: skip
def test_methods_need_no_change(words, photos, foundation, tmp_path):
    name, *options = words.split()
    data = [str(photos / f"{name}.csv"), "--model", foundation, "--out", str(tmp_path)]
    given = [*FEW[:-2], *(() if "--method" in options else FEW[-2:])]
    assert main(["finetune", *data, *given, *options]) == 0
    assert record_of(tmp_path).training.loss < 10


def test_choices_of_a_comparison_take_the_lower_error(photos, foundation, tmp_path):
    """Selection, soups and the best model, each by in-domain validation."""
    data = [str(photos / "value.csv"), "--model", foundation, "--head", "linear_probe"]
    words = ["--methods", "full,greedy_soup", "--lrs", "1e-5,1e-1", "--workers", "1"]
    few = ["--recipe", "none", "--steps", "4", "--batch-size", "8", "--seeds", "0"]
    kept = ["--select", "id_validation", "--validate-every-steps", "1", "--patience", "3"]
    assert main(["compare", *data, *words, *few, *kept, "--out", str(tmp_path)]) == 0
    records = RecordLog(RunFolder(tmp_path).log.path).read()
    by_lr = {record.lr: record for record in records if record.method.name == "full"}
    assert by_lr[1e-5].id_val < by_lr[1e-1].id_val or by_lr[1e-1].training.kept_step == 1
    (soup,) = [record for record in records if record.method.name == "greedy_soup"]
    assert soup.id_val <= min(record.id_val for record in by_lr.values()) + 1e-9
    study = Study(records)
    chosen = study.selected[("full", "")]
    assert chosen.id_val == min(each.id_val for each in study.by_series[("full", "")])
    assert study.curves == []


def test_the_table_says_what_was_understood(photos, capsys):
    assert main(["data", "check", str(photos / "labels.csv"), "--no-decode"]) == 0
    told = capsys.readouterr().out
    assert "task multi_label, any number of classes an image: column labels" in told
    assert main(["data", "check", str(photos / "value.csv"), "--no-decode"]) == 0
    assert "value in train: -1250.5 to 3000, mean" in capsys.readouterr().out


def test_a_model_file_whose_task_was_changed_is_refused(runs, tmp_path):
    from gmixout.results.model_file import load_model, save_model

    state, about = load_model(runs / "value")
    spec = about["learning_task"]
    about["learning_task"] = {**spec, "init_args": {"mean": [0.0, 1.0], "std": [1.0, 1.0]}}
    save_model(RunFolder(tmp_path).model, state, about)
    with pytest.raises(StateError, match="the model's task cannot be used"):
        gmixout.load(tmp_path)


def test_a_table_that_cannot_be_learned_or_measured_is_refused_before_training(
    photos, foundation, tmp_path, capsys
):
    def said(column, cells):
        # another name each time: a process loads the data of a task once
        table = photos / f"{tmp_path.name}-{len([*photos.iterdir()])}.csv"
        rows = [f"{n}.png,{cell},{part}" for n, (cell, part) in enumerate(cells)]
        table.write_text("\n".join([f"file,{column},split", *rows]))
        words = ["finetune", str(table), "--model", foundation, "--out", str(tmp_path / "x"), *FEW]
        assert main(words) == 2
        assert not (tmp_path / "x").exists()
        return " ".join(capsys.readouterr().err.split())

    parts = ["train"] * 8 + ["val", "val", "test", "test"]
    assert "no row has a label" in said("labels", [("", part) for part in parts])
    few = [("a" if part == "train" else "", part) for part in parts]
    assert "`id_val`: no image of it has a label" in said("labels", few)
    assert "nothing to learn" in said("value", [(7, part) for part in parts])
    assert "line 2: value is 'seven', not a number" in said("value", [("seven", "train")])
    assert "line 2: value is empty" in said("value", [("", "train")])
