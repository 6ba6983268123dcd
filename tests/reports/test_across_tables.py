import io
import re

import pytest
from records import changed
from report_records import EVIL, SOURCES, on_macro_f1, on_sources, poisoned
from rich.console import Console

from gmixout.reports.across import across_summaries, short_names
from gmixout.reports.rows import rows_of
from gmixout.reports.standings import standings_of
from gmixout.reports.table import print_tables
from gmixout.reports.texts import across_as_markdown
from gmixout.results import BenchmarkFacts, Study, studies
from gmixout.results.across import compare_across


@pytest.fixture(scope="module")
def several(every_method):
    return on_sources(every_method)


def printed(records, width=120, reference="full"):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_tables(studies(records), console, reference)
    return console.file.getvalue()


def test_every_method_has_a_row_in_the_order_of_all_tables(several, every_method):
    averages, differences = across_summaries(studies(several))
    labels = [row.label for row in rows_of(Study(every_method)) if row.selected]
    assert [row[0].text for row in averages.rows] == labels
    assert {len(row) for row in averages.rows} == {len(averages.headings)}
    assert {row[0].text for row in differences.rows} < set(labels)
    assert differences.headings == ["method", *sorted(SOURCES)]
    assert all(name in averages.title for name in {record.benchmark.name for record in several})


def test_the_means_are_those_of_the_benchmarks(several):
    averages, _ = across_summaries(studies(several))
    own = [
        {each.row.label: each for each in standings_of(study, rows_of(study)).every}
        for study in studies(several)
    ]
    for label, id, ood, at_own_id, *_ in averages.rows:
        cells = [each[label.text].row.setting for each in own]
        for entry, name in ((id, "id"), (ood, "ood")):
            mean = sum(cell.estimate(lambda r, n=name: getattr(r, n)).mean for cell in cells) / 3
            assert entry.text == f"{100 * mean:.1f}"
        there = [e.mean for each in own if (e := each[label.text].at_own_id) is not None]
        if there:
            assert at_own_id.text.startswith(f"{100 * sum(there) / len(there):+.1f}")


def test_bold_is_beyond_the_noise_of_seeds_and_benchmarks(several):
    across = {row.series[0]: row for row in compare_across(studies(several)).rows}
    averages, _ = across_summaries(studies(several))
    bold = [row for row in averages.rows if any(entry.significant for entry in row)]
    assert bold
    for row in averages.rows:
        for entry in row:
            if entry.significant:
                low, high = map(float, re.findall(r"[-+]\d+\.\d", entry.text)[1:])
                assert low * high >= 0
    assert not any(across["zero_shot"].at_places)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_terminal_has_room_for_all_of_it(several, width):
    text = printed(several, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for word in (*SOURCES, "3 benchmarks", "GMixout", "n=9"):
        assert word in text
    assert "against GMixout" in printed(several, width, "gmixout")


def test_a_missing_benchmark_is_counted(several):
    fewer = [r for r in several if not (r.method.name == "lora" and "photo" in r.benchmark.name)]
    averages, _ = across_summaries(studies(fewer))
    lora = next(row for row in averages.rows if row[0].text == "LoRA")
    assert all(entry.text.endswith(" 2/3") for entry in lora[1:] if entry.text[0] in "+-")
    assert any(note.startswith("2/3:") for note in averages.notes)
    assert not any(entry.significant for entry in lora)
    assert not any("2/3" in note for note in across_summaries(studies(several))[0].notes)


def test_it_says_which_metric_it_is(several):
    text = printed(on_macro_f1(several))
    assert "OOD macro F1 at equal ID macro F1" in " ".join(text.split())
    assert "accuracy" not in text


def test_names_are_no_markup(several):
    names = [f"{EVIL}[/b]|{record.benchmark.name}" for record in several]
    tainted = [
        changed(record, benchmark=name)
        for record, name in zip(poisoned(several), names, strict=True)
    ]
    pages = {record.benchmark.name: f"{EVIL}/report.html" for record in tainted}
    markdown = across_as_markdown(studies(tainted), "full", pages)
    assert not re.search(r"(?<!\\)<(?!%3C)", markdown)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert rows
    assert "[/b]" in printed(tainted, 300)


@pytest.mark.parametrize(
    ("parts", "short"),
    [
        ([{"data": "pacs", "train_domain": d} for d in ("photo", "art")], ["photo", "art"]),
        ([{"data": d, "model": "m"} for d in ("cifar10", "cifar100")], ["cifar10", "cifar100"]),
        ([{"x": 1, "y": 2}, {"x": 1, "y": 3}], ["2", "3"]),
        ([{"x": 1, "y": 2}, {"x": 2, "y": 3}], ["1, 2", "2, 3"]),
        ([{"d": "a", "x": 1}, {"d": "a", "x": 1}], ["name 0", "name 1"]),
        ([{"d": "a", "x": 1}, {"d": "a"}, {}], ["name 0", "name 1", "name 2"]),
        ([{}, {}], ["name 0", "name 1"]),
        ([{"of": ["a", "b"]}, {"of": ["a", "c"]}], ["a+b", "a+c"]),
        ([{"x": 1}, {"x": 1, "head": "random"}], ["name 0", "name 1"]),
    ],
)
def test_short_names_tell_apart(parts, short):
    facts = [BenchmarkFacts(name=f"name {k}", parts=own) for k, own in enumerate(parts)]
    assert short_names(facts) == short
