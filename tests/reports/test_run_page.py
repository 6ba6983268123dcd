"""The page of a single run says what its predictions say, and is safe to open and small."""

import io
import math
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from records import EXAMPLE
from scipy.stats import binomtest

from gmixout.evaluation.detection import Detection
from gmixout.evaluation.metrics import score
from gmixout.reports.run_facts import (
    Proportion,
    class_rows,
    confusions,
    mean_change,
    reliability,
    set_rows,
)
from gmixout.reports.run_page import run_page
from gmixout.reports.thumbnails import thumbnail_in, thumbnail_of
from gmixout.results.other_classes import OtherClasses
from gmixout.results.predictions import Mistake, RunPredictions, SetPredictions

SETS = ("id_val", "id_test", "fonts", "noise/1", "noise/2")
EVIL = '<script>alert("1")</script>'


def random_logits(count, classes, seed):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=draw)
    logits = torch.randn(count, classes, generator=draw)
    return logits.scatter_add(1, labels[:, None], torch.full((count, 1), 2.0)), labels


def predictions_of(logits, labels, start=True, **more):
    confidence = logits.softmax(1).amax(1)
    calibrated = (logits / 1.7).softmax(1).amax(1)
    before = logits.roll(1, 0).argmax(1).int() if start else None
    predicted = logits.argmax(1).int()
    return SetPredictions(labels.int(), predicted, confidence, calibrated, before, **more)


def a_run(classes=3, count=60, start=True, names=None, mistakes=()):
    names = names or tuple(f"class {n}" for n in range(classes))
    sets, scores = {}, {}
    for seed, name in enumerate(SETS):
        logits, labels = random_logits(count, classes, seed)
        scores[name] = score(logits, labels)
        sets[name] = predictions_of(logits, labels, start, mistakes=tuple(mistakes))
    record = replace(EXAMPLE, scores=scores)
    made = "zero_shot" if start else ""
    return record, RunPredictions("0" * 64, 1.7, names, made, sets)


