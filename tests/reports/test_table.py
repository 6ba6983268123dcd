import io

import pytest
from records import changed
from report_records import poisoned
from rich.console import Console

from gmixout.reports.rows import rows_of
from gmixout.reports.table import matched_table, print_tables, results_table
from gmixout.results import Study


def printed(table, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_one_row_a_method_with_room_for_every_figure(every_method, width):
    text = printed(results_table(Study(every_method), width), width)
    words = " ".join(text.split())
    for row in rows_of(Study(every_method)):
        assert row.label.split()[0] in words
    assert "…" not in text
    # every row has the one value of OOD with its spread, zero-shot's has none
    selected = [row for row in rows_of(Study(every_method)) if row.selected]
    assert text.count("±") - text.count("Mean ±") >= 2 * (len(selected) - 1)
    if width == 80:
        assert text.count("±") == 2 * (len(selected) - 1) + 1
    assert max(map(len, text.splitlines())) <= width
    full = next(
        row for row in rows_of(Study(every_method)) if row.setting.method == "full" and row.selected
    )
    mean = 100 * full.estimate(lambda record: record.ood).mean
    assert f"{mean:.1f}±" in text
    assert "report.html shows all" in text


def test_a_long_name_is_broken_and_never_cut(records):
    long = [
        changed(r, options={**r.method.options, "mean_start_depth": depth})
        for r in records
        for depth in (0.25, 0.5)
        if r.method.name == "gmixout"
    ]
    several = [r for r in records if r.method.name == "full"] + long
    for table in (results_table(Study(several), 80), matched_table(Study(several), width=80)):
        text = printed(table, 80)
        assert "…" not in text
        assert "mean_start_depth=0.25" in "".join(text.split())


def test_one_seed_shows_no_spread(records):
    one = [record for record in records if record.seed == 0]
    text = printed(results_table(Study(one), 100), 100)
    assert "One seed, so no spread." in text
    assert "±" not in text
    assert "±" not in printed(matched_table(Study(one)), 100)


def test_unequal_numbers_of_seeds_are_shown_row_by_row(records):
    fewer = [r for r in records if not (r.method.name == "gmixout" and r.seed == 2)]
    text = printed(results_table(Study(fewer), 100), 100)
    heading = next(line for line in text.splitlines() if line.startswith("method")).split()
    assert "n" in heading
    assert "over n seeds" in text


def test_one_record_and_one_method(records):
    for some in ([records[0]], [records[1]], [r for r in records if r.method.name == "gmixout"]):
        assert rows_of(Study(some))[0].label in printed(results_table(Study(some), 80), 80)
        assert matched_table(Study(some)) is None
    print_tables([Study([records[1]])], Console(file=io.StringIO(), width=80))


def test_matched_table_says_what_was_not_reached(records):
    text = printed(matched_table(Study(records)), 120)
    assert "full finetuning: OOD" in text
    assert "n=3" in text
    # Mixout's only setting lies below every level; WiSE-FT reaches them all
    low = [r for r in records if r.lr == 3e-4 and r.method.name == "mixout"]
    low += [r for r in records if r.method.name == "full" or r.method.name == "wise_ft"]
    lines = printed(matched_table(Study(low)), 120).splitlines()
    mixout = next(line for line in lines if line.startswith("Mixout"))
    assert mixout.split()[-3:] == ["–"] * 3  # noqa: RUF001 - what the table says for none


def test_another_method_can_be_the_reference(records):
    text = printed(matched_table(Study(records), "gmixout"), 120)
    assert "against GMixout" in text
    assert "GMixout: OOD" in text
    assert any(line.startswith("full finetuning") for line in text.splitlines())
    assert matched_table(Study(records), "lora") is None


def test_names_are_no_markup(records):
    odd = "[/red] [bold]mine[/bold]"
    named = [
        changed(record, method=odd) if record.method.name == "mixout" else record
        for record in records
    ]
    for reference in ("full", odd):
        console = Console(file=io.StringIO(), width=300, color_system=None)
        print_tables([Study(poisoned(named))], console, reference)
        assert console.file.getvalue().count(odd) >= 2
