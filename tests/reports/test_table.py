import io
from dataclasses import replace

import pytest
from rich.console import Console

from gmixout.reports.style import styles_of
from gmixout.reports.table import matched_table, print_tables, results_table, rows_of


def printed(table, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


def marked(text):
    return [line.split() for line in text.splitlines() if line.startswith("*  ")]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_every_method_and_every_figure_has_room(records, width):
    text = printed(results_table(records, width), width)
    for row in rows_of(records):
        assert row.label in text
    assert "…" not in text
    assert "95.6±0.1" in text
    assert max(map(len, text.splitlines())) <= width


def test_the_marked_rows_are_those_that_id_validation_selects(records):
    selected = {
        row.label: (row.cell.lr, row.cell.alpha) for row in rows_of(records) if row.selected
    }
    for label, setting in selected.items():
        own = [row for row in rows_of(records) if row.label == label]
        best = max(own, key=lambda row: row.cell.id_val)
        assert (best.cell.lr, best.cell.alpha) == setting
    # zero-shot has nothing to select from
    assert set(selected) == {"full finetuning", "WiSE-FT", "Random Mask", "Mixout", "GMixout"}
    assert len(marked(printed(results_table(records, 100), 100))) == 5


def test_few_alphas_are_shown_and_the_caption_says_so(records):
    text = printed(results_table(records, 100), 100)
    assert "report.html shows all" in text
    few = [record for record in records if record.alpha in (None, 0.1, 0.5, 0.9)]
    assert "report.html shows all" not in printed(results_table(few, 100), 100)


def test_the_selected_alpha_is_always_shown(records):
    boosted = [
        replace(record, accuracy={**record.accuracy, "id_val": 0.99})
        if record.alpha == 0.3 and record.lr == 1e-3
        else record
        for record in records
    ]
    assert ["1e-3", "0.3"] in [
        line[1:3] for line in marked(printed(results_table(boosted, 100), 100))
    ]


def test_one_seed_shows_no_spread(records):
    one = [record for record in records if record.seed == 0]
    text = printed(results_table(one, 100), 100)
    assert "±" not in text
    assert "One seed, so no spread." in text
    assert "±" not in printed(matched_table(one), 100)


def test_unequal_numbers_of_seeds_are_shown_row_by_row(records):
    fewer = [r for r in records if not (r.method == "gmixout" and r.seed == 2)]
    text = printed(results_table(fewer, 100), 100)
    heading = next(line for line in text.splitlines() if "method" in line).split()
    assert "n" in heading
    assert "over n seeds" in text


def test_one_record_and_one_method(records):
    for some in ([records[0]], [records[1]], [r for r in records if r.method == "gmixout"]):
        assert rows_of(some)[0].label in printed(results_table(some, 80), 80)
        assert matched_table(some) is None
    print_tables([records[1]], Console(file=io.StringIO(), width=80))


def test_matched_table_says_what_was_not_reached(records):
    text = printed(matched_table(records), 100)
    assert "full finetuning: OOD" in text
    assert "n=3" in text
    low = [r for r in records if r.method == "full" or (r.method == "mixout" and r.lr == 3e-4)]
    mixout = next(x for x in printed(matched_table(low), 100).splitlines() if "Mixout" in x)
    assert mixout.split()[1:] == ["-", "-", "-"]


def test_unknown_methods_and_variants_get_styles_of_their_own(make_variant, records):
    cells = [row.cell for row in rows_of([*records, *make_variant])]
    styles = styles_of(cells)
    new = [style for (method, _), style in styles.items() if method in ("lora", "l2_sp")]
    assert len({(style.color, style.dash) for style in new}) == 3
    assert [style.label for style in new] == ["lora (rank=4)", "lora (rank=8)", "l2_sp"]


@pytest.fixture
def make_variant(records):
    base = next(record for record in records if record.method == "full")
    return [
        replace(base, method="lora", options={"rank": 4}, run="a"),
        replace(base, method="lora", options={"rank": 8}, run="b"),
        replace(base, method="l2_sp", run="c"),
    ]


def test_another_method_can_be_the_reference(records):
    text = printed(matched_table(records, "gmixout"), 100)
    assert "against GMixout" in text
    assert "GMixout: OOD" in text
    assert any(line.strip("│ ").startswith("full finetuning") for line in text.splitlines())
    assert matched_table(records, "lora") is None
