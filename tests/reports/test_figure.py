from dataclasses import replace
from functools import partial
from itertools import pairwise

import matplotlib as mpl
import pytest
from records import changed
from report_records import STYLES, all_methods, make_records, poisoned

from gmixout.reports.figure import (
    LIGHT,
    SWEPT,
    cost_figure,
    id_ood_figure,
    save_figure,
    sweep_figure,
)
from gmixout.reports.rows import rows_of
from gmixout.reports.style import focus, paths_of, point_of, rate, whole
from gmixout.reports.sweeps import sweeps_of
from gmixout.results import Study


def cells_of(records):
    return [row.setting for row in rows_of(Study(records))]


def names_in(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_every_method_is_in_the_legend_and_every_setting_in_the_picture(records):
    figure = id_ood_figure(Study(records))
    assert names_in(figure) == list(dict.fromkeys(row.label for row in rows_of(Study(records))))
    drawn = {
        tuple(line.get_xydata()[0]) for line in figure.axes[0].lines if len(line.get_xdata()) == 1
    }
    assert {tuple(point_of(cell)) for cell in cells_of(records)} <= drawn


def test_of_many_methods_some_are_grey_and_named_beside_their_points(every_method):
    figure = id_ood_figure(Study(every_method))
    beside = [text for text in figure.axes[-1].texts if text.get_text()]
    names = [text.get_text() for text in beside]
    assert len(names_in(figure)) < 12
    assert not set(names) & set(names_in(figure))
    view = focus(cells_of(every_method))
    seen = {
        row.label
        for row in rows_of(Study(every_method))
        if row.selected and view.holds(point_of(row.setting))
    }
    assert seen <= set(names) | set(names_in(figure))
    grey = [line for line in figure.axes[-1].lines if line.get_color() == LIGHT]
    light = [row for row in rows_of(Study(every_method)) if not row.style.main]
    # one line a curve, one marker a setting
    assert len(grey) == len({row.setting.series for row in light}) + len(light)


def test_names_beside_do_not_cover_each_other():
    # close together at the lower edge, where they can only be pushed upwards
    alike = [r if STYLES[r[0]].main else (*r[:3], 95.0, 66.0, 58.0) for r in all_methods()]
    records = make_records(alike)
    axes = id_ood_figure(Study(records)).axes[-1]
    places = sorted(text.xyann[1] for text in axes.texts if text.get_text())
    assert len(places) == sum(not style.main for style in STYLES.values())
    low, high = axes.get_ylim()
    assert min(b - a for a, b in pairwise(places)) > 0.04 * (high - low)
    assert low < places[0] < places[-1] < high


def test_the_close_up_shows_the_trade_offs_and_not_the_outliers(records):
    cells = cells_of(records)
    view = focus(cells)
    inside = {(c.method, c.lr) for c in cells if view.holds(point_of(c)) and c.alpha is None}
    assert ("zero_shot", None) not in inside
    assert ("full", 3e-3) not in inside
    assert len(inside) == 9
    assert all(whole(cells).holds(point_of(cell)) for cell in cells)
    assert len(id_ood_figure(Study(records)).axes) == 2


def test_the_close_up_shows_the_zero_shot_model_where_it_is_near(records):
    cells = cells_of(records)
    (start,) = (cell for cell in cells if cell.method == "zero_shot")
    # four points below the best, and above all others out of domain
    top = max(point_of(cell).id for cell in cells)
    accuracy = dict.fromkeys(start.records[0].scores, 0.95)
    accuracy |= {"id_test": top / 100 - 0.04}
    near = replace(start, records=tuple(changed(r, accuracy=accuracy) for r in start.records))
    view = focus([near if cell is start else cell for cell in cells])
    assert view.holds(point_of(near))
    assert not focus(cells).holds(point_of(near))


def test_one_plot_where_nothing_lies_far_off(records):
    near = [record for record in records if record.method.name in ("mixout", "gmixout")]
    assert len(id_ood_figure(Study(near)).axes) == 1


def test_lines_over_alpha_end_at_the_models_they_interpolate(records):
    lines = [path for series, path in paths_of(cells_of(records)) if series[0] == "wise_ft"]
    assert len(lines) == 2
    for line in lines:
        assert (line[0].method, line[-1].method) == ("zero_shot", "full")
        assert line[-1].lr == line[1].lr
        assert [cell.alpha for cell in line[1:-1]] == sorted(cell.alpha for cell in line[1:-1])


def test_one_seed_has_no_ellipses(records):
    assert id_ood_figure(Study(records)).axes[-1].patches
    one = id_ood_figure(Study([record for record in records if record.seed == 0]))
    assert not one.axes[-1].patches
    assert "One seed" in one._supxlabel.get_text()


def test_costs_are_those_of_the_chosen_settings(records):
    figure = cost_figure(Study(records))
    assert [axes.get_xlabel() for axes in figure.axes] == ["step ms", "mem MB", "train %"]
    chosen = [row for row in rows_of(Study(records)) if row.selected and row.setting.lr is not None]
    assert names_in(figure) == [row.label for row in chosen]
    for axes in figure.axes:
        drawn = {round(container.lines[0].get_ydata()[0], 6) for container in axes.containers}
        assert drawn == {round(point_of(row.setting).ood, 6) for row in chosen}
        assert axes.get_xlim()[0] == 0


def save(draw, records, path):
    return save_figure(partial(draw, Study(records)), path)


@pytest.mark.parametrize("draw", [id_ood_figure, cost_figure])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_records_make_a_picture(records, count, draw, tmp_path):
    path = save(draw, records[:count], tmp_path / "picture.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_equal_records_make_equal_files(records, tmp_path):
    for kind in ("png", "svg"):
        first = save(id_ood_figure, records[:5], tmp_path / f"one.{kind}").read_bytes()
        assert save(id_ood_figure, records[:5], tmp_path / f"two.{kind}").read_bytes() == first


def test_names_are_no_mathematics_and_no_markup(records, tmp_path):
    odd = [
        changed(record, method=r"a_$\frac$" + record.method.name) for record in poisoned(records)
    ]
    for draw in (id_ood_figure, cost_figure):
        svg = save(draw, odd, tmp_path / "odd.svg").read_text()
        assert "<script" not in svg


def test_global_settings_of_matplotlib_are_untouched(records, tmp_path):
    before = dict(mpl.rcParams)
    save(id_ood_figure, records, tmp_path / "id_ood.svg")
    assert dict(mpl.rcParams) == before
    assert [path.name for path in tmp_path.iterdir()] == ["id_ood.svg"]


def test_a_field_of_a_sweep_is_the_median_over_what_else_was_varied(sweep):
    (plot,) = [each for each in _gmixout(sweep)["plots"] if len(each["options"]) == 2]
    figure = sweep_figure(Study([record for record in sweep if record.method.name == "gmixout"]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"{name} %" for name in SWEPT]
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == tuple(plot["options"])
    drawn = axes.images[0].get_array()
    for point in plot["points"]:
        x, y = point["at"]
        assert drawn[y, x] == point["median"][0]
    assert len(axes.texts) == len(plot["points"])


def test_a_legend_does_not_name_every_setting_of_a_large_sweep(sweep):
    def settings(count):
        return [
            changed(r, options={"k": k}, run=f"{r.run}{k}")
            for k, r in enumerate([r for r in sweep if r.method.name == "gmixout"][:count])
        ]

    assert names_in(id_ood_figure(Study(settings(7)))) == ["GMixout, 7 settings"]
    assert len(names_in(id_ood_figure(Study(settings(3))))) == 3


def test_one_option_is_drawn_as_a_line(sweep):
    figure = sweep_figure(Study([record for record in sweep if record.method.name == "lora"]))
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len(line.get_xdata()) == 3
    assert figure.axes[0].get_xlabel() == "rank"


def _gmixout(sweep):
    own = [record for record in sweep if record.method.name == "gmixout"]
    (found,) = sweeps_of(rows_of(Study(own)))
    return found


def test_rates_read_as_people_write_them():
    assert [rate(v) for v in (1e-3, 3e-4, 0.02, 2.5e-3, None)] == [
        "1e-3",
        "3e-4",
        "2e-2",
        "2.5e-3",
        "",
    ]
