"""Runs that keep their best model by in-domain validation, in records, comparisons and reports."""

import pytest
import yaml
from records import EXAMPLE, changed
from toy_benchmark import install

from gmixout import bench
from gmixout.bench import job as job_module
from gmixout.bench.folder import load_model
from gmixout.bench.grid import _training_of_several
from gmixout.cli import main
from gmixout.errors import StateError
from gmixout.methods import get_method
from gmixout.reports.names import notes_of
from gmixout.reports.rows import rows_of
from gmixout.results import Record, Study
from gmixout.results.selection import id_validation, last
from gmixout.training import TrainingArguments

KEEP = {"select": "id_validation", "validate_every_steps": 2}
TOO_HIGH = {"lr": 3.0, "head_lr": None, "schedule": "constant", "max_grad_norm": None}
"""A rate that ends worse than it was on the way."""


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    install(monkeypatch)


def run(out, **settings):
    settings = {"steps": 12, "batch_size": 8, **settings}
    method = get_method(settings.pop("method", "full"))
    (record,) = bench.finetune("toy", method=method, out=out, **settings)
    return record


@pytest.mark.usefixtures("_no_report")
def test_the_record_names_the_step_and_scores_the_kept_model(tmp_path, capsys, monkeypatch):
    values, validate = [], job_module.Job.validate

    def note(self, state):
        values.append(validate(self, state))
        return values[-1]

    monkeypatch.setattr(job_module.Job, "validate", note)
    record = run(tmp_path, **KEEP, **TOO_HIGH)
    steps = [2, 4, 6, 8, 10, 12]
    values = values[: len(steps)]  # then that of the start
    assert record.training.kept_step == steps[values.index(max(values))]
    assert record.training.kept_step < record.training.taken == 12
    assert record.id_val == max(values)
    assert record.final
    assert not record.at_the_end
    assert record.training.settings["select"] == "id_validation"
    said = " ".join(capsys.readouterr().err.split())
    assert f"kept the model of step {record.training.kept_step} of 12, the best on ID" in said
    again = Record.from_json(record.to_json())
    assert again == record
    held = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert held["select"] == "id_validation"
    assert load_model(tmp_path)[1]["run"] == record.run


@pytest.mark.usefixtures("_no_report")
def test_patience_ends_a_run_early_and_resuming_leaves_it_so(tmp_path, capsys):
    record = run(tmp_path, **KEEP, patience=1, **TOO_HIGH)
    own = record.training
    assert own.taken < own.steps == 12
    assert own.taken - own.kept_step == 2
    assert "stopped early, 12 were planned" in " ".join(capsys.readouterr().err.split())
    assert run(tmp_path, **KEEP, patience=1, **TOO_HIGH, resume=True) == record
    with pytest.raises(StateError, match="holds another run: patience"):
        run(tmp_path, **KEEP, patience=2, **TOO_HIGH, resume=True)
    with pytest.raises(StateError, match="stopped early, at step"):
        bench.diagnose(tmp_path)


def test_other_runs_have_the_records_that_they_had(tmp_path, monkeypatch):
    monkeypatch.setattr("gmixout.bench.commands.report.write_report", lambda *_, **__: [])
    record = run(tmp_path)
    assert (record.training.kept_step, record.training.done_steps) == (None, None)
    assert record.at_the_end
    assert not {"select", "patience", "validate_every_steps"} & record.training.settings.keys()


@pytest.mark.usefixtures("_no_report")
def test_curves_of_selected_runs_are_apart_and_not_the_last(tmp_path):
    common = {"methods": [get_method("full")], "lrs": (3.0,), "steps": 12, "batch_size": 8}
    common |= {"workers": 1, "head_lr": None, "schedule": "constant"}
    plain = bench.compare("toy", out=tmp_path / "a", seeds=(0, 1), **common)
    kept = bench.compare("toy", out=tmp_path / "b", seeds=(0, 1), **common, **KEEP, patience=1)
    assert len({record.step for record in kept}) == 1  # seeds that kept different steps are one
    both = Study([*plain, *kept])
    assert len(both.by_series) == 2
    (variant,) = [v for _, v in both.by_series if v]
    assert {"patience=1", 'select="id_validation"'} <= set(variant.split(", "))
    own = ("full", variant)
    assert own in both.chosen["id_validation"]
    assert own not in both.chosen["last"]
    assert len(both.chosen["last"]) == 1
    assert [row.chosen_by for row in rows_of(both) if row.setting.series == own] == [
        frozenset({"id_validation", "oracle"})
    ]
    (note,) = [n for n in notes_of(both.records) if "best of their run" in n]
    assert "on ID validation, not its last: 2;" in note
    assert "stopped early, after" in note
    assert "budgets are not equal" in note
    assert not [n for n in notes_of(plain) if "best of their run" in n]


def test_the_rule_last_takes_no_model_that_was_kept_early():
    usual = EXAMPLE
    early = changed(usual, run="early", kept_step=100, done_steps=200, lr=1e-2)
    late = changed(usual, run="late", kept_step=300, done_steps=300, lr=1e-4)
    assert last.choose([early, usual]) is usual
    assert last.choose([late]) is late
    assert id_validation.choose([early]) is early
    with pytest.raises(StateError, match="kept their best"):
        last.choose([early])


@pytest.mark.parametrize(("kept", "done"), [(400, 400), (200, 100), (100, 301), (301, None)])
def test_a_record_with_steps_that_cannot_be_is_refused(kept, done):
    with pytest.raises(StateError, match="kept_step"):
        changed(EXAMPLE, kept_step=kept, done_steps=done)


def test_a_soup_counts_the_steps_that_were_taken():
    parts = [changed(EXAMPLE, kept_step=100, done_steps=done) for done in (150, 300)]
    pooled = _training_of_several(parts)
    assert (pooled.steps, pooled.step, pooled.kept_step, pooled.done_steps) == (
        450,
        450,
        None,
        None,
    )


def test_a_dry_run_counts_validations(capsys):
    words = ["--benchmark", "toy", "--method", "full", "--steps", "100", "--batch-size", "8"]
    for more in ([], ["--select", "id_validation", "--patience", "2", "--accumulate", "2"]):
        assert main(["finetune", *words, "--dry-run", *more]) == 0
    assert capsys.readouterr().out.count("Nothing was written") == 2
    assert len(TrainingArguments(steps=100, select="id_validation").validate_at) == 9


def test_a_prediction_knows_parts_of_a_batch_and_refuses_checkpointing(capsys):
    words = ["--benchmark", "digits", "--method", "full", "--steps", "9", "--dry-run"]
    words += ["--device-spec", "h100"]
    memory = []
    for more in ([], ["--accumulate", "4"]):
        assert main(["finetune", *words, *more]) == 0
        memory.append(capsys.readouterr().out)
    assert memory[0] != memory[1]
    assert main(["finetune", *words, "--checkpointing"]) == 2
    assert "checkpointing" in capsys.readouterr().err
