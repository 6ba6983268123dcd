"""Candidates for wrong labels: the rule by hand, and planted ones that are found."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_foundations import timm_folder

from gmixout.cli import main
from gmixout.data.images import ImageArray
from gmixout.errors import ConfigError
from gmixout.evaluation import label_noise
from gmixout.evaluation.label_noise import FOLDS, LEAST, off_diagonal, out_of_fold, suspects_in
from gmixout.models import Pretrained


def clusters(images=40, classes=3, seed=0):
    """Features of classes that are far apart, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(images)
    centres = 3 * torch.randn(classes, 16, generator=generator)
    return centres[labels] + torch.randn(len(labels), 16, generator=generator), labels


def test_the_rule_by_hand():
    shares = torch.tensor(
        [[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]]
    ).double()
    # thresholds: class 0 0.7, class 1 0.45, class 2 0.6
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert off_diagonal(shares, labels) == {3: 0}
    # the own class counts where it is the surest of those that reach their thresholds
    assert off_diagonal(shares[[0, 1, 2, 4]], labels[[0, 1, 2, 4]]) == {}
    shares[4] = torch.nan
    assert 4 not in off_diagonal(shares, labels)


def test_planted_labels_are_found_and_right_ones_are_not():
    features, truth = clusters()
    labels = truth.clone()
    wrong = torch.arange(0, len(labels), 17)
    labels[wrong] = (labels[wrong] + 1) % 3
    found = off_diagonal(out_of_fold(features, labels, 3), labels)
    hits = {*found} & {*wrong.tolist()}
    assert len(hits) >= 0.7 * max(len(found), len(wrong))
    assert all(found[n] == truth[n] for n in hits)


def test_no_image_is_judged_by_a_probe_that_saw_it(monkeypatch):
    features, labels = clusters(images=LEAST + 2)
    probes = []

    def fit(own, labels, classes, *rest):
        probes.append(own)
        weight = torch.full((classes, own.shape[1]), float(len(probes)), dtype=own.dtype)
        return weight, torch.zeros(classes, dtype=own.dtype)

    monkeypatch.setattr(label_noise, "fit_head", fit)
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, dim: self)
    shares = out_of_fold(features, labels, 3)
    assert len(probes) == FOLDS
    scaled = torch.cat(probes).unique(dim=0)
    assert len(scaled) == len(features)
    for row in scaled:
        seen_by = [bool((own == row).all(1).any()) for own in probes]
        assert seen_by.count(False) == 1
        # the probe that judged it, told by its weight, is the one that did not see it
        judged = shares[:, 0] / row.sum()
        assert any(abs(judged - (seen_by.index(False) + 1)) < 1e-9)


def test_classes_of_few_images_are_not_judged():
    features, labels = clusters(images=LEAST)
    labels = torch.cat([labels, torch.tensor([3] * (LEAST - 1))])
    features = torch.cat([features, features[: LEAST - 1]])
    shares = out_of_fold(features, labels, 4)
    assert shares[-1].isnan().all()
    assert not shares[: 3 * LEAST].isnan().any()
    assert (shares[: 3 * LEAST, 3] == 0).all()
    with pytest.raises(ConfigError, match="1 of 2 classes have so many: leave out --model"):
        out_of_fold(features[: LEAST + 1], labels[: LEAST + 1].clamp(max=1), 2)


def test_images_of_all_sets_are_judged_together_and_broken_ones_left_out():
    draws = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pixels = draws.integers(0, 90, (48, 8, 8, 3)).astype(np.uint8)
    pixels[labels == 1] += 90
    labels[[5, 40]] ^= 1
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    start = Pretrained(model, "1", ("dark", "light"), transform=seen)
    sets = {
        "train": ImageArray(pixels[:30], torch.tensor(labels[:30]), "train"),
        "id_val": ImageArray(pixels[30:], torch.tensor(labels[30:]), "val"),
        "id_test": ImageArray(pixels[:0], torch.tensor(labels[:0]), "test"),
    }
    done = []
    found = suspects_in(start, sets, advance=done.append)
    assert {(each.part, each.index) for each in found} == {("train", 5), ("id_val", 10)}
    assert all(each.suggested != each.label and each.share > each.own_share for each in found)
    margins = [each.own_share - each.share for each in found]
    assert margins == sorted(margins)
    assert done[-1] == 48
    less = suspects_in(start, sets, {"train": [5]})
    assert {(each.part, each.index) for each in less} == {("id_val", 10)}


def seen(picture: Image.Image) -> torch.Tensor:
    return torch.tensor(np.asarray(picture)).permute(2, 0, 1).float() / 255


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Two classes of colours in folders, with a planted label, a broken file and an odd name."""
    root = tmp_path_factory.mktemp("mine")
    draws = np.random.default_rng(0)
    for label in range(2):
        folder = root / EVIL[label]
        folder.mkdir()
        for number in range(30):
            pixels = draws.integers(0, 120, (24, 24, 3))
            planted = label == 0 and number == 7
            pixels[..., 2 * (label ^ planted)] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (root / EVIL[0] / "broken.png").write_text("x")
    return root


EVIL = ("a <b>'\"", "blü")


def test_the_command_says_and_shows_which_labels_to_look_at(mine, tmp_path, capsys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = f"timm:{timm_folder(tmp_path)}"
    page = tmp_path / "check.html"
    words = ["data", "check", str(mine), "--on-broken", "skip", "--out", str(page)]
    assert main([*words, "--model", model]) == 0
    told = capsys.readouterr().out
    assert re.search("labels to look at: [1-6] of 60 images, by a probe of the others", told)
    assert "/7.png (a <b>'\", " in told
    assert "rather blü, " in told
    text = page.read_text(encoding="utf-8")
    assert re.search("<h2>Labels to look at: [1-6]</h2>", text)
    assert "<b>'" not in text
    assert "a &lt;b&gt;" in text
    assert main(words) == 0
    assert "Labels to look at" not in page.read_text(encoding="utf-8")
    for wrong, said in (
        (["--image-size", "32"], "is for the images of --model: give one"),
        (["--model", "timm:nonesuch"], "timm has no model 'nonesuch'"),
    ):
        assert main(["data", "check", str(mine), "--on-broken", "skip", *wrong]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert main(["data", "check", str(mine), "--no-decode", "--model", model]) == 2
