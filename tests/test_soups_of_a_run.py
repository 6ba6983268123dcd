"""Runs that end in a soup of their own models, in records, comparisons and reports."""

import pytest
import yaml
from records import EXAMPLE, changed
from toy_benchmark import install

from gmixout import bench
from gmixout.bench.grid import _training_of_several
from gmixout.cli import main
from gmixout.errors import StateError
from gmixout.methods import get_method
from gmixout.reports.names import notes_of
from gmixout.results import Record, Study
from gmixout.results.selection import id_validation, last

SOUP = {"soup": "greedy", "soup_of": 3, "validate_every_steps": 2}
RUN = {"steps": 12, "batch_size": 8}


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    install(monkeypatch)


@pytest.mark.usefixtures("_no_report")
def test_the_record_names_the_steps_and_a_finished_run_is_left_as_it_is(tmp_path, capsys):
    (record,) = bench.finetune("toy", method=get_method("full"), out=tmp_path, **RUN, **SOUP)
    own = record.training
    assert {*own.soup_steps} <= {8, 10, 12}
    assert own.settings["soup"] == "greedy"
    assert (own.kept_step, own.taken) == (None, 12)
    assert not record.at_the_end
    assert record.final
    said = " ".join(capsys.readouterr().err.split())
    steps = ", ".join(map(str, sorted(own.soup_steps)))
    assert f"averaged its models of the steps {steps} (greedy soup)" in said
    assert Record.from_json(record.to_json()) == record
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["soup"] == "greedy"
    again = bench.finetune(
        "toy", method=get_method("full"), out=tmp_path, resume=True, **RUN, **SOUP
    )
    assert again == [record]


@pytest.mark.usefixtures("_no_report")
def test_in_a_comparison_all_methods_have_it_and_their_curves_are_apart(tmp_path):
    common = {"methods": [get_method("full"), get_method("gmixout")], "lrs": (3e-3,), "workers": 1}
    plain = bench.compare("toy", out=tmp_path / "a", **common, **RUN)
    soups = bench.compare("toy", out=tmp_path / "b", **common, **RUN, **SOUP)
    assert all(record.training.soup_steps for record in soups)
    assert {record.run for record in plain} & {record.run for record in soups} == set()
    assert {record.training.taken for record in (*plain, *soups)} == {12}
    both = Study([*plain, *soups])
    own = {series for series in both.by_series if 'soup="greedy"' in series[1]}
    assert len(both.by_series) == 4
    assert len(own) == 2
    assert own <= {*both.chosen["id_validation"]}
    assert not own & {*both.chosen["last"]}
    (note,) = [n for n in notes_of(both.records) if "soup of their own run" in n]
    assert note.endswith(": 2")
    assert not [n for n in notes_of(plain) if "soup of their own run" in n]


def test_the_rule_last_takes_no_soup():
    soup = changed(EXAMPLE, run="soup", soup_steps=[100, 300])
    assert last.choose([soup, EXAMPLE]) is EXAMPLE
    assert id_validation.choose([soup]) is soup
    with pytest.raises(StateError, match="or a soup of several"):
        last.choose([soup])


@pytest.mark.parametrize("steps", [[400], [0], [-1], ["x"]])
def test_a_record_with_steps_that_cannot_be_is_refused(steps):
    with pytest.raises(StateError, match="soup_steps"):
        changed(EXAMPLE, soup_steps=steps)


def test_a_soup_of_runs_is_not_one_of_a_run():
    parts = [changed(EXAMPLE, soup_steps=[100, 300]), EXAMPLE]
    assert _training_of_several(parts).soup_steps is None


def test_a_dry_run_counts_its_validations(capsys):
    words = ["finetune", "--benchmark", "toy", "--method", "full", "--steps", "100"]
    words += ["--batch-size", "8", "--dry-run", "--soup"]
    assert main([*words, "greedy"]) == 0
    assert main([*words, "uniform"]) == 0
    assert main([*words, "sweet"]) == 2
    assert "must be one of: none, greedy, uniform" in capsys.readouterr().err
