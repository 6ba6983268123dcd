import csv
import io
import json
import re

import pytest
from records import changed, sets
from report_records import EVIL, poisoned

from gmixout.reports.rows import rows_of
from gmixout.reports.standings import summary_of
from gmixout.reports.texts import as_csv, as_latex, as_markdown
from gmixout.results import Study


def lines_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_every_setting_to_the_last_digit(every_method):
    lines = lines_of(as_csv(Study(every_method)))
    rows = rows_of(Study(every_method))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        ood = row.estimate(lambda record: record.ood)
        assert float(line["ood"]) == ood.mean
        assert line["ood sd"] == ("" if ood.sd is None else repr(ood.sd))
        assert line["chosen_by"].split() == sorted(row.chosen_by)
        assert json.loads(line["options"]).get("alpha") is None
        assert line["lr"] == ("" if row.setting.lr is None else repr(row.setting.lr))
        assert len(line["seeds"].split()) == int(line["n"])


def test_csv_holds_the_differences_of_chosen_settings(records):
    lines = lines_of(as_csv(Study(records), "gmixout"))
    key = "ood minus gmixout at own_id"
    with_difference = [line for line in lines if line[key]]
    assert with_difference
    assert all("id_validation" in line["chosen_by"] for line in with_difference)
    for line in with_difference:
        if int(line[f"{key} n"]) > 1:
            assert float(line[f"{key} low"]) <= float(line[key]) <= float(line[f"{key} high"])


def test_markdown_is_a_table_with_equal_rows(every_method):
    head, line, *rest = as_markdown(Study(every_method)).splitlines()
    rows = [row for row in rest if row.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", row)) for row in (head, line, *rows)]
    assert len(set(cells)) == 1
    assert len(rows) == len(summary_of(Study(every_method)).rows) == 20


def test_latex_is_a_booktabs_table_with_equal_rows(every_method):
    text = as_latex(Study(every_method))
    for part in (r"\begin{tabular}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
        assert text.count(part) == 1
    (spec,) = re.findall(r"\\begin\{tabular\}\{(l?r+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(spec) - 1}
    assert len(rows) == 21
    assert r"$\pm$" in text
    body = "".join(rows)
    assert body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0
    # nothing that LaTeX would take for a command, a comment or a parameter
    assert not re.search(r"(?<!\\)[%#_^~]", body)


def test_names_are_no_markup(records):
    evil = r"a|b_c*d & 50% $x^2$ {#} \end{tabular} ~" + EVIL
    named = poisoned(records)
    named = [
        changed(record, method=evil) if record.method.name == EVIL else record for record in named
    ]
    latex = as_latex(Study(named))
    row = next(line for line in latex.splitlines() if line.startswith("  a"))
    assert latex.count(r"\end{tabular}") == 1
    assert not re.search(r"(?<!\\)[%#_]", row)
    assert r"50\% \$x\textasciicircum{}2\$ \{\#\} \textbackslash{}end\{tabular\}" in row
    markdown = as_markdown(Study(named))
    assert not re.search(r"(?<!\\)<", markdown)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    assert any(line["method"] == evil for line in lines_of(as_csv(Study(named))))


@pytest.mark.parametrize("render", [as_csv, as_markdown, as_latex])
def test_few_records_make_a_table(records, render):
    for some in (records[:1], records[1:2], [r for r in records if r.method.name == "gmixout"]):
        row, text = rows_of(Study(some))[0], render(Study(some))
        assert row.label in text or row.setting.method in text
        assert "minus" not in text


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@x", "=cmd|' /C calc'!A0"])
def test_no_text_is_a_formula_to_a_spreadsheet(records, start):
    odd = [
        changed(record, benchmark=start, metric=start, figures=metric_of(record, start))
        for record in records[:3]
    ]
    for line in csv.reader(io.StringIO(as_csv(Study(odd)))):
        for cell in line:
            assert cell[:1] not in tuple("=+@"), cell
            assert cell[:1] != "-" or float(cell) < 0


def metric_of(record, name):
    return {part: {name: value} for part, value in sets(record, "accuracy").items()}


def test_a_note_stays_in_its_comment(records):
    notes = ["one\ntwo", "three\r\\input{x}", "four\u2028five"]
    latex = as_latex(Study([changed(record, notes=notes) for record in records]))
    head = latex[: latex.index(r"\begin{tabular}")]
    assert all(line.startswith("% ") for line in head.splitlines())
    assert "five" in head


def test_runs_that_ended_below_their_start_are_counted_not_listed(records):
    worse = [changed(r, examples=dict.fromkeys(r.scores, 10**6)) for r in records[:4]]
    noted = [record.against_start(1.0) for record in worse]
    assert "4 models ended below their start" in as_markdown(Study(noted))
    assert "ended at" not in as_markdown(Study(noted))
    assert "ended at" in as_markdown(Study(noted[:1]))
