"""Temperature scaling: the minimum of the loss, and what cannot be fitted."""

import json
import shutil

import pytest
import torch
from torch.nn.functional import cross_entropy

import gmixout
from gmixout.bench import calibrate
from gmixout.cli import main
from gmixout.errors import DataError
from gmixout.use.calibration import COLDEST, HOTTEST, fit_temperature


def drawn(temperature, count=20000, classes=5):
    """Logits whose softmax at a temperature is the distribution of their labels."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(count, classes, generator=generator)
    shares = (logits / temperature).softmax(1)
    return logits, torch.multinomial(shares, 1, generator=generator).flatten()


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_finds_the_temperature_that_labels_were_drawn_at(temperature):
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_is_the_minimum_and_scales_with_the_logits():
    logits, labels = drawn(2.0, count=300)
    found = fit_temperature(logits, labels)
    loss = [cross_entropy(logits.double() / t, labels) for t in (found, 0.99 * found, 1.01 * found)]
    assert min(loss) == loss[0]
    assert fit_temperature(7 * logits, labels) == pytest.approx(7 * found, rel=1e-3)


def test_few_or_perfect_or_useless_images_give_no_certainty():
    logits = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == 1  # all are right: no minimum
    assert fit_temperature(logits[:1], torch.tensor([0])) == 1
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(HOTTEST, rel=0.01)
    assert fit_temperature(torch.ones(4, 1), torch.zeros(4, dtype=torch.int64)) == 1
    assert COLDEST <= fit_temperature(*drawn(1e-4, count=50)) <= HOTTEST


def test_finetuning_leaves_what_the_command_finds(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "calibration.json").unlink()
    assert main(["calibrate", str(copy)]) == 0
    assert (copy / "calibration.json").read_bytes() == (run / "calibration.json").read_bytes()
    held = json.loads((run / "calibration.json").read_text())
    assert held["nll"][1] <= held["nll"][0]
    assert held["images"] == 16
    assert f"temperature {held['temperature']:.3f}" in capsys.readouterr().out


def test_calibrating_changes_no_class(run, photos):
    model = gmixout.load(run)
    files = sorted(photos.glob("test/*/*.jpg"))
    before = gmixout.load(run)
    before.temperature = 1.0
    assert torch.equal(model.predict(files).argmax(1), before.predict(files).argmax(1))


def test_data_that_moved_or_is_gone(run, photos, tmp_path):
    moved = shutil.copytree(photos, tmp_path / "moved")
    copy = shutil.copytree(run, tmp_path / "copy")
    assert calibrate(copy, moved) == calibrate(copy)
    with pytest.raises(DataError, match="gone"):
        calibrate(copy, tmp_path / "gone")
