"""A linear probe as the head: the minimum of its convex problem."""

import pytest
import torch
from tiny_foundations import CLASSES, FOLDERS, hf_vit
from torch.nn import functional
from torch.utils.data import TensorDataset

from gmixout.errors import ConfigError
from gmixout.models import linear_probe_head, load_pretrained

GENERATOR = torch.Generator().manual_seed(5)
LABELS = torch.arange(30) % 3
IMAGES = torch.randn(30, 3, 32, 32, generator=GENERATOR) + LABELS[:, None, None, None].float() / 2


class Pictures(TensorDataset):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, int(label)


DATA = Pictures(IMAGES, LABELS)


@pytest.mark.parametrize("kind", ["timm", "open_clip", "hf dinov2"])
def test_is_at_the_minimum(tmp_path, kind, monkeypatch):
    """There the gradient of mean cross entropy and penalty vanishes, in however many parts."""
    monkeypatch.setattr("gmixout.models.probe.ROWS", 13)
    pretrained = load_pretrained(str(FOLDERS[kind](tmp_path)), CLASSES)
    probe = linear_probe_head(pretrained, DATA, penalty=1e-2, batch_size=7)
    (name,) = probe.heads
    head = probe.model.get_submodule(name)
    loss = functional.cross_entropy(probe.model(IMAGES), LABELS)
    (loss + 0.005 * head.weight.square().sum()).backward()
    for parameter in head.parameters():
        assert parameter.grad.abs().max() < 1e-4
    before = functional.cross_entropy(pretrained.model(IMAGES), LABELS)
    assert loss < before
    assert probe.head_from == "linear_probe"
    assert "linear probe on 30 images" in probe.description
    assert "zero-shot" not in probe.description


def test_depends_on_neither_the_old_head_nor_the_batch_size(tmp_path, rng_untouched):
    folder = str(FOLDERS["timm"](tmp_path))
    with rng_untouched():
        probes = [
            linear_probe_head(load_pretrained(folder, CLASSES, seed=size), DATA, batch_size=size)
            for size in (30, 30, 11)
        ]
    states = [probe.model.state_dict() for probe in probes]
    for name, value in states[0].items():
        torch.testing.assert_close(states[2][name], value, atol=1e-3, rtol=1e-3)
    probes = [linear_probe_head(load_pretrained(folder, CLASSES), DATA) for _ in range(2)]
    first, again = (probe.model.state_dict() for probe in probes)
    torch.testing.assert_close(first, again, atol=0, rtol=0)


def test_leaves_the_pretrained_model_and_the_body_alone(tmp_path):
    pretrained = load_pretrained(str(FOLDERS["timm"](tmp_path)), CLASSES)
    before = {name: value.clone() for name, value in pretrained.model.state_dict().items()}
    probe = linear_probe_head(pretrained, DATA)
    torch.testing.assert_close(dict(pretrained.model.state_dict()), before, atol=0, rtol=0)
    for name, value in probe.model.state_dict().items():
        assert torch.equal(value, before[name]) is not name.startswith("head."), name
    assert not pretrained.model.head._forward_pre_hooks
    assert not probe.model.head._forward_pre_hooks


def test_bad_options_are_refused(tmp_path):
    pretrained = load_pretrained(f"hf:{hf_vit(tmp_path, CLASSES)}", CLASSES)
    with pytest.raises(ConfigError, match="penalty=-1"):
        linear_probe_head(pretrained, DATA, penalty=-1)
