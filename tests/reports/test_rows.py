from dataclasses import replace

import numpy as np
import pytest
from records import EXAMPLE, changed, sets
from report_records import STYLES

from gmixout.reports.rows import columns_of, rows_of
from gmixout.reports.standings import interval_text, standings_of, summary_of
from gmixout.reports.style import SYMBOLS, ellipse_of, point_of, styles_of
from gmixout.results import MethodFacts, Study
from gmixout.results.selection import RULES
from gmixout.results.statistics import Estimate


def test_every_rule_chooses_one_row_of_each_method(every_method):
    rows = rows_of(Study(every_method))
    methods = {row.setting.method for row in rows}
    assert methods == set(STYLES)
    for rule in RULES:
        assert sorted(row.setting.method for row in rows if rule in row.chosen_by) == sorted(
            methods
        )
    for row in rows:
        own = [other.setting for other in rows if other.setting.series == row.setting.series]
        assert row.selected == (max(cell.id_val for cell in own) == row.setting.id_val)


def test_the_oracle_differs_from_the_honest_choice(records):
    full = {
        rule: row.setting.lr
        for row in rows_of(Study(records))
        for rule in row.chosen_by
        if row.setting.method == "full"
    }
    assert full["oracle"] < full["id_validation"]


def test_columns_nobody_has_a_value_for_are_left_out(records):
    keys = {column.key for column in columns_of(rows_of(Study(records)))}
    assert {"id", "ood", "worst", "front_area", "ece_id", "step_seconds"} <= keys
    assert {"shift corrupted", "shift fonts"} <= keys
    untrained = {column.key for column in columns_of(rows_of(Study(records[:1])))}
    assert not untrained & {"seconds", "step_seconds", "peak_memory_bytes", "front_area"}


def test_figures_are_those_of_the_records(records):
    row = next(
        row for row in rows_of(Study(records)) if row.setting.method == "gmixout" and row.selected
    )
    value = {column.key: column.value(row) for column in columns_of([row])}
    seeds = row.setting.records
    kinds = [f"corrupted/{k}" for k in (1, 2, 3)]
    accuracies = [sets(r, "accuracy") for r in seeds]
    worst = [min(each["fonts"], np.mean([each[kind] for kind in kinds])) for each in accuracies]
    assert value["worst"].mean == pytest.approx(np.mean(worst))
    assert value["worst"].sd == pytest.approx(np.std(worst, ddof=1))
    assert value["n"] == len(seeds)
    assert value["trainable_share"] == seeds[0].training.trainable / seeds[0].parameters
    losses = [sets(r, "nll") for r in seeds]
    nll = [(each["fonts"] + np.mean([each[kind] for kind in kinds])) / 2 for each in losses]
    assert value["nll_ood"].mean == pytest.approx(np.mean(nll))


def test_people_read_the_unit_of_the_heading(records):
    row = next(row for row in rows_of(Study(records)) if row.setting.method == "gmixout")
    text = {column.heading: column.text(row) for column in columns_of([row])}
    assert float(text["step ms"]) == pytest.approx(10.2)
    assert float(text["mem MB"]) == pytest.approx(12.3)
    assert float(text["train %"]) == pytest.approx(10.0)
    assert 90 < float(text["ID %"]) < 100


def test_standings_are_against_the_reference(records):
    rows = rows_of(Study(records))
    standings = standings_of(Study(records), rows, "gmixout")
    assert standings.label == "GMixout"
    assert "gmixout" not in {each.row.setting.method for each in standings.compared}
    assert len(standings.id_levels) == len(standings.reference_ood)
    for each in standings.every:
        assert len(each.at_levels) in (0, len(standings.id_levels))
    assert standings_of(Study(records), rows, "nobody").compared == []


def test_a_difference_shows_interval_and_number_of_seeds():
    assert interval_text(None).strip().isprintable()
    several = interval_text(Estimate.of([0.01, 0.02, 0.03]))
    assert several.startswith("+2.0 [")
    assert several.endswith("(n=3)")
    assert interval_text(Estimate.of([-0.02])) == "-2.0 (n=1)"


