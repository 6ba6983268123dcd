import io
import re

import pytest
from records import changed
from report_records import (
    data_of,
    long_tailed,
    make_sweep,
    on_macro_f1,
    with_corruptions,
    without_shifts,
)
from rich.console import Console

from gmixout.reports.figure import cost_figure, id_ood_figure, sweep_figure
from gmixout.reports.names import names_of
from gmixout.reports.page import page
from gmixout.reports.rows import columns_of, rows_of
from gmixout.reports.sweeps import sweeps_of
from gmixout.reports.table import matched_table, print_tables, results_table
from gmixout.reports.texts import as_csv, as_latex, as_markdown
from gmixout.results import Study


def printed(records, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_tables([Study(records)], console)
    return console.file.getvalue()


def headings_of(records):
    return {column.key: column.heading for column in columns_of(rows_of(Study(records)))}


def texts_of(figure):
    """All labels and titles of a picture."""
    axes = figure.axes
    labels = [text for each in axes for text in (each.get_xlabel(), each.get_ylabel())]
    return " ".join([*labels, *(each.get_title(loc="left") for each in axes)])


# what is accuracy, whatever the official metric: the metric beside it, and what ECE is defined by
TRULY = r"(ID|OOD)\s+accuracy|from accuracy"


def test_what_is_macro_f1_is_nowhere_called_accuracy(records):
    f1 = on_macro_f1(records)
    for text in (
        *(printed(f1, width) for width in (80, 100, 160)),
        as_markdown(Study(f1)),
        as_latex(Study(f1)),
        re.sub(r"<script.*?</script>|<style.*?</style>", "", page(Study(f1), {}), flags=re.DOTALL),
        texts_of(id_ood_figure(Study(f1))),
        texts_of(cost_figure(Study(f1))),
    ):
        assert "macro F1" in " ".join(text.split()) or "macro" in text
        # a terminal's headings go over lines: words of one are not beside each other
        body = text if "\u2500" not in text else text[text.index("OOD at matched") :]
        assert "accurac" not in re.sub(TRULY, "", body)
    assert data_of(page(Study(f1), {}))["names"] == {
        "in_domain": "in-domain macro F1",
        "under_shift": "macro F1 under shift, mean",
        "unit": "%",
    }
    assert "<h1>Macro F1 in domain and under shift" in page(Study(f1), {})
    assert as_csv(Study(f1)).splitlines()[1].split(",")[1] == "macro_f1"
    sweep = on_macro_f1(make_sweep())
    assert "OOD macro F1 %" in texts_of(sweep_figure(Study(sweep)))
    (measures, *_) = (each["measures"] for each in sweeps_of(rows_of(Study(sweep))))
    assert measures[:2] == ["OOD macro F1 %", "corrupted macro F1 %"]


def test_headings_say_what_the_figure_is(records):
    plain, f1 = headings_of(records), headings_of(on_macro_f1(records))
    assert (plain["id"], plain["ood"], plain["shift fonts"]) == ("ID %", "OOD %", "fonts %")
    assert (f1["id"], f1["ood"], f1["worst"]) == (
        "ID macro F1 %",
        "OOD macro F1 %",
        "worst macro F1 %",
    )
    assert f1["shift fonts"] == "fonts macro F1 %"
    assert (f1["accuracy_id"], f1["macro_recall_ood"]) == ("ID accuracy %", "OOD macro recall %")
    assert not any(key.startswith("accuracy") for key in plain)


def test_figures_are_of_the_official_metric(records):
    for own, f1 in zip(rows_of(Study(records)), rows_of(Study(on_macro_f1(records))), strict=True):
        assert (own.setting.series, own.setting.lr) == (f1.setting.series, f1.setting.lr)
        values = {column.key: column.value(f1) for column in columns_of([f1])}
        expected = own.estimate(lambda r: r.ood).mean
        assert values["ood"].mean == pytest.approx(0.6 * expected, abs=1e-4)
        assert values["macro_recall_ood"].mean == pytest.approx(0.7 * expected, abs=1e-4)
        assert values["accuracy_ood"].mean == pytest.approx(expected)


def test_few_shot_accuracy_stands_for_the_shift_of_a_long_tail(records):
    some = long_tailed(records)
    assert names_of(some[0]).under_shift == "few-shot accuracy"
    headings = headings_of(some)
    assert headings["shift few_shot"] == "few-shot %"
    assert headings["many_shot_id"] == "many-shot %"
    assert "worst" not in headings
    assert "few_shot_id" not in headings
    for width in (80, 100, 160):
        text = printed(some, width)
        assert "OOD: few-shot accuracy, as there is no other domain." in text
        assert "many-shot" in text
        assert "…" not in text
    assert matched_table(Study(some)) is not None
    assert "few-shot accuracy" in texts_of(id_ood_figure(Study(some)))


def test_without_shifts_nothing_is_called_ood(records):
    some = without_shifts(records)
    assert not {"ood", "worst", "ece_ood", "nll_ood", "front_area"} & headings_of(some).keys()
    assert "OOD" not in printed(some)
    assert "there are no shifts" in texts_of(id_ood_figure(Study(some)))
    assert "Nothing can be compared" in page(Study(some), {})


def test_the_mean_corruption_error_is_shown_with_its_normalisation(records):
    some = with_corruptions(records)
    (column,) = (each for each in columns_of(rows_of(Study(some))) if each.key == "mce_alexnet")
    assert column.heading == "mCE %"
    assert "AlexNet" in column.note
    assert "divided by AlexNet's" in as_markdown(Study(some))
    assert "divided by AlexNet's" in page(Study(some), {}).replace("&#39;", "'")
    row = next(row for row in rows_of(Study(some)) if row.selected)
    mean = 100 * row.estimate(lambda r: r.summary["mce_alexnet"]).mean
    assert column.text(row) == f"{mean:.1f}"
    # there is no room for fifteen kinds, so none is shown and none seems to be missing
    for width in (80, 100, 200):
        text = printed(some, width)
        assert "mCE" in text
        assert "divided by AlexNet's" in " ".join(text.split())
        assert "…" not in text
        assert text.count("kind_") in (0, 15)
    without = [record if record.seed else changed(record, summary={}) for record in some]
    row = next(
        row for row in rows_of(Study(without)) if row.selected and row.setting.method == "full"
    )
    assert column.value(row) is None


@pytest.mark.parametrize("kind", [list, on_macro_f1, long_tailed, with_corruptions])
def test_no_figure_is_cut_off(records, kind):
    some = kind(records)
    full = next(
        row for row in rows_of(Study(some)) if row.selected and row.setting.method == "full"
    )
    ood = f"{100 * full.estimate(lambda r: r.ood).mean:.1f}"
    for width in range(60, 200, 7):
        table = results_table(Study(some), width)
        console = Console(file=io.StringIO(), width=width, color_system=None)
        console.print(table)
        assert ood in console.file.getvalue(), width
        needed = sum(
            max(len(word) for cell in column.cells for word in str(cell).split() or [""])
            for column in table.columns[1:]
        )
        assert needed + len(table.columns) + 11 <= width, width


def test_notes_of_the_records_reach_every_reader(records):
    some = on_macro_f1(records)
    for text in (printed(some), as_markdown(Study(some)), page(Study(some), {})):
        assert " ".join(text.split()).count("train has no image of 3 of 182 classes") == 1
