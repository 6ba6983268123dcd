"""Reports as text: CSV of every setting, and one row per method for papers and READMEs.

CSV has every value with all digits, in the units of the records. Markdown and LaTeX have the table
of `standings.summary_of`.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from gmixout.methods import REFERENCE
from gmixout.plain import spreadsheet_cell
from gmixout.reports.across import across_summaries
from gmixout.reports.rows import columns_of, rows_of
from gmixout.reports.standings import NONE, Entry, Standing, SummaryTable, standings_of, summary_of
from gmixout.results.statistics import Estimate
from gmixout.results.study import Study


def as_csv(study: Study, reference: str = REFERENCE) -> str:
    """Return one line per setting: its options, the rules that choose it, every value with spread.

    Settings chosen by ID validation also have their differences to the reference.
    """
    rows = rows_of(study)
    columns = columns_of(rows)
    standings = standings_of(study, rows, reference)
    compared = {id(each.row): each for each in standings.every}
    comparisons = ["own_id", *(f"id_{level:g}" for level in standings.id_levels)]
    spread = {c.key for c in columns if any(isinstance(c.value(row), Estimate) for row in rows)}
    lines = []
    for row in rows:
        first = row.setting.records[0]
        line: dict[str, object] = {
            "benchmark": study.benchmark,
            "metric": first.benchmark.metric,
            "method": row.setting.method,
            "variant": row.setting.variant,
            "options": json.dumps(first.method.settings),
            "lr": row.setting.lr,
            "alpha": row.setting.alpha,
            "steps": first.steps,
            "batch_size": first.training and first.training.batch_size,
            "chosen_by": " ".join(sorted(row.chosen_by)),
            "seeds": " ".join(str(record.seed) for record in row.setting.records),
        }
        for column in columns:
            value = column.value(row)
            line[column.key] = value.mean if isinstance(value, Estimate) else value
            if column.key in spread:
                line[f"{column.key} sd"] = value.sd if isinstance(value, Estimate) else None
        line |= _differences(compared.get(id(row)), comparisons, reference)
        lines.append(line)
    file = io.StringIO()
    names = dict.fromkeys(name for line in lines for name in line)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(spreadsheet_cell, names))
    writer.writerows([spreadsheet_cell(line.get(name)) for name in names] for line in lines)
    return file.getvalue()


def _differences(
    standing: Standing | None, comparisons: Sequence[str], reference: str
) -> dict[str, object]:
    if standing is None:
        return {}
    found: dict[str, object] = {}
    for name, each in zip(comparisons, standing.differences, strict=False):
        if each is not None:
            low, high = each.bootstrap() or (None, None)
            key = f"ood minus {reference} at {name}"
            found |= {key: each.mean, f"{key} low": low, f"{key} high": high, f"{key} n": each.n}
    return found


def as_markdown(study: Study, reference: str = REFERENCE) -> str:
    """Return the summary as a table of GitHub's Markdown."""
    return _markdown_table(summary_of(study, reference))


def across_as_markdown(studies: Sequence[Study], reference: str, reports: Mapping[str, str]) -> str:
    """Return several benchmarks as tables of GitHub's Markdown, with links to the report of each.

    Args:
        studies: Of several benchmarks.
        reference: The method to compare with, see `study.series_named`.
        reports: By benchmark, the address of its report.
    """
    tables = across_summaries(studies, reference)
    links = [f"- [{_markdown(name)}](<{quote(page)}>)" for name, page in reports.items()]
    parts = [f"## {_markdown(table.title)}\n\n{_markdown_table(table)}" for table in tables]
    return "\n".join([*parts, "## Reports", "", *links, ""])


def _markdown_table(table: SummaryTable) -> str:
    lines = [
        "| " + " | ".join(map(_markdown, table.headings)) + " |",
        "|" + "|".join("---" if i == 0 else "---:" for i in range(len(table.headings))) + "|",
    ]
    for row in table.rows:
        entries = [_markdown(entry.text) for entry in row]
        bold = [
            f"**{t}**" if entry.significant else t for entry, t in zip(row, entries, strict=True)
        ]
        lines.append("| " + " | ".join(bold) + " |")
    return "\n".join([*lines, "", *map(_markdown, table.notes), ""])


def as_latex(study: Study, reference: str = REFERENCE) -> str:
    r"""Return the summary as a `tabular` for LaTeX; it needs `\usepackage{booktabs}`."""
    table = summary_of(study, reference)

    def line(entries: Sequence[str]) -> str:
        return "  " + " & ".join(entries) + r" \\"

    return "\n".join(
        [
            *(f"% {' '.join(note.split())}" for note in table.notes),
            r"\begin{tabular}{l" + "r" * (len(table.headings) - 1) + "}",
            r"  \toprule",
            line([_latex(heading) for heading in table.headings]),
            r"  \midrule",
            *(line([_latex_entry(entry) for entry in row]) for row in table.rows),
            r"  \bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _markdown(text: str) -> str:
    """Return the text with the markup of Markdown and HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    NONE: "--",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _latex_entry(entry: Entry) -> str:
    text = _latex(entry.text)
    if entry.is_figure:
        text = re.sub(r"[+-]\d+(\.\d+)?", r"$\g<0>$", text)
    # an entry that starts with a bracket would be read as an argument of the preceding line break
    return (
        rf"\textbf{{{text}}}"
        if entry.significant
        else "{" + text + "}"
        if text[:1] == "["
        else text
    )
