"""The measurement of what `gmixout data check` finds runs, and its copies are what they say."""

import sys

import numpy as np
import pytest
from PIL import Image

near_copies = pytest.importorskip("near_copies")


def test_copies_are_smaller_cropped_or_turned():
    picture = Image.new("RGB", (80, 40))
    sizes = {name: copied(picture).size for name, copied in near_copies.COPIES.items()}
    assert sizes["half the size"] == (40, 20)
    assert sizes["8 % cropped"] == (74, 38)
    assert sizes["mirrored"] == (80, 40)


def test_a_copy_that_is_only_smaller_is_found(tmp_path, monkeypatch, capsys):
    pytest.importorskip("imagehash")
    draws = np.random.default_rng(0)
    for number in range(4):
        coarse = Image.fromarray(draws.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((96, 96), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(sys, "argv", ["near_copies.py", "--data", str(tmp_path)])
    near_copies.main()
    printed = capsys.readouterr().out
    assert "| half the size | 100% |" in printed
    assert "0 of 6 pairs" in printed
