import random

import pytest
import torch

from gmixout.errors import GmixoutError, StateError
from gmixout.training import checkpoint
from gmixout.training.checkpoint import (
    check_form,
    check_moments,
    delete_checkpoint,
    is_there,
    load_checkpoint,
    previous,
    save_checkpoint,
    taking_up,
)


def test_round_trip(tmp_path):
    file = tmp_path / "new" / "checkpoint.pt"
    save_checkpoint(file, "abc", {"model": {"w": torch.arange(3.0)}, "step": 4})
    state = load_checkpoint(file, "abc")
    assert torch.equal(state["model"]["w"], torch.arange(3.0))
    assert state["step"] == 4
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert torch.load(file, weights_only=True)["step"] == 4  # it stays a file of torch


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path, share):
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, "abc", {"w": torch.randn(500)})
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StateError, match=r"(truncated|damaged).*--overwrite"):
        load_checkpoint(file, "abc")


def test_every_flipped_bit_is_noticed(tmp_path):
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, "abc", {"model": {"w": torch.randn(100)}, "step": 4})
    content = file.read_bytes()
    generator = random.Random(0)
    places = generator.sample(range(len(content)), 150) + list(range(-100, 0))
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(StateError, match=r"checkpoint\.pt"):
            load_checkpoint(file, "abc")


def test_the_one_before_is_taken_where_the_latest_is_damaged_or_was_never_finished(
    tmp_path, capsys
):
    file = tmp_path / "checkpoint.pt"
    for step in (1, 2, 3):
        save_checkpoint(file, "abc", {"step": step})
    assert load_checkpoint(file, "abc")["step"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {file.name, previous(file).name}
    file.write_bytes(file.read_bytes()[:-300])
    assert load_checkpoint(file, "abc")["step"] == 2
    said = capsys.readouterr().err
    assert "checkpoint.pt" in said
    assert "the one before it, checkpoint.previous.pt" in said
    file.unlink()  # killed between two renames
    assert is_there(file)
    assert load_checkpoint(file, "abc")["step"] == 2
    save_checkpoint(file, "abc", {"step": 4})
    previous(file).write_bytes(b"no")
    file.write_bytes(b"no")
    with pytest.raises(StateError, match=r"checkpoint\.pt cannot be read"):
        load_checkpoint(file, "abc")
    delete_checkpoint(file)
    assert not is_there(file)


def test_a_checkpoint_must_have_a_checksum(tmp_path):
    file = tmp_path / "checkpoint.pt"
    torch.save({"format": "gmixout checkpoint 2", "run": "abc", "step": 5}, file)
    with pytest.raises(StateError, match="lost its checksum"):
        load_checkpoint(file, "abc")


def test_a_foreign_file(tmp_path):
    file = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": {}}, file)
    with pytest.raises(StateError, match="not a checkpoint of gmixout"):
        load_checkpoint(file, "abc")
    torch.save(torch.nn.Linear(2, 2), file)  # a pickled object must not be run
    with pytest.raises(StateError, match="cannot be read"):
        load_checkpoint(file, "abc")
    file.write_text("hello")
    with pytest.raises(StateError, match="cannot be read"):
        load_checkpoint(file, "abc")


def test_the_checkpoint_of_another_run(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", "abc", {})
    with pytest.raises(StateError, match=r"another run \(abc, this one is xyz\)"):
        load_checkpoint(tmp_path / "checkpoint.pt", "xyz")


def test_a_full_disk_is_said_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, "abc", {"step": 1})

    def full(content, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(StateError, match=r"cannot write .*checkpoint\.pt.*disk is full"):
        save_checkpoint(file, "abc", {"step": 2})
    assert load_checkpoint(file, "abc")["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


OWN = {"w": torch.zeros(2, 3), "steps": [1, 2], "lr": 0.1, "name": "a", "none": None}


@pytest.mark.parametrize(
    "saved",
    [
        OWN | {"w": torch.zeros(3, 2)},
        OWN | {"w": torch.zeros(2, 3, dtype=torch.int64)},
        OWN | {"w": [0.0]},
        OWN | {"steps": [1]},
        OWN | {"steps": (1, 2)},
        OWN | {"steps": [1, "2"]},
        OWN | {"lr": float("nan")},
        OWN | {"lr": "0.1"},
        OWN | {"name": 1},
        OWN | {"none": 1},
        OWN | {"more": 1},
        {},
        [],
        None,
    ],
)
def test_another_form_is_refused(saved):
    check_form(OWN | {"lr": 3}, OWN, "own")
    with pytest.raises(StateError, match=r"for own.*--overwrite"):
        check_form(saved, OWN, "own")


@pytest.mark.parametrize(
    "saved",
    [
        {2: {"m": torch.zeros(2)}},
        {"0": {"m": torch.zeros(2)}},
        {0: {"m": torch.zeros(3)}},
        {0: {"m": torch.zeros(2, dtype=torch.int64)}},
    ],
)
def test_moments_of_other_parameters_are_refused(saved):
    shapes = [torch.Size([2]), torch.Size([4])]
    check_moments({1: {"m": torch.zeros(4), "step": torch.zeros(())}}, shapes)
    with pytest.raises(StateError, match="other parameters"):
        check_moments(saved, shapes)


@pytest.mark.parametrize("error", [KeyError("w"), TypeError("no"), RuntimeError("size\nmismatch")])
def test_what_libraries_make_of_a_state_is_said_plainly(error):
    with pytest.raises(StateError, match=r"does not fit this run.*--overwrite"), taking_up():
        raise error
    with pytest.raises(GmixoutError, match="own words"), taking_up():
        raise GmixoutError("own words")
