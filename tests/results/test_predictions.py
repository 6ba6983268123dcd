"""Predictions in a run folder: read back as they were written, whatever happened to the file."""

import json
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gmixout.errors import StateError
from gmixout.results.other_classes import OtherClasses, add_other_classes, read_other_classes
from gmixout.results.predictions import (
    Mistake,
    RunPredictions,
    SetPredictions,
    load_predictions,
    save_predictions,
)


def made(count=6, classes=("a", "b", "c"), start=True, mistakes=()):
    draw = torch.Generator().manual_seed(count)

    def labels():
        return torch.randint(len(classes), (count,), generator=draw).int()

    return SetPredictions(
        labels(),
        labels(),
        torch.rand(count, generator=draw),
        torch.rand(count, generator=draw),
        labels() if start else None,
        mistakes=tuple(mistakes),
    )


def run_of(**sets):
    return RunPredictions("0" * 64, 1.5, ("a", "b", "c"), "zero_shot", sets)


def equal(one, other):
    assert one.sets.keys() == other.sets.keys()
    assert replace(one, sets={}) == replace(other, sets={})
    for name, each in one.sets.items():
        there = vars(other.sets[name])
        for column, value in vars(each).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, there[column])
            else:
                assert value == there[column]


names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=9)


a_set = st.tuples(names, st.integers(1, 9), st.booleans(), st.binary(max_size=40))
some_sets = st.lists(a_set, unique_by=lambda each: each[0], max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some_sets)
def test_what_is_written_is_read(tmp_path, drawn):
    found = run_of(
        **{
            name: made(count, start=start, mistakes=[Mistake(0, name, jpeg)])
            for name, count, start, jpeg in drawn
        }
    )
    save_predictions(tmp_path / "p.safetensors", found)
    equal(load_predictions(tmp_path / "p.safetensors"), found)


def test_a_set_with_other_classes_and_one_of_unknown_ones(tmp_path):
    unknown = replace(made(), classes=("x",), labels=torch.zeros(6).int())
    found = run_of(**{"id_test": made(), "unknown/animals": unknown})
    save_predictions(tmp_path / "p.safetensors", found)
    equal(load_predictions(tmp_path / "p.safetensors"), found)


def test_there_is_none(tmp_path):
    assert load_predictions(tmp_path / "p.safetensors") is None


def broken(change):
    found = made()
    return run_of(id_test=replace(found, **change(found)))


COLUMNS = ("labels", "predicted", "confidence", "calibrated", "start")
BROKEN = {
    "label": lambda found: {"labels": found.labels + 3},
    "negative": lambda found: {"predicted": found.predicted - 9},
    "length": lambda found: {"confidence": found.confidence[1:]},
    "nan": lambda found: {"calibrated": found.calibrated * float("nan")},
    "above one": lambda found: {"confidence": found.confidence + 1.1},
    "empty": lambda found: {n: getattr(found, n)[:0] for n in COLUMNS},
    "mistake": lambda found: {"mistakes": (Mistake(6, "x"),)},
    "picture": lambda found: {"mistakes": (Mistake(0, "x", b"x" * 2**16),)},
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_values_that_do_not_fit_are_refused(kind, tmp_path):
    save_predictions(tmp_path / "p.safetensors", broken(BROKEN[kind]))
    with pytest.raises(StateError, match=r"cannot be read .*delete it; `gmixout evaluate"):
        load_predictions(tmp_path / "p.safetensors")


def test_a_damaged_or_foreign_file_is_an_error_and_never_a_crash(tmp_path):
    file = tmp_path / "p.safetensors"
    save_predictions(file, run_of(id_test=made()))
    whole = file.read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        held = bytearray(whole)
        held[draw.randrange(min(400, len(held)))] ^= 1 << draw.randrange(8)
        file.write_bytes(held)
        try:
            load_predictions(file)
        except StateError as error:
            assert "gmixout evaluate" in str(error)  # noqa: PT017
    for content in (b"", whole[:50], b"x" * 100):
        file.write_bytes(content)
        with pytest.raises(StateError):
            load_predictions(file)
    save_file({"0.labels": torch.zeros(2)}, file)
    with pytest.raises(StateError):
        load_predictions(file)
    save_file({}, file, {"predictions": json.dumps({"sets": [{"name": "id_test"}]})})
    with pytest.raises(StateError):
        load_predictions(file)


def other(data, after):
    return OtherClasses(data=data, classes=5, images=50, before=0.5, after=after)


def test_other_classes_are_kept_by_data_and_model(tmp_path):
    file = tmp_path / "other.json"
    assert read_other_classes(file, "m") == []
    add_other_classes(file, "m", other("birds", 0.4))
    add_other_classes(file, "m", other("cars", 0.3))
    add_other_classes(file, "m", other("birds", 0.2))
    assert read_other_classes(file, "m") == [other("cars", 0.3), other("birds", 0.2)]
    assert read_other_classes(file, "of other weights") == []
    for content in ('{"model": "m"}', "[", '{"model": "m", "measured": [{"data": 3}]}'):
        file.write_text(content)
        with pytest.raises(StateError, match="delete it"):
            read_other_classes(file, "m")
