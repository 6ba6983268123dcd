"""A user's own data on the command line: `gmixout finetune DIR`, `gmixout data check DIR`."""

import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmixout import bench
from gmixout.bench.options import options_of, subject_of
from gmixout.bench.progress import print_notes
from gmixout.bench.task import LoadedTask
from gmixout.bench.words import Reading, split
from gmixout.cli import main
from gmixout.data import SOURCES, Inventory
from gmixout.errors import ConfigError, DataError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a folder `mine` of three uneven classes."""
    draws = np.random.default_rng(0)
    for label, count in (("cat", 40), ("dog", 12), ("eel", 3)):
        folder = tmp_path / "mine" / label
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = draws.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "mine" / "list.csv").write_text("file,label\ncat/0.png,cat\n")
    (tmp_path / "plain.yaml").write_text("benchmark: digits\n")
    (tmp_path / "own.yaml").write_text(
        "benchmark: {class_path: imagefolder, init_args: {root: x, id_val_share: 0.3}}\n"
    )
    (tmp_path / "pacs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(line):
    command, *words = line.split()
    options = options_of(getattr(bench, command))
    with ExitStack() as trust:
        return Reading(options, trust).read(split(words, subject_of(options)))


def folder(root="mine", **options):
    return SOURCES["imagefolder"](Path(root), **options)


TYPED = {
    "finetune mine": folder(),
    "finetune --benchmark mine": folder(),
    "finetune --data-root mine": folder(),
    "finetune mine --lr 1": folder(),
    "finetune mine/": folder(),
    "compare mine --methods full": folder(),
    "sweep mine": folder(),
    "finetune mine --id-val-share 0.3": folder(id_val_share=0.3),
    "finetune mine --benchmark imagefolder --layout domains": folder(layout="domains"),
    "finetune imagefolder --data-root mine": folder(),
    "finetune mine --benchmark pacs": SOURCES["pacs"](Path("mine")),
    "finetune pacs --data-root mine": SOURCES["pacs"](Path("mine")),
    "finetune mine --config own.yaml": folder(id_val_share=0.3),
    "finetune --config own.yaml --data-root mine": folder(id_val_share=0.3),
    "finetune mine --config plain.yaml": folder(),
    "finetune mine/list.csv": SOURCES["csv"](Path("mine/list.csv")),
    "finetune mine/list.csv --label-column label": SOURCES["csv"](Path("mine/list.csv")),
    "finetune imagefolder --data-root x --data-root mine": folder(),
    "finetune --data-root x --data-root mine": folder(),
    "finetune --benchmark pacs --benchmark imagefolder --data-root mine": folder(),
    "finetune digits": "digits",
    "finetune plain.yaml": "digits",
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", TYPED)
def test_a_place_is_recognized_and_a_name_is_a_name(line):
    if line == "finetune plain.yaml":  # not a spec of a data set
        with pytest.raises(ConfigError, match="does not name a data set"):
            values(line)
        return
    assert values(line)["benchmark"] == TYPED[line]


WRONG = {
    "finetune mine --data-root other": "two places of the data are given",
    "finetune mine --data-root mine --benchmark imagefolder": "two places of the data",
    "finetune mine pacs": "takes one value",
    "finetune mine --benchmark pacss": "'pacss' is none of: imagenet",
    "finetune nowhere/mine": "there is no folder or table 'nowhere/mine'",
    "finetune --data-root nowhere": "'nowhere' is not there, and --benchmark names none of",
    "finetune ./pacs": "pacs holds 0 folders with 0 images, .* --benchmark NAME, one of: imagenet",
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_place_is_refused(line):
    with pytest.raises((ConfigError, DataError), match=WRONG[line]):
        values(line)


def test_what_was_understood_is_printed(here, capsys):
    source = folder(here / "mine")
    benchmark = source.load()
    inventory = Inventory.of("mine", source.root, benchmark, benchmark.notes)
    print_notes(LoadedTask("mine [red]with[/red] a model", {}, benchmark, None, {}, (), inventory))
    told = capsys.readouterr().err
    assert f"mine [red]with[/red] a model, data at {here / 'mine'}" in told
    counts = {name: len(images) for name, images in benchmark.sets.items()}
    for name, count in counts.items():
        assert re.search(rf"^  {name} +{count}$", told, re.M)
    labels = benchmark.train.labels.tolist()
    for label, name in enumerate(benchmark.classes):
        assert re.search(rf"^  {name} +{labels.count(label)} ", told, re.M)
    for said in (
        "held out of the training images",
        "fewer than 5 images of 1 of 3 classes: eel (1)",
        "times as many; --logit-adjustment 1",
        "its accuracy changes by",
    ):
        assert said in told
    assert "1 file that is not read as an image: .csv (1)" in told


def test_data_check_looks_at_the_users_own_images(here, capsys):
    words = ["data", "check", "mine", "--out", "check.html"]
    copy = (here / "mine/cat/0.png").read_bytes()
    (here / "mine/dog/copy.png").write_bytes(copy)
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "imagefolder at mine: 3 classes" in told
    assert "equal files: 2 images in 1 group; " in told
    assert "1 group of different classes" in told
    page = (here / "check.html").read_text()
    assert "Different classes" in page
    (here / "mine/eel/torn.png").write_bytes(copy[:100])
    assert main([*words, "--overwrite"]) == 2
    assert main(words) == 2
    told = capsys.readouterr()
    assert "cannot be read: 1; eel/torn.png" in told.out
    assert "mine/eel/torn.png cannot be read as an image" in told.err
    assert "torn.png" in (here / "check.html").read_text()
    assert main(["data", "check", "mine", "--on-broken", "skip"]) == 0
    capsys.readouterr()
    assert main(["data", "check", "mine", "--no-decode"]) == 0
    assert "equal files" not in capsys.readouterr().out
    assert main([*words, "--no-decode"]) == 2
    assert "--out is a page of the images" in capsys.readouterr().err