def test_the_summary_has_one_row_a_method_and_bold_only_beyond_the_noise(every_method):
    table = summary_of(Study(every_method))
    assert [row[0].text for row in table.rows] == [
        row.label for row in rows_of(Study(every_method)) if row.selected
    ]
    assert {len(row) for row in table.rows} == {len(table.headings)}
    bold = [entry.text for row in table.rows for entry in row if entry.significant]
    assert bold
    for text in bold:
        low, high = text[text.index("[") + 1 : text.index("]")].split(", ")
        assert float(low) * float(high) > 0
    one_seed = summary_of(Study([record for record in every_method if record.seed == 0]))
    assert not any(entry.significant for row in one_seed.rows for entry in row)


def test_shape_and_line_tell_every_method_apart_without_colour():
    looks = [(style.marker, style.dash) for style in STYLES.values()]
    assert len(set(looks)) == len(looks) == 20
    assert all(style.marker in SYMBOLS for style in STYLES.values())


def test_unknown_methods_and_variants_get_styles_of_their_own(records):
    base = next(record for record in records if record.method.name == "full")
    variants = [
        changed(base, method="lora", options={"rank": 4}, run="a"),
        changed(base, method="lora", options={"rank": 8}, run="b"),
        changed(base, method="mine", run="c"),
        changed(base, method="yours", run="d"),
    ]
    styles = styles_of(Study([*records, *variants]))
    new = [style for (method, _), style in styles.items() if method in ("lora", "mine", "yours")]
    assert [style.name for style in new] == ["LoRA (rank=4)", "LoRA (rank=8)", "mine", "yours"]
    assert len({(style.color, style.dash, style.marker) for style in new}) == 4


def test_the_ellipse_is_one_standard_deviation_of_the_seeds(records):
    cells = [row.setting for row in rows_of(Study(records))]
    for cell in cells:
        if len(cell.records) == 1:
            assert ellipse_of(cell) is None
            continue
        runs = np.array([[100 * r.id, 100 * r.ood] for r in cell.records])
        away = np.array(ellipse_of(cell)) - np.array(point_of(cell))
        distance = np.einsum("ij,jk,ik->i", away, np.linalg.inv(np.cov(runs.T)), away)
        np.testing.assert_allclose(distance, 1)
        # its widest points lie one standard deviation off
        assert away[:, 0].max() == pytest.approx(runs[:, 0].std(ddof=1), rel=0.02)


def test_seeds_that_agree_have_a_flat_ellipse(records):
    two = [changed(record, seed=seed, run=f"{seed}") for record in records[1:2] for seed in (0, 1)]
    (row,) = rows_of(Study(two))
    np.testing.assert_allclose(ellipse_of(row.setting), [point_of(row.setting)] * 33)


def test_the_order_of_methods_is_not_that_in_which_runs_ended(sweep):
    forth, back = rows_of(Study(sweep)), rows_of(Study(sweep[::-1]))
    assert [row.setting.series for row in forth] == [row.setting.series for row in back]


@pytest.mark.parametrize(
    ("method", "options", "label"),
    [
        ("full", {}, "full finetuning"),
        ("full+sam", {"of": {"class_path": "full", "init_args": {}},
                      "adds": [{"class_path": "sam", "init_args": {"rho": 0.1}}]},
         "full finetuning + sam"),
        ("wise_ft", {}, "WiSE-FT"),
        ("wise_ft", {"of": "gmixout+sam"}, "WiSE-FT of gmixout+sam"),
    ],
)  # fmt: skip
def test_a_curve_says_what_its_models_were_made_of(method, options, label):
    record = replace(EXAMPLE, method=MethodFacts.of(method, options))
    (style,) = styles_of(Study([record])).values()
    assert style.name == label