def jpeg(size=(60, 40)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return thumbnail_of(Image.fromarray(pixels))


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilsons_interval_holds_the_share_and_stays_a_share(hits, n):
    each = Proportion(min(hits, n), n)
    low, high = each.interval
    assert 0 <= low <= each.share <= high <= 1
    assert high - low > 0
    expected = binomtest(each.hits, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert math.isnan(Proportion(0, 0).share)


def test_accuracy_of_sets_and_classes_is_counted():
    record, found = a_run()
    rows = set_rows(record, found)
    for row in rows:
        each = found.sets[row.name]
        assert row.after.share == record.scores[row.name].accuracy == float(each.right.sum()) / 60
        assert row.before.share == float((each.start == each.labels).sum()) / 60
        assert row.change == row.after.share - row.before.share
    before, after = mean_change(rows)
    assert after == pytest.approx(record.ood)
    assert before == pytest.approx(
        (rows[2].before.share + (rows[3].before.share + rows[4].before.share) / 2) / 2
    )
    classes = class_rows(found)
    assert sorted(row.name for row in classes) == sorted(found.classes)
    assert [row.worst for row in classes] == sorted(row.worst for row in classes)
    for row in classes:
        label = found.classes.index(row.name)
        own = found.sets["id_test"]
        inside = own.labels == label
        assert (row.id_test.hits, row.id_test.n) == (own.right[inside].sum(), inside.sum())
        shifted = [found.sets[name] for name in SETS[2:]]
        assert row.shifted.n == sum(int((each.labels == label).sum()) for each in shifted)
        hits = (int(each.right[each.labels == label].sum()) for each in shifted)
        assert row.shifted.hits == sum(hits)


@pytest.mark.parametrize("classes", [2, 3, 30, 1000])
def test_confusions_are_counted(classes):
    _, found = a_run(classes, count=200)
    own, shifted = confusions(found)
    each = found.sets["id_test"]
    pairs = Counter(zip(each.labels.tolist(), each.predicted.tolist(), strict=True))
    wrong = {pair: count for pair, count in pairs.items() if pair[0] != pair[1]}
    assert [pair.count for pair in own.pairs] == sorted(wrong.values(), reverse=True)[:30]
    for pair in own.pairs:
        key = found.classes.index(pair.true), found.classes.index(pair.taken)
        assert wrong[key] == pair.count <= pair.of == int((each.labels == key[0]).sum())
    if classes <= 20:
        assert sum(map(sum, own.matrix)) == 200
        assert sum(map(sum, shifted.matrix)) == 600
        assert all(own.matrix[t][p] == count for (t, p), count in pairs.items())
    else:
        assert own.matrix is None
    assert shifted.title == "all 3 shifts"


def test_calibration_errors_are_those_of_the_scores():
    logits, labels = random_logits(300, 4, 1)
    found = reliability("id_test", predictions_of(logits, labels))
    assert found.ece_before == pytest.approx(score(logits, labels).ece, abs=1e-6)
    assert found.ece_after == pytest.approx(score(logits / 1.7, labels).ece, abs=1e-6)
    for bins in (found.before, found.after):
        assert sum(count for *_, count in bins) == 300
        gaps = sum(abs(confidence - accuracy) * count for confidence, accuracy, count in bins)
        expected = found.ece_before if bins is found.before else found.ece_after
        assert gaps / 300 == pytest.approx(expected, abs=1e-6)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.images = Counter(), "", []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_page_has_every_section_and_no_markup_of_others():
    names = ("plain", EVIL, "ünïcode \N{SNOWMAN} 'quoted'")
    mistakes = [Mistake(0, f"{EVIL}/a.jpg", jpeg()), Mistake(1, "b\n.jpg")]
    record, found = a_run(names=names, mistakes=mistakes)
    unknown = replace(found.sets["fonts"], classes=(EVIL,), labels=torch.zeros(60).int())
    found = replace(found, sets={**found.sets, f"unknown/{EVIL}": unknown})
    detected = {EVIL: {"energy": Detection(auroc=0.75, fpr95=0.5, images=60)}}
    record = replace(record, detection=detected, notes=[EVIL])
    other = [OtherClasses(data=EVIL, classes=5, images=9, before=0.5, after=0.25)]
    page = run_page(record, found, f"model: {EVIL}", other, "report.html")
    reader = read(page)
    assert reader.tags["script"] == 0
    assert EVIL in reader.text
    assert "src='" not in page
    assert "default-src 'none'" in page
    for section in ("sets", "classes", "confusions", "mistakes", "calibration", "detection",
                    "other-classes", "cost"):  # fmt: skip
        assert f'id="{section}"' in page
    # mistakes of validation are not shown: the temperature was fitted to it
    assert len(reader.images) == len(SETS) - 1 + 1
    assert all(src.startswith("data:image/jpeg;base64,") for src in reader.images)
    assert f"{100 * record.scores['id_test'].accuracy:.1f}" in reader.text
    assert "75.0" in reader.text
    assert "-25.0" in reader.text


def test_a_start_with_a_random_head_is_not_compared_with():
    record, found = a_run(start=False)
    text = read(run_page(record, found, "")).text
    assert "random head" in text
    assert "before % [95%]" not in text
    assert "before %" in read(run_page(*a_run(), "")).text


@pytest.mark.parametrize("shifts", [0, 75])
def test_it_stays_small_with_a_thousand_classes_and_many_sets(shifts):
    mistakes = [Mistake(n, "x" * 99, jpeg()) for n in range(12)]
    record, found = a_run(classes=1000, count=300, mistakes=mistakes)
    base = {name: found.sets[name] for name in ("id_val", "id_test")}
    scores = {name: record.scores[name] for name in base}
    for number in range(shifts):
        name = f"corrupted/{number}"
        pictured = found.sets["fonts"].mistakes if number < 14 else ()
        base[name] = replace(found.sets["fonts"], mistakes=pictured)
        scores[name] = record.scores["fonts"]
    page = run_page(replace(record, scores=scores), replace(found, sets=base), "")
    assert len(page.encode()) < 3e6


def test_thumbnails_of_pictures_and_of_tensors():
    pixels = torch.rand(4, 3, 8, 9)
    dataset = torch.utils.data.TensorDataset(pixels, torch.zeros(4))
    for images in (pixels, pixels[:, :1]):
        dataset = torch.utils.data.TensorDataset(images, torch.zeros(4))
        with Image.open(io.BytesIO(thumbnail_in(dataset, 1))) as picture:
            assert picture.format == "JPEG"
            assert picture.size == (9 * 12, 8 * 12)  # enlarged
    flat = torch.utils.data.TensorDataset(torch.ones(2, 7), torch.zeros(2))
    assert thumbnail_in(flat, 0) == b""
    with Image.open(io.BytesIO(jpeg((400, 300)))) as picture:
        assert max(picture.size) == 112
    nan = torch.utils.data.TensorDataset(torch.full((1, 3, 5, 5), float("nan")), torch.zeros(1))
    assert thumbnail_in(nan, 0)
