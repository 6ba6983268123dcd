"""`gmixout doctor`: what is there, what is missing for what, and the speed."""

import re
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
import torch

from gmixout.bench.commands import doctor as module
from gmixout.cli import main


def printed(capsys, *words):
    assert main(["doctor", *words]) == 0
    return capsys.readouterr().out


def test_every_extra_for_users_has_a_purpose():
    known = {*(metadata("gmixout").get_all("Provides-Extra") or [])}
    project = Path(__file__).parents[1] / "pyproject.toml"
    if project.exists():  # it may have more than what was installed from it
        part = project.read_text().partition("[project.optional-dependencies]")[2]
        known |= {*re.findall(r"^([\w-]+) = \[", part.partition("\n[")[0], re.M)}
    assert known - {"all", "dev", "integrations-test", "docs"} <= module.PURPOSES.keys()


def test_versions_devices_and_extras_are_shown(capsys):
    text = printed(capsys, "--no-speed")
    for word in ("python", "torch", "device", "CPU threads", "memory", "cache"):
        assert word in text
    for extra in ("vision", "train", "report", "lora", "hub"):
        assert any(line.split()[:1] == [extra] for line in text.splitlines())
    assert "speed" not in text
    assert torch.__version__ in text


def test_what_is_missing_or_too_old_is_named_with_its_purpose(capsys, monkeypatch):
    def other(name):
        if name == "peft":
            raise PackageNotFoundError(name)
        return "0.1" if name == "timm" else version(name)

    monkeypatch.setattr(module, "version", other)
    text = printed(capsys, "--no-speed")
    lora = "lacks peft (LoRA and other adapters): pip install 'gmixout[lora]'"
    assert lora in text
    assert "lacks timm (0.1 is too old)" in text
    assert "report        complete" in text


def test_the_speed_is_measured_and_leaves_the_generator_alone(rng_untouched):
    with rng_untouched():
        rate = module.images_per_second(torch.device("cpu"), seconds=0.0)
    assert 0 < rate < 1e6


@pytest.mark.parametrize("counts", [[5, 1, 1, 1], [1, 1, 1, 9]])
def test_the_speed_is_a_median_without_the_warm_up(counts, monkeypatch):
    clock = [0.0]
    lasting = iter(counts)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])

    def step():
        clock[0] += next(lasting)

    assert module._median_seconds(step, torch.device("cpu"), seconds=sum(counts)) == 1
