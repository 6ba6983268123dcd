import matplotlib
import pytest

from gmixout.reports.figure import id_ood_figure, save_id_ood_figure
from gmixout.reports.style import focus, paths_of, point_of, rate, whole
from gmixout.reports.table import rows_of


def cells_of(records):
    return [row.cell for row in rows_of(records)]


def test_every_method_is_in_the_legend_and_every_setting_in_the_picture(records):
    figure = id_ood_figure(records)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == list(dict.fromkeys(row.label for row in rows_of(records)))
    drawn = {
        tuple(line.get_xydata()[0]) for line in figure.axes[0].lines if len(line.get_xdata()) == 1
    }
    assert {tuple(point_of(cell)) for cell in cells_of(records)} <= drawn


def test_the_close_up_shows_the_trade_offs_and_not_the_outliers(records):
    cells = cells_of(records)
    view = focus(cells)
    inside = {(c.method, c.lr) for c in cells if view.holds(point_of(c)) and c.alpha is None}
    assert ("zero_shot", None) not in inside
    assert ("full", 3e-3) not in inside
    assert len(inside) == 9
    assert all(whole(cells).holds(point_of(cell)) for cell in cells)
    assert len(id_ood_figure(records).axes) == 2


def test_one_plot_where_nothing_lies_far_off(records):
    near = [record for record in records if record.method in ("mixout", "gmixout")]
    assert len(id_ood_figure(near).axes) == 1


def test_lines_over_alpha_end_at_the_models_they_interpolate(records):
    lines = [path for series, path in paths_of(cells_of(records)) if series[0] == "wise_ft"]
    assert len(lines) == 2
    for line in lines:
        assert (line[0].method, line[-1].method) == ("zero_shot", "full")
        assert line[-1].lr == line[1].lr
        assert [cell.alpha for cell in line[1:-1]] == sorted(cell.alpha for cell in line[1:-1])


def test_one_seed_has_no_bars(records):
    assert id_ood_figure(records).axes[-1].containers
    one = id_ood_figure([record for record in records if record.seed == 0])
    assert not one.axes[-1].containers
    assert "One seed" in one._supxlabel.get_text()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_records_make_a_picture(records, count, tmp_path):
    path = save_id_ood_figure(records[:count], tmp_path / "id_ood.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_global_settings_of_matplotlib_are_untouched(records, tmp_path):
    before = dict(matplotlib.rcParams)
    save_id_ood_figure(records, tmp_path / "id_ood.png")
    assert dict(matplotlib.rcParams) == before
    assert [path.name for path in tmp_path.iterdir()] == ["id_ood.png"]


def test_rates_read_as_people_write_them():
    assert [rate(v) for v in (1e-3, 3e-4, 0.02, 2.5e-3, None)] == [
        "1e-3",
        "3e-4",
        "2e-2",
        "2.5e-3",
        "",
    ]
