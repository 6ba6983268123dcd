"""A data set of the user's and a model of any library, through the command line."""

import inspect
import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import official_trees as trees
import pytest
import torch
import yaml
from tiny_foundations import timm_folder
from torch import nn
from toy_benchmark import install

from gmixout import bench
from gmixout.bench import task as task_module
from gmixout.bench.commands.evaluate import _on_other_data
from gmixout.bench.job import Job
from gmixout.bench.task import Task
from gmixout.cli import main
from gmixout.data import SOURCES, Source
from gmixout.data.common_corruptions import CORRUPTIONS, with_corruptions
from gmixout.data.common_corruptions.constants import EXTRA_KINDS, KINDS
from gmixout.errors import ConfigError, DataError, GmixoutError
from gmixout.evaluation.official import SUMMARIES
from gmixout.loading import make_loader
from gmixout.methods import get_method
from gmixout.models import probe
from gmixout.models.pretrained import as_it_is
from gmixout.results import RecordLog
from gmixout.training import TrainingArguments
from gmixout.use.classifier import Classifier

DOMAINS = ["art_painting", "cartoon", "photo"]
CLASSES = ["dog", "elephant", "giraffe"]
MEAN = "mean_corruption_error_unnormalised"


@pytest.fixture(autouse=True)
def _nothing_loaded():
    task_module._load.cache_clear()
    yield
    task_module._load.cache_clear()


@pytest.fixture
def root(tmp_path):
    return trees.domains(tmp_path / "PACS", DOMAINS, CLASSES)


@pytest.fixture
def model(tmp_path):
    """Its classifier knows more classes than the data, in another order."""
    names = ["giraffe", "cat", "elephant", "dog", "guitar"]
    (tmp_path / "tiny").mkdir()
    return f"timm:{timm_folder(tmp_path / 'tiny', classes=5, label_names=names)}"


@pytest.fixture
def words(root, model):
    """What a user types after the command."""
    return ["--benchmark", "pacs", "--data-root", str(root), "--counts", "any", "--model", model,
            "--batch-size", "4", "--steps", "2"]  # fmt: skip


def source(root, **options):
    return SOURCES["pacs"](root, counts="any", **options)


