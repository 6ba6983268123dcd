"""The page of `gmixout data check`: complete, escaped, self-contained, with real thumbnails."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from gmixout.data import SOURCES
from gmixout.data.findings import examine
from gmixout.reports.findings import MOST_GROUPS, findings_page
from gmixout.reports.thumbnails import THUMBNAIL

EVIL = "<script>alert(1)<!-- &amp; ' \" caf\u00e9 \u202egnp"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def root(tmp_path):
    draws = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for label in (EVIL, "dog"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = draws.integers(0, 256, (50, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    shutil.copy(tmp_path / "train" / EVIL / "0.png", tmp_path / "test/dog/<b>copy.png")
    (tmp_path / "val/dog/<i>broken.png").write_bytes(b"x")
    Image.new("RGB", (64, 64)).save(tmp_path / "val/dog/black.png")
    return tmp_path


def page_of(root):
    return findings_page(examine(SOURCES["imagefolder"](root)))


def test_the_page_shows_what_was_found_and_nothing_from_elsewhere(root):
    text = page_of(root)
    found = Tags(text)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "i", "link", "iframe"})
    assert not re.search(r"https?://|url\(|@import", text)
    assert "\u202e" not in text
    assert "<b>copy" not in text
    for said in ("<b>copy.png", "<i>broken.png", "of a single colour", "Different classes",
                 "In the training set and in another one", "caf\u00e9"):  # fmt: skip
        assert said in found.text
    pictures = [attributes["src"] for tag, attributes in found.tags if tag == "img"]
    assert len(pictures) == 2 + 1 + 6  # copies, odd ones, samples of two classes
    for source in pictures:
        kind, _, encoded = source.partition("base64,")
        assert kind == "data:image/jpeg;"
        opened = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert max(opened.size) <= THUMBNAIL


def test_a_page_of_many_copies_stays_small(tmp_path):
    for part in ("train", "val", "test"):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(MOST_GROUPS):
                pixels = np.full((40, 40, 3), number, np.uint8)
                pixels[: number % 40 + 1] += 60
                Image.fromarray(pixels).save(tmp_path / part / label / f"{number}.png")
    text = page_of(tmp_path)
    copies = text.partition("<h2>Equal files</h2>")[2].partition("<h2>")[0]
    assert copies.count('class="group') <= MOST_GROUPS
    assert len(text) < 3e6
