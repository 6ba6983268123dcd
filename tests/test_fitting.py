"""`--fit`: a batch in as many parts as the device's memory asks for."""

import pytest
import torch
import yaml
from torch import nn
from toy_benchmark import install, net, toy, toy_pretrained

from gmixout import bench
from gmixout.bench import fitting
from gmixout.cli import main
from gmixout.errors import ConfigError, ShortOfMemoryError
from gmixout.methods import get_method

FULL = get_method("full")


class Limited(nn.Module):
    """A model for which more images than a limit are too many, in training."""

    def __init__(self, limit: int, norm: bool = False) -> None:
        super().__init__()
        self.limit, self.net, self.sizes = limit, net(), []
        self.net.dropout.p = 0.0
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()

    def forward(self, images):
        if self.training and len(images) > self.limit:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 2"
            )
        return self.net(self.norm(images))


@pytest.fixture
def limited(monkeypatch):
    """Installs a device that has enough memory for some images in a pass."""

    def put(limit, norm=False):
        start = toy_pretrained(Limited(limit, norm), head="net.head")
        install(monkeypatch, lambda: (toy(), start))
        monkeypatch.setattr(fitting, "_has_limit", lambda device: True)

    return put


def run(out, method=FULL, **settings):
    settings = {"steps": 6, "batch_size": 12, "fit": True, **settings}
    (record,) = bench.finetune("toy", method=method, out=out, **settings)
    return record


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(("limit", "parts"), [(99, 1), (12, 1), (11, 2), (6, 2), (5, 4), (1, 12)])
@pytest.mark.parametrize("name", ["full", "gmixout"])
def test_the_batch_is_computed_in_as_many_parts_as_fit(
    limit, parts, name, tmp_path, limited, capsys
):
    limited(limit)
    record = run(tmp_path / "fit", get_method(name))
    text = said(capsys)
    assert record.training.settings.get("accumulate", 1) == parts
    assert record.training.batch_size == 12
    config = (tmp_path / "fit" / "config.yaml").read_text()
    assert yaml.safe_load(config)["accumulate"] == parts
    assert "# fit: " in config
    if parts == 1:
        assert "fit: the batch of 12 fits" in text
    else:
        assert f"--accumulate {parts}" in text
        assert "a step is still one of 12 images" in text
    limited(99)
    typed = run(tmp_path / "typed", get_method(name), fit=False, accumulate=parts)
    assert (typed.run, typed.training.loss) == (record.run, record.training.loss)
    whole = run(tmp_path / "whole", get_method(name), fit=False)
    assert record.training.loss == pytest.approx(whole.training.loss, rel=1e-5)


@pytest.mark.usefixtures("_no_report")
def test_given_parts_are_where_it_begins(tmp_path, limited):
    limited(99)
    assert run(tmp_path, accumulate=3).training.settings["accumulate"] == 3


def test_a_single_image_that_does_not_fit_is_said_with_what_is_left(tmp_path, limited):
    limited(0)
    with pytest.raises(ConfigError, match=r"not even with one image") as error:
        run(tmp_path / "x")
    text = str(error.value)
    assert "--checkpointing" in text
    assert "--mixed-precision bf16" in text
    assert "--accumulate" not in text
    assert not (tmp_path / "x").exists()


def test_what_sees_the_whole_batch_is_refused_with_the_reason(tmp_path, limited):
    limited(6)
    with pytest.raises(ConfigError, match=r"batch of 12 does not fit.*regmixup"):
        run(tmp_path, get_method("full+regmixup"))


@pytest.mark.usefixtures("_no_report")
def test_batch_norms_that_see_the_parts_are_said(tmp_path, limited, capsys):
    limited(6, norm=True)
    run(tmp_path / "a", freeze_batch_norm=False)
    assert "batch norms see 6 images at a time" in said(capsys)
    run(tmp_path / "b")
    assert "batch norms see" not in said(capsys)


@pytest.mark.usefixtures("_no_report")
def test_a_resumed_run_goes_on_with_the_parts_it_began_with(tmp_path, limited, capsys):
    limited(6)
    record = run(tmp_path)
    limited(99)
    said(capsys)
    assert run(tmp_path, resume=True) == record
    text = said(capsys)
    assert "fit: accumulate 2, as the run began" in text
    assert "nothing was trained" in text


@pytest.mark.usefixtures("_no_report")
def test_on_a_cpu_there_is_nothing_to_fit_and_it_says_so(tmp_path, monkeypatch, capsys):
    install(monkeypatch)
    record = run(tmp_path)
    assert "fit: nothing to fit on a CPU" in said(capsys)
    assert "accumulate" not in record.training.settings


def test_an_error_that_is_not_of_memory_is_not_taken_for_one(tmp_path, limited, monkeypatch):
    limited(99)
    with pytest.raises(ConfigError, match="batch_size"):
        run(tmp_path, batch_size=500)
    monkeypatch.setattr(Limited, "forward", lambda self, images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)


def test_without_it_the_error_lists_what_to_lower_with_values(tmp_path, limited, capsys):
    limited(6)
    with pytest.raises(ShortOfMemoryError, match=r"--accumulate 2 \(passes of 6 images, now 12"):
        run(tmp_path / "a", fit=False)
    words = ["finetune", "--benchmark", "toy", "--method", "full", "--steps", "4"]
    words += ["--batch-size", "12", "--out", str(tmp_path / "b"), "--no-fit"]
    assert main(words) == 2
    assert "finetune --fit finds the value" in " ".join(capsys.readouterr().err.split())