def test_compare_and_evaluate_from_the_command_line(words, root, tmp_path, capsys):
    out = tmp_path / "runs"
    asked = ["--train-domain", "cartoon", "--methods", "zero_shot,gmixout", "--lrs", "1e-3"]
    assert main(["compare", *words, *asked, "--workers", "1", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "there is no domain sketch: left out" in " ".join(told.err.split())
    assert "the initial head is pretrained" in " ".join(told.err.split())
    page = (out / "report.html").read_text().replace(str(out), "the folder that the user named")
    assert str(tmp_path) not in page
    records = RecordLog(out / "records.jsonl").read()
    assert {record.method.name for record in records} == {"zero_shot", "gmixout"}
    assert {record.benchmark.name for record in records} == {
        "pacs(train_domain='cartoon') with timm:tiny"
    }
    assert set(records[0].of("accuracy")) == {"id_val", "id_test", "art_painting", "photo"}
    assert str(tmp_path) not in (out / "records.jsonl").read_text()  # records go to other people
    run = next(r.run for r in records if r.method.name == "gmixout")
    assert main(["evaluate", str(out / "runs" / run)]) == 0
    told = capsys.readouterr().out
    assert "Equal to the recorded values" in told
    mean = next(record.ood for record in records if record.run == run)
    assert f"Mean over 2 shifts: accuracy {mean:.4f}" in told

    # the data moved: it can be trained again there
    moved = shutil.move(root, tmp_path / "moved")
    task_module._load.cache_clear()
    with pytest.raises(DataError):
        bench.diagnose(out / "runs" / run, members=1, repeats=1)
    bench.diagnose(out / "runs" / run, members=1, repeats=1, data_root=Path(moved))
    told = " ".join(capsys.readouterr().out.split())
    assert "in its saved weights bit for bit" in told

    # a domain came that training never saw
    trees.domains(Path(moved), ["sketch"], CLASSES[1:])
    task_module._load.cache_clear()
    found = bench.evaluate(out / "runs" / run, data_root=Path(moved))
    assert "Equal to the recorded values" in capsys.readouterr().out
    record = next(r for r in records if r.run == run)
    assert {name: found[name] for name in record.of("accuracy")} == record.of("accuracy")
    assert found.keys() - record.of("accuracy").keys() == {"sketch"}

    # a folder of that domain alone
    alone = trees.domains(tmp_path / "alone", ["sketch"], CLASSES[1:])
    assert bench.evaluate(out / "runs" / run, data_root=alone) == {"sketch": found["sketch"]}


def test_leave_one_domain_out_is_a_folder_a_domain_and_one_report(
    words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("gmixout.reports.figure.save_figure", lambda draw, path: path)
    asked = ["--methods", "full,zero_shot", "--lrs", "1e-3", "--workers", "1"]
    folders, ood = [], []
    for domain in DOMAINS:
        out = tmp_path / domain
        assert main(["compare", *words, *asked, "--test-domain", domain, "--out", str(out)]) == 0
        records = RecordLog(out / "records.jsonl").read()
        name = f"pacs(test_domain={domain!r}) with timm:tiny"
        assert {record.benchmark.name for record in records} == {name}
        assert {tuple(record.of("accuracy")) for record in records} == {
            ("id_val", "id_test", domain)
        }
        held = yaml.safe_load((out / "config.yaml").read_text())["benchmark"]["init_args"]
        assert (held["test_domain"], held["train_domains"]) == (domain, [])
        others = ", ".join(each for each in DOMAINS if each != domain)
        page = (out / "report.html").read_text()
        assert f"trained and validated on each of: {others}" in page
        assert f"pacs(test_domain=&#39;{domain}&#39;)" in page
        folders.append(str(out))
        ood.append(next(record.ood for record in records if record.method.name == "full"))
    capsys.readouterr()
    assert main(["report", *folders, "--out", str(tmp_path / "all")]) == 0
    together = (tmp_path / "all" / "report.md").read_text()
    assert "3 benchmarks: " in together
    (row,) = re.findall(r"^\| full finetuning \| .*$", together, re.M)[:1]
    assert row.split("|")[3].strip() == f"{100 * sum(ood) / 3:.1f}"
    assert len(list((tmp_path / "all").glob("*/report.html"))) == 3
    # what trained on all but one is evaluated on that one alone
    run = next(r.run for r in records if r.method.name == "full")
    assert main(["evaluate", str(tmp_path / DOMAINS[-1] / "runs" / run)]) == 0
    assert "Equal to the recorded values" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_report")
def test_several_training_domains_from_the_command_line(words, tmp_path):
    asked = ["--methods", "full", "--lrs", "1e-3", "--workers", "1", "--out", str(tmp_path / "x")]
    assert main(["compare", *words, *asked, "--train-domains", "photo,cartoon"]) == 0
    (record,) = RecordLog(tmp_path / "x" / "records.jsonl").read()
    assert record.benchmark.name == "pacs(train_domains=('cartoon', 'photo')) with timm:tiny"
    assert set(record.of("accuracy")) == {"id_val", "id_test", "art_painting"}
    # the run's own file says the same
    again = ["compare", "--config", str(tmp_path / "x" / "config.yaml"), "--workers", "1"]
    assert main([*again, "--out", str(tmp_path / "y")]) == 0
    (other,) = RecordLog(tmp_path / "y" / "records.jsonl").read()
    assert (other.run, other.of("accuracy")) == (record.run, record.of("accuracy"))


@pytest.mark.usefixtures("_no_report")
def test_a_run_whose_data_and_model_moved_goes_on_and_one_whose_data_changed_does_not(
    words, root, model, tmp_path, capsys
):
    out = tmp_path / "run"

    def finetune(root, model):
        place = {str(root): "--data-root", model: "--model"}
        asked = [*words, *(word for value, name in place.items() for word in (name, value))]
        task_module._load.cache_clear()
        return main(["finetune", *asked, "--out", str(out), "--resume"])

    assert main(["finetune", *words, "--out", str(out)]) == 0
    records = (out / "records.jsonl").read_bytes()
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.move(root, tmp_path / "elsewhere" / "data"))
    moved_model = "timm:" + shutil.move(model.removeprefix("timm:"), tmp_path / "elsewhere")
    capsys.readouterr()
    assert finetune(moved, moved_model) == 0
    assert "nothing was trained" in " ".join(capsys.readouterr().err.split())
    assert yaml.safe_load((out / "config.yaml").read_text())["model"] == moved_model
    (moved / "photo" / "dog" / "dog_0.jpg").unlink()
    assert finetune(moved, moved_model) == 2
    assert "holds another run: images.train (" in capsys.readouterr().err
    assert (out / "records.jsonl").read_bytes() == records


@pytest.mark.usefixtures("_no_report")
def test_finetune_takes_a_data_set_and_a_config_file_does(words, tmp_path):
    out = tmp_path / "run"
    assert main(["finetune", *words, "--half", "second", "--out", str(out)]) == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["benchmark"]["init_args"]["half"] == "second"
    again = tmp_path / "again"
    assert main(["finetune", "--config", str(out / "config.yaml"), "--out", str(again)]) == 0
    first, second = (RecordLog(folder / "records.jsonl").read()[0] for folder in (out, again))
    assert (first.run, first.of("accuracy")) == (second.run, second.of("accuracy"))


def test_labels_of_other_data_are_those_of_the_models_classes(tmp_path):
    there = source(trees.domains(tmp_path / "there", ["sketch"], ["giraffe", "dog"]))
    classifier = Classifier(nn.Identity(), ("giraffe", "elephant", "dog"), as_it_is)
    _, tests = _on_other_data(classifier, there)
    images = tests.shifts["sketch"]
    names = [images.path(index).parent.name for index in range(len(images))]
    assert [tests.classes[label] for label in images.labels] == names


def test_classes_that_a_model_does_not_know_are_refused(tmp_path):
    there = source(trees.domains(tmp_path / "there", ["sketch"], ["giraffe", "whale"]))
    with pytest.raises(DataError, match="does not know: whale; it knows: giraffe, dog"):
        _on_other_data(Classifier(nn.Identity(), ("giraffe", "dog"), as_it_is), there)


def test_a_run_is_known_by_its_data_and_model_and_not_by_their_folders(root, model, tmp_path):
    def run(root, model, **options):
        task = Task(source(root, **options), model)
        return Job(task, get_method("full"), TrainingArguments()).run

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root, elsewhere)
    copied = tmp_path / "copy"
    shutil.copytree(model.removeprefix("timm:"), copied / "tiny")
    first = run(root, model)
    assert run(elsewhere, f"timm:{copied / 'tiny'}") == first
    assert run(root, model, train_domain="cartoon") != first
    assert run(root, model, half="first") != first
    (elsewhere / "photo" / "dog" / "dog_0.jpg").unlink()
    assert run(elsewhere, model) != first
    file = copied / "tiny" / "config.json"
    config = json.loads(file.read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.1, 0.1]
    file.write_text(json.dumps(config))
    task_module._load.cache_clear()
    assert run(root, f"timm:{copied / 'tiny'}") != first
    other = timm_folder(copied, classes=5, label_names=["giraffe", "cat", "elephant", "dog", "x"])
    assert run(root, f"timm:{other}") != first


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": "timm:x", "head": "random"},
        {"corruptions": "common"},
        {"model": "efficientnet_lite0", "image_size": 96},
    ],
)
def test_a_task_is_spelled_in_plain_values_and_back(options, root):
    task = Task(source(root, train_domain="cartoon", half="second"), **options)
    assert Task.of(json.loads(json.dumps(task.plain()))) == task
    assert Task.of({"benchmark": "digits", "other": 1}) == Task()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Task("pacs"), "needs a folder: --data-root DIR"),
        (
            lambda: Task("digits", model="timm:x"),
            "includes its own model and shifts: leave out --model",
        ),
        (lambda: Task("digits", corruptions="common"), "leave out --corruptions"),
        (lambda: Task("digits", image_size=96), "leave out --image-size"),
        (lambda: Task("digits", image_size=0), "image_size=0 must be a number of pixels"),
        (lambda: Task("digits", corruption_share=0.5), "goes with --corruptions common"),
        (lambda: Task("digits", corruptions="common", corruption_share=0.0), r"in \(0, 1\]"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        wrong()


def test_the_home_made_model_is_taken_from_the_cache_or_asked_for(
    root, model, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    task = Task(source(root))
    with pytest.raises(ConfigError, match=r"needs a model, .*benchmarks/pacs/pretrain.py cnn"):
        task.load()
    place = tmp_path / "cache" / "gmixout" / "pacs-foundation" / "cnn"
    shutil.copytree(model.removeprefix("timm:"), place)
    # it was pretrained on the first half of every domain
    assert task.load().name == "pacs(train_domain='photo', half='second') with timm:cnn"
    assert Task.of(task.plain()) == task
    with pytest.raises(ConfigError, match="half=first: the default model of pacs"):
        Task(source(root, half="first"))
    with pytest.raises(ConfigError, match=r"needs a model, e\.g\. --model") as error:
        Task(SOURCES["imagefolder"](trees.imagefolder(tmp_path / "own"))).load()
    assert "pretrain.py" not in str(error.value)


def test_another_image_size_is_another_run_and_shown(root, model):
    own = Task(source(root), model).load()
    assert own.pretrained.size == (32, 32)
    other = Task(source(root), model, image_size=16).load()
    assert other.benchmark.id_test[0][0].shape == (3, 16, 16)
    assert other.identity != own.identity
    assert other.name == f"{own.name}, image_size=16"
    assert other.parts == {**own.parts, "image_size": 16}


@pytest.mark.parametrize("head", [None, "random", "linear_probe"])
def test_heads(head, root, model):
    loaded = Task(source(root), model, head).load()
    assert f"the initial head is {head or 'pretrained'}" in loaded.notes
    pictures = torch.stack([loaded.benchmark.id_test[index][0] for index in range(3)])
    assert loaded.pretrained.model(pictures).shape == (3, 3)


def test_images_of_a_linear_probe_are_loaded_by_processes_of_their_own(root, model, monkeypatch):
    asked = []

    def counting(dataset, device, num_workers, **batching):
        asked.append(num_workers)
        return make_loader(dataset, device, 0, **batching)

    monkeypatch.setattr(probe, "make_loader", counting)
    task = Task(source(root), model, "linear_probe", num_workers=3)
    task.load()
    assert asked == [3]
    assert task == Task(source(root), model, "linear_probe")  # the same, however it is loaded
    for command, workers in ((bench.finetune, 2), (bench.compare, 1)):
        task_module._load.cache_clear()
        with pytest.raises(ConfigError, match="batch_size"):
            command(source(root), model, "linear_probe", num_workers=workers, batch_size=9999)
    assert asked == [3, 2, 1]


def test_every_copy_has_a_model_of_its_own(root, model):
    loaded = Task(source(root), model).load()
    with torch.no_grad():
        for parameter in (changed := loaded.pretrained.copy().model).parameters():
            parameter.zero_()
    assert any(bool(parameter.any()) for parameter in loaded.pretrained.copy().model.parameters())
    assert not any(bool(parameter.any()) for parameter in changed.parameters())


def test_corruptions_beside_shifts_are_one_group_of_them(root):
    splits = source(root).load()
    corrupted = with_corruptions(splits, "common")
    own = {name for name in corrupted.shifts if not name.startswith("corrupted/")}
    assert own == set(splits.shifts)
    assert len(corrupted.shifts) - len(own) == 5 * len(KINDS)
    for images in corrupted.shifts.values():
        assert len(images) > 0
    clean = splits.id_test.picture(0)
    noisy = corrupted.shifts["corrupted/gaussian_noise-5"].picture(0)
    assert noisy.size == clean.size
    assert noisy.tobytes() != clean.tobytes()
    assert len(corrupted.notes) > len(splits.notes)


def test_evaluate_gives_the_figure_over_corruptions(model, tmp_path, capsys):
    trees.cifar10(tmp_path / "data", CORRUPTIONS)
    source = SOURCES["cifar10"](tmp_path / "data", counts="any", shifts=("c",), extra=True)
    out = tmp_path / "run"
    bench.finetune(source, model, method=get_method("zero_shot"), out=out, steps=1, batch_size=2)
    (record,) = RecordLog(out / "records.jsonl").read()
    found = bench.evaluate(out)
    told = capsys.readouterr().out
    assert f"mean corruption error {100 * record.summary[MEAN]:.2f}: over 15 kinds" in told
    assert {name for name in found if name.startswith("dev/")} == {
        f"dev/{kind}/{severity}" for kind in EXTRA_KINDS for severity in range(1, 6)
    }
    assert not any(name.startswith("dev/") for name in record.of("accuracy"))


@pytest.mark.parametrize(
    ("asked", "kinds", "summary"),
    [
        ("none", set(), None),
        ("common", set(KINDS), MEAN),
        ("extra", set(EXTRA_KINDS), None),
        ("all", {*KINDS, *EXTRA_KINDS}, MEAN),
    ],
)
def test_corruptions_alone_are_named_as_published_with_their_mean(
    asked, kinds, summary, model, tmp_path
):
    trees.cifar10(tmp_path, CORRUPTIONS)
    source = SOURCES["cifar10"](tmp_path, counts="any", shifts=())
    corrupted = Task(source, model, corruptions=asked).load().benchmark
    assert {name.split("/")[0] for name in corrupted.shifts} == kinds
    assert len(corrupted.shifts) == 5 * len(kinds)
    assert corrupted.summary == summary


def test_imagenets_corruption_error_is_divided_by_alexnets():
    assert SOURCES["imagenet_lt"].corruption_summary == "mce_alexnet"
    assert SOURCES["pacs"].corruption_summary in SUMMARIES


def test_a_share_of_the_test_images_is_corrupted(root):
    splits = source(root).load()
    corrupted = with_corruptions(splits, "common", share=0.5)
    chosen = corrupted.shifts["corrupted/fog-1"]
    assert 0 < len(chosen) < len(splits.id_test)
    assert len(corrupted.id_test) == len(splits.id_test)
    count = len(splits.classes)
    halves, whole = (images.labels.bincount(minlength=count) for images in (chosen, splits.id_test))
    assert (2 * halves - whole).abs().max() <= 1  # of every class
    assert f"{len(chosen)} of {len(splits.id_test)} test images are corrupted" in corrupted.notes
    with pytest.raises(ConfigError, match="leaves no image"):
        with_corruptions(splits, "common", share=1e-6)


def test_pictures_are_decoded_once_where_they_fit_in_memory(root, model, monkeypatch):
    from gmixout.data.images import ImageFiles

    decoded, decode = [], ImageFiles._decode
    monkeypatch.setattr(
        ImageFiles, "_decode", lambda self, at: decoded.append(at) or decode(self, at)
    )
    loaded = Task(source(root), model).load()
    first, second = ([image for image, _ in loaded.benchmark.id_test] for _ in range(2))
    assert len(decoded) == len(loaded.benchmark.id_test)
    assert all(map(torch.equal, first, second))
    monkeypatch.setattr(task_module, "IN_MEMORY_BYTES", 0)
    task_module._load.cache_clear()
    loaded = Task(source(root), model).load()
    assert all(map(torch.equal, first, [image for image, _ in loaded.benchmark.id_test]))
    assert loaded.benchmark.id_test._kept is None


@pytest.mark.parametrize("name", SOURCES)
def test_no_option_of_a_data_set_has_the_name_of_another_setting(name):
    """The command line takes them without a prefix."""
    training = {field.name for field in fields(TrainingArguments)}
    commands = (bench.compare, bench.finetune, bench.sweep, bench.evaluate)
    others = training.union(*(inspect.signature(command).parameters for command in commands))
    own = set(inspect.signature(SOURCES[name]).parameters)
    assert issubclass(SOURCES[name], Source)
    assert not own & (others - {"root"})


def test_a_benchmark_without_a_folder_is_one_line_on_the_command_line(capsys):
    assert main(["compare", "--benchmark", "pacs"]) == 2
    told = capsys.readouterr().err
    assert "--data-root DIR" in told
    assert "Traceback" not in told


@pytest.mark.usefixtures("_no_report")
def test_data_of_a_benchmark_that_brings_its_own_are_not_exchanged(tmp_path, monkeypatch):
    install(monkeypatch)
    bench.finetune(benchmark="toy", out=tmp_path, steps=1, batch_size=4)
    with pytest.raises(GmixoutError, match="includes its data"):
        bench.evaluate(tmp_path, data_root=tmp_path)
    with pytest.raises(GmixoutError, match="includes its data"):
        bench.diagnose(tmp_path, data_root=tmp_path)


def test_the_head_and_corruptions_are_part_of_the_name(root, model):
    names = {
        Task(source(root), model, head, corruptions).load().name.partition("tiny")[2]
        for head, corruptions in ((None, "none"), ("random", "none"), (None, "common"))
    }
    assert names == {"", ", head=random", ", corruptions=common"}


def test_the_same_head_by_another_word_is_the_same_run(root, tmp_path):
    plain = f"timm:{timm_folder(tmp_path)}"  # its classifier knows none of the classes
    default, random = (Task(source(root), plain, head).load() for head in (None, "random"))
    assert default.identity == random.identity


@pytest.mark.usefixtures("_no_report")
def test_tasks_train_in_worker_processes(words, tmp_path):
    """One run, as every process of those that two may work in imports all libraries anew."""
    out = tmp_path / "runs"
    asked = ["--methods", "full,uniform_soup", "--lrs", "1e-3", "--workers", "2"]
    assert main(["compare", *words, *asked, "--out", str(out)]) == 0
    methods = [record.method.name for record in RecordLog(out / "records.jsonl").read()]
    assert methods == ["full", "uniform_soup"]


def test_what_concerns_every_run_leaves_none_out(words, tmp_path):
    out = str(tmp_path / "runs")
    assert main(["compare", *words, "--batch-size", "9999", "--methods", "all", "--out", out]) == 2


@pytest.mark.usefixtures("_no_report")
def test_a_classes_absence_and_soft_targets_do_not_go_with_logit_adjustment(
    words, tmp_path, capsys
):
    for name in ("photo", "cartoon", "art_painting"):
        trees.class_folders(tmp_path / "PACS" / name, ["zebra"] if name == "cartoon" else [], 4, 9)
    asked = ["--logit-adjustment", "1", "--label-smoothing", "0.1", "--out", str(tmp_path / "runs")]
    assert main(["finetune", *words, *asked]) == 2
    assert "class zebra has no training image" in capsys.readouterr().err
    assert main(["finetune", *words, *asked[:2], *asked[4:]]) == 0
