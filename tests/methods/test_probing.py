import pytest
import torch
from small_models import Run, cnn, copied, difference, vit
from torch import nn
from toy_benchmark import toy_pretrained

from gmixout.errors import ConfigError
from gmixout.methods import get_method


def test_a_linear_probe_moves_the_head_alone():
    model = cnn()
    run = Run("linear_probe", model, weight_decay=0.1).steps(3)
    assert not any(module.training for module in model.modules())
    moved = difference(run.finetuning.detach().state_dict(), cnn().state_dict())
    assert moved == {"head.weight", "head.bias"}  # no running statistics
    assert all(module.training for module in model.modules())


def test_the_rate_of_a_linear_probe_is_lr():
    (group,) = (
        get_method("linear_probe")
        .start(toy_pretrained(vit()), 0)
        .param_groups(lr=0.5, head_lr=0.25)
    )
    assert group["lr"] == 0.5


def test_lp_ft_probes_and_then_trains_everything():
    model = cnn()
    run = Run(get_method("lp_ft", probe_steps=3), model, weight_decay=0.1).steps(3)
    probed = copied(run.finetuning.snapshot())
    assert difference(probed, cnn().state_dict()) == {"head.weight", "head.bias"}
    assert all(module.training for module in model.modules())
    run.steps(1)
    assert difference(probed, run.finetuning.snapshot()) == set(probed)


def test_the_probe_of_lp_ft_is_the_linear_probe():
    lp_ft = Run(get_method("lp_ft", probe_steps=3), cnn(), lr=0.02).steps(3)
    probe = Run("linear_probe", cnn(), lr=0.01).steps(3)  # a run's head_lr is lr / 2
    assert difference(lp_ft.finetuning.snapshot(), probe.finetuning.snapshot()) == set()


def test_lp_ft_without_probing_is_full_finetuning():
    lp_ft = Run(get_method("lp_ft", probe_steps=0), cnn()).steps(3)
    full = Run("full", cnn()).steps(3)
    assert difference(lp_ft.finetuning.snapshot(), full.finetuning.snapshot()) == set()


def test_what_was_frozen_stays_frozen():
    for method in (get_method("lp_ft", probe_steps=1), get_method("linear_probe")):
        model = cnn()
        model.hidden.requires_grad_(False)
        run = Run(method, model).steps(3)
        after = run.finetuning.detach()
        assert torch.equal(after.hidden.weight, cnn().hidden.weight)
        frozen = {name for name, p in after.named_parameters() if not p.requires_grad}
        assert frozen == {"hidden.weight", "hidden.bias"}


@pytest.mark.parametrize("name", ["linear_probe", "lp_ft"])
def test_a_model_without_a_head_is_refused(name):
    headless = nn.Sequential(nn.Conv2d(4, 4, 3))
    with pytest.raises(ConfigError, match=rf"{name} trains the classifier.*has none.*head=\(\)"):
        get_method(name).start(toy_pretrained(headless, head=()), 0)
    frozen = cnn()
    frozen.head.requires_grad_(False)
    with pytest.raises(ConfigError, match="unfreeze"):
        get_method(name).start(toy_pretrained(frozen), 0)
    assert all(p.requires_grad for p in headless.parameters())
