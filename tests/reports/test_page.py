import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from statistics import median

import pytest
from records import changed
from report_records import (
    EVIL,
    STYLES,
    all_methods,
    data_of,
    make_records,
    make_sweep,
    on_the_way,
    poisoned,
)

from gmixout.reports import page as page_module
from gmixout.reports.page import GLYPHS, PANELS, SVG_DASHES, page
from gmixout.reports.page.data import MAX_CURVES, switches_of
from gmixout.reports.rows import rows_of
from gmixout.reports.style import SYMBOLS, point_of
from gmixout.results import Study
from gmixout.results.selection import RULES

CONFIGS = {"runs/one": "benchmark: digits\n"}


class Document(HTMLParser):
    """The parts of a page: its tags, and the text inside of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.scripts = [], [], {}, []
        self.data = data_of(text)
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

    def having(self, tag, attribute):
        return [a for t, a in self.tags if t == tag and attribute in a]


@pytest.fixture(scope="module")
def document(records):
    return Document(page(Study(records), CONFIGS))


@pytest.fixture(scope="module")
def large(every_method):
    return Document(page(Study(on_the_way(every_method)), CONFIGS))


def test_every_panel_is_a_file_and_a_name_in_the_list():
    folder = Path(page_module.__file__).parent / "panels"
    assert sorted(file.stem for file in folder.glob("*.html")) == sorted(PANELS)


def test_nothing_is_fetched(document):
    for tag, attributes in document.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
        for name in ("src", "href", "srcset", "action", "data"):
            assert name not in attributes, (tag, attributes)
    style = document.text["style"]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(
        a["content"] for _, a in document.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_every_setting_is_in_the_table_and_every_run_in_the_data(large, every_method):
    rows = rows_of(Study(every_method))
    table_rows = large.having("tr", "data-rules")
    assert len(table_rows) == len(rows) == len(large.data["cells"])
    for attributes, row in zip(table_rows, rows, strict=True):
        assert set(attributes["data-rules"].split()) == row.chosen_by
        assert row.label in large.text["td"]
    runs = [tuple(run) for cell in large.data["cells"] for run in cell["runs"]]
    assert len(runs) == len(every_method)
    assert {(100 * r.id, 100 * r.ood) for r in every_method} == set(runs)
    for rule in RULES.values():
        assert rule.note in large.text["dd"]
    assert {*RULES, ""} <= {a["value"] for a in large.having("option", "value")}


def test_every_method_has_a_switch_and_a_sign_of_its_own(large):
    assert len(large.having("input", "data-group")) == len(STYLES)
    assert len(large.having("input", "data-main")) == sum(s.main for s in STYLES.values())
    assert {SYMBOLS[style.marker] for style in STYLES.values()} <= set(GLYPHS)
    assert {style.dash for style in STYLES.values()} <= set(SVG_DASHES)
    groups = {cell["series"] for cell in large.data["cells"]}
    assert {series["group"] for series in large.data["series"]} == groups


def test_the_variants_of_a_large_sweep_share_a_switch(sweep):
    few = rows_of(Study(sweep))
    assert len(switches_of(few)) == len({row.setting.series for row in few})
    wide = [
        changed(r, options={**r.method.options, "k": k}, run=f"{r.run}{k}")
        for r in sweep
        for k in range(4)
    ]
    many = rows_of(Study(wide))
    assert len({row.setting.series for row in many}) > MAX_CURVES
    assert [switch.label for switch in switches_of(many)] == ["LoRA", "GMixout"]


def test_fronts_are_of_the_means_and_fall(document, records):
    fronts = document.data["fronts"]
    points = {tuple(point_of(row.setting)) for row in rows_of(Study(records))}
    for front in (fronts["overall"], *(own["points"] for own in fronts["own"])):
        assert {tuple(point) for point in front} <= points
        assert [x for x, _ in front] == sorted(x for x, _ in front)
        assert [y for _, y in front] == sorted((y for _, y in front), reverse=True)
    for x, y in points:
        assert any(a >= x and b >= y for a, b in fronts["overall"])


def test_every_method_that_has_a_curve_can_be_the_reference(large):
    references = [each["reference"] for each in large.data["standings"]]
    assert references[0] == "full"
    assert {"gmixout", "lora", "mixout"} <= set(references)
    assert len(large.having("div", "data-reference")) == len(references)
    shown = [a for a in large.having("div", "data-reference") if "hidden" not in a]
    assert [a["data-reference"] for a in shown] == ["0"]


def test_only_differences_beyond_the_noise_are_emphasised(large, records):
    differences = [
        value
        for standings in large.data["standings"]
        for _, values in standings["differences"]
        for value in values
        if value
    ]
    clear = [value for value in differences if value["significant"]]
    assert 0 < len(clear) < len(differences)
    assert all(low > 0 or high < 0 for low, high in (value["bounds"] for value in clear))
    assert sum("significant" in a["class"].split() for a in large.having("td", "class")) == len(
        clear
    )
    one = Document(page(Study([record for record in records if record.seed == 0]), {}))
    assert not one.having("td", "class")
    assert not any(v["significant"] for s in one.data["standings"] for _, vs in s["differences"]
                   for v in vs if v)  # fmt: skip


def test_costs_are_of_the_chosen_settings(document, records):
    cost = document.data["cost"]
    chosen = [row for row in rows_of(Study(records)) if row.selected and row.setting.lr is not None]
    assert len(cost["points"]) == len(chosen)
    for point, row in zip(cost["points"], chosen, strict=True):
        assert point["ood"][0][0] == pytest.approx(point_of(row.setting).ood)
        assert len(point["ood"]) == len(cost["heights"])
        assert len(point["costs"]) == len(cost["costs"])
    reached = [each for point in cost["points"] for each in point["ood"][1:] if each]
    assert reached


def test_learning_curves_are_there_where_runs_were_evaluated_on_the_way(document, large):
    assert document.data["learning"]["lines"] == []
    assert "Learning curves" not in document.text["h2"]
    lines = large.data["learning"]["lines"]
    assert "Learning curves" in large.text["h2"]
    chosen = [line["series"] for line in lines if line["chosen"]]
    assert len(chosen) == len(set(chosen)) > 10
    for line in lines:
        assert line["steps"] == [100, 200, 300]
        validation = [mean for mean, _ in line["values"][1]]
        assert validation == sorted(validation)


def test_a_sweep_shows_what_id_validation_chooses_at_each_point(document, sweep):
    assert document.data["sweeps"] == []
    lora, gmixout = Document(page(Study(sweep), CONFIGS)).data["sweeps"]
    # None, no resampling at all, comes after the rarest; an option that never varies is none
    assert gmixout["options"] == [
        ["mask_rate", ["0.5", "0.9"]],
        ["resample_every", ["1", "10", "None"]],
    ]
    assert lora["options"] == [["rank", ["4", "16", "32"]]]
    assert [plot["options"] for plot in gmixout["plots"]] == [
        ["mask_rate"],
        ["resample_every"],
        ["mask_rate", "resample_every"],
    ]
    over_both = gmixout["plots"][-1]["points"]
    assert len(over_both) == 6
    ood = gmixout["measures"].index("OOD %")
    for point in over_both:
        mask, every = point["at"]
        own = [
            record
            for record in sweep
            if record.method.name == "gmixout"
            and record.method.options["mask_rate"] == (0.5, 0.9)[mask]
            and record.method.options["resample_every"] == (1, 10, None)[every]
        ]
        rate = max(own, key=lambda record: record.id_val).lr
        best = [100 * record.ood for record in own if record.lr == rate]
        assert point["best"][ood] == pytest.approx(sum(best) / len(best))
    for point in gmixout["plots"][0]["points"]:
        assert point["settings"] == 3
        group = [p["best"][ood] for p in over_both if p["at"][0] == point["at"][0]]
        assert point["median"][ood] == pytest.approx(median(group))


def test_what_was_run_is_told(document):
    facts = document.text["dt"] + document.text["dd"]
    for fact in ("digits", "0, 1, 2", "300 of 32", "cpu, 2 threads", "2.15.0", "abc1234", "1e-3"):
        assert fact in facts
    assert "benchmark: digits" in document.text["pre"]
    assert "runs/one" in document.text["summary"]


def test_whatever_people_write_is_escaped(records):
    text = page(Study(poisoned(records)), {EVIL: f"benchmark: {EVIL}\n"}, running=EVIL)
    document = Document(text)
    assert "b" not in [tag for tag, _ in document.tags]
    assert len(document.scripts) == 3
    assert EVIL in document.text["pre"]
    assert EVIL in document.text["title"]
    assert EVIL in json.dumps(document.data).replace('\\"', '"')


@pytest.mark.parametrize("running", [None, "1 of 2"])
def test_one_seed_one_record_one_method(records, running):
    for some in (records[:1], records[1:2], [r for r in records if r.method.name == "gmixout"]):
        document = Document(page(Study(some), {}, running=running))
        assert rows_of(Study(some))[0].label in document.text["td"]
        assert "Nothing can be compared" in document.text["p"]
    one = Document(page(Study([record for record in records if record.seed == 0]), {}))
    assert "±" not in one.text["td"] + one.text.get("span", "")


def test_sort_keys_are_numbers(document):
    values = [a["data-value"] for a in document.having("td", "data-value")]
    assert len(values) > 100
    assert all(re.fullmatch(r"(-?\d+(\.\d+)?(e-?\d+)?)?", value) for value in values)


def test_the_page_of_a_running_comparison_is_made_fast():
    records = [*on_the_way(make_records(all_methods(), 5)), *make_sweep()]
    assert len(records) > 500
    page(Study(records[-3:]), {}, running="0 of 60 runs")  # what is imported once
    start = time.process_time()
    text = page(Study(records), CONFIGS, running="12 of 60 runs")
    # a machine with other work may need several times as long; all references take twenty times
    assert time.process_time() - start < 5
    assert [each["reference"] for each in data_of(text)["standings"]] == ["full"]
