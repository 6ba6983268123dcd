import os
import subprocess
import sys

import pytest

from gmixout.errors import StateError
from gmixout.files import write_atomically, write_text


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


def test_what_killed_processes_left_is_deleted_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    file, others = tmp_path / "a[1].txt", {f".a1.txt.{dead.pid}.tmp", ".a[1].txt.notes.tmp"}
    others |= {f".a[1].txt.{os.getppid()}.tmp"}  # at work
    for name in (*others, f".a[1].txt.{dead.pid}.tmp", f".a[1].txt.{2**70}.tmp"):
        (tmp_path / name).write_text("half")
    write_text(file, "whole")
    assert {path.name for path in tmp_path.iterdir()} == {file.name, *others}
