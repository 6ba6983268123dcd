import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gmixout.reports.page import page
from gmixout.reports.table import rows_of


class Document(HTMLParser):
    """The parts of a page: its tags, and the text inside of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.scripts = [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    @property
    def figure(self):
        return json.loads(self.scripts[1])


@pytest.fixture(scope="module")
def document(records):
    return Document(page(records, "benchmark: digits\n"))


def test_nothing_is_fetched(document):
    for tag, attributes in document.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
        for name in ("src", "href", "srcset", "action", "data"):
            assert name not in attributes, (tag, attributes)
    style = document.text["style"]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (a["content"] for _, a in document.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_every_setting_is_in_the_table_and_in_the_picture(document, records):
    rows = rows_of(records)
    labels = document.text["td"]
    names = {trace.get("name") for trace in document.figure["data"]}
    for row in rows:
        assert row.label in labels
        assert row.label in names
    assert (
        sum(
            attributes.get("class") == "selected"
            for tag, attributes in document.tags
            if tag == "tr"
        )
        == 5
    )
    hovers = [text for trace in document.figure["data"] for text in trace.get("text") or []]
    # every single model of several seeds, and every mean
    assert sum("seed 1" in text for text in hovers) == len(rows) - 1
    assert any("WiSE-FT</b> · lr 1e-3, alpha 0.5, mean of 3 seeds" in text for text in hovers)
    assert all("corrupted/2" in text and "fonts" in text for text in hovers)


def test_what_was_run_is_told(document):
    facts = document.text["dt"] + document.text["dd"]
    for fact in ("digits", "0, 1, 2", "300 of 32", "cpu, 2 threads", "2.15.0", "abc1234", "1e-3"):
        assert fact in facts
    assert "benchmark: digits" in document.text["pre"]


def test_whatever_people_write_is_escaped(records):
    evil = "</script><b>bold</b><script>alert(1)</script>"
    poisoned = [
        replace(
            record,
            benchmark=evil,
            method=evil if record.method == "mixout" else record.method,
            versions={evil: evil},
            git=evil,
            device=evil,
            accuracy={("fonts" + evil.replace("/", "\\") if k == "fonts" else k): v
                      for k, v in record.accuracy.items()},
        )
        for record in records
    ]  # fmt: skip
    document = Document(page(poisoned, f"benchmark: {evil}\n"))
    assert "b" not in [tag for tag, _ in document.tags]
    assert len(document.scripts) == 3
    assert evil in document.text["pre"]
    assert evil in document.text["title"]
    # plotly understands some HTML in names and hover texts
    for trace in document.figure["data"]:
        assert "<script" not in json.dumps(trace)
        assert "<b>bold" not in json.dumps(trace)


def test_one_seed_one_record_one_method(records):
    for some in (records[:1], records[1:2], [r for r in records if r.method == "gmixout"]):
        document = Document(page(some, ""))
        assert rows_of(some)[0].label in document.text["td"]
        assert "nothing to compare" in document.text["p"]
    one = Document(page([record for record in records if record.seed == 0], ""))
    assert "±" not in one.text["td"] + one.text.get("span", "")


def test_sort_keys_are_numbers(document):
    values = [a["data-value"] for tag, a in document.tags if tag == "td" and "data-value" in a]
    assert len(values) > 100
    assert all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", value) for value in values)
