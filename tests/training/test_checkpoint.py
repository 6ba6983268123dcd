import pytest
import torch

from gmixout.errors import StateError
from gmixout.training.checkpoint import load_checkpoint, save_checkpoint, write_atomically


def test_round_trip(tmp_path):
    file = tmp_path / "new" / "checkpoint.pt"
    save_checkpoint(file, "abc", {"model": {"w": torch.arange(3.0)}, "step": 4})
    state = load_checkpoint(file, "abc")
    assert torch.equal(state["model"]["w"], torch.arange(3.0))
    assert state["step"] == 4
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path, share):
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, "abc", {"w": torch.randn(500)})
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StateError, match=r"truncated.*--overwrite"):
        load_checkpoint(file, "abc")


def test_a_foreign_file(tmp_path):
    file = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": {}}, file)
    with pytest.raises(StateError, match="no checkpoint of gmixout"):
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


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StateError, match=r"cannot write .*file: No space left"):
        write_atomically(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
