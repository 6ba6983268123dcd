import io
import re

import pytest
from report_records import EVIL, SOURCES, on_macro_f1, on_sources, poisoned
from rich.console import Console

from gmixout.evaluation.across import by_benchmark, compare_across
from gmixout.reports.across import across_summaries, short_names
from gmixout.reports.rows import rows_of
from gmixout.reports.standings import standings_of
from gmixout.reports.table import print_tables
from gmixout.reports.texts import across_as_markdown


@pytest.fixture(scope="module")
def several(every_method):
    return on_sources(every_method)


def printed(records, width=120, reference="full"):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_tables(records, console, reference)
    return console.file.getvalue()


def test_every_method_has_a_row_in_the_order_of_all_tables(several, every_method):
    averages, differences = across_summaries(several)
    labels = [row.label for row in rows_of(every_method) if row.selected]
    assert [row[0].text for row in averages.rows] == labels
    assert {len(row) for row in averages.rows} == {len(averages.headings)}
    assert {row[0].text for row in differences.rows} < set(labels)
    assert differences.headings == ["method", *sorted(SOURCES)]
    assert all(name in averages.title for name in by_benchmark(several))


def test_the_means_are_those_of_the_benchmarks(several):
    averages, _ = across_summaries(several)
    own = [
        {each.row.label: each for each in standings_of(records, "full", rows_of(records)).every}
        for records in by_benchmark(several).values()
    ]
    for label, id, ood, at_own_id, *_ in averages.rows:
        cells = [each[label.text].row.cell for each in own]
        for entry, name in ((id, "id"), (ood, "ood")):
            mean = sum(cell.estimate(lambda r, n=name: getattr(r, n)).mean for cell in cells) / 3
            assert entry.text == f"{100 * mean:.1f}"
        there = [e.mean for each in own if (e := each[label.text].at_own_id) is not None]
        if there:
            assert at_own_id.text.startswith(f"{100 * sum(there) / len(there):+.1f}")


def test_bold_is_beyond_the_noise_of_seeds_and_benchmarks(several):
    across = {row.series[0]: row for row in compare_across(several).rows}
    averages, _ = across_summaries(several)
    bold = [row for row in averages.rows if any(entry.clear for entry in row)]
    assert bold
    for row in averages.rows:
        for entry in row:
            if entry.clear:
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
    fewer = [r for r in several if not (r.method == "lora" and "photo" in r.benchmark)]
    averages, _ = across_summaries(fewer)
    lora = next(row for row in averages.rows if row[0].text == "LoRA")
    assert all(entry.text.endswith(" 2/3") for entry in lora[1:] if entry.text[0] in "+-")
    assert any(note.startswith("2/3:") for note in averages.notes)
    assert not any(entry.clear for entry in lora)
    assert not any("2/3" in note for note in across_summaries(several)[0].notes)


def test_it_says_which_metric_it_is(several):
    text = printed(on_macro_f1(several))
    assert "OOD macro F1 at equal ID macro F1" in " ".join(text.split())
    assert "accuracy" not in text


def test_names_are_no_markup(several):
    tainted = [
        type(record)(**{**record.__dict__, "benchmark": f"{EVIL}{record.benchmark}[/b]|"})
        for record in poisoned(several)
    ]
    for record, own in zip(tainted, several, strict=True):
        object.__setattr__(record, "benchmark", f"{EVIL}[/b]|{own.benchmark}")
    pages = {record.benchmark: f"{EVIL}/report.html" for record in tainted}
    markdown = across_as_markdown(tainted, "full", pages)
    assert not re.search(r"(?<!\\)<(?!%3C)", markdown)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert rows
    assert "[/b]" in printed(tainted, 300)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["pacs(train_domain=photo)", "pacs(train_domain=art)"], ["photo", "art"]),
        (["cifar10", "cifar100"], ["cifar10", "cifar100"]),
        (["p(d='b', h=1) with m", "p(d='c', h=1) with m"], ["b", "c"]),
        (["a(x=1, y=2)", "a(x=1, y=3)"], ["2", "3"]),
        (["pacs", "pacs(train_domain=photo)"], ["pacs", "pacs(train_domain=photo)"]),
        (["my.module:one", "my.module:two"], ["one", "two"]),
    ],
)
def test_short_names_tell_apart(names, short):
    assert short_names(names) == short
